package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/fanouthttp"
	"github.com/fanout-go/fanout/fanouttest"
)

const argsVariable = "SIGNUP_TEST_ARGS" // makes the test binary the program itself

func TestMain(m *testing.M) {
	if args := os.Getenv(argsVariable); args != "" {
		os.Args = append(os.Args[:1], strings.Fields(args)...)
		main()
		return
	}
	os.Exit(m.Run())
}

func TestUnderLoadSIGTERMLosesNothingThatWasAccepted(t *testing.T) {
	email := fanouttest.NewTarget(t, fanouttest.Delay(20*time.Millisecond, fanouttest.Status(202)))
	file := filepath.Join(t.TempDir(), "targets.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"targets": [{"name": "email", "url": "`+email.URL()+`"}]}`), 0o600))

	service := exec.Command(os.Args[0])
	service.Env = append(os.Environ(), argsVariable+"=-serve -submit -addr 127.0.0.1:0 -targets "+file)
	var stderr bytes.Buffer
	service.Stderr = &stderr
	stdout, err := service.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, service.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	url := strings.TrimSuffix(strings.Fields(line)[2], ";")

	var mu sync.Mutex
	accepted := map[string]bool{}
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for {
				id, ok := signUpAt(t.Context(), url)
				if !ok {
					return
				}
				mu.Lock()
				accepted[id] = true
				mu.Unlock()
			}
		})
	}
	require.NoError(t, email.Wait(t.Context(), 100))
	require.NoError(t, service.Process.Signal(syscall.SIGTERM))
	callers.Wait()
	require.NoError(t, service.Wait(), stderr.String())

	for _, r := range email.Requests() {
		id, _, _ := strings.Cut(r.IdempotencyKey(), ":")
		delete(accepted, id)
	}
	assert.Empty(t, accepted, "accepted and not delivered")
}

// signUpAt returns the dispatch's ID. It reports false if the service accepts no more.
func signUpAt(ctx context.Context, url string) (id string, ok bool) {
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(ada))
		if err != nil {
			return "", false
		}
		r.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return "", false
		}
		var report fanouthttp.Report
		err = json.NewDecoder(answer.Body).Decode(&report)
		_ = answer.Body.Close()
		switch {
		case err != nil:
			return "", false
		case answer.StatusCode == http.StatusAccepted:
			return report.DispatchID, true
		case answer.StatusCode != http.StatusServiceUnavailable:
			return "", false
		}
		time.Sleep(5 * time.Millisecond) // it asks to try again
	}
}
