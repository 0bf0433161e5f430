package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"sync"
	"text/tabwriter"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouthttp"
)

func readPayload(path string) ([]byte, error) {
	payload, err := os.ReadFile(path) //nolint:gosec // the user names the file
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: run from the repository's root, or name a sign-up with -payload FILE", err)
	}
	return payload, err
}

// demo signs up once.
func demo(ctx context.Context, url string, payload []byte, stdout io.Writer) (fanouthttp.Report, error) {
	fmt.Fprintf(stdout, "POST %s\n", url)
	status, report, err := postSignUp(ctx, url, payload)
	if err != nil {
		return report, err
	}
	fmt.Fprintf(stdout, "%d %s, correlation ID %s\n\n", status, http.StatusText(status), report.CorrelationID)
	return report, nil
}

// results holds the result of each target, with the errors. The service does not tell its
// callers these errors.
type results struct {
	mu  sync.Mutex
	all fanout.Results
}

func (r *results) add(_ context.Context, result fanout.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[result.Target] = result
}

func postSignUp(ctx context.Context, url string, payload []byte) (int, fanouthttp.Report, error) {
	var report fanouthttp.Report
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(payload))
	if err != nil {
		return 0, report, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, report, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, report, err
	}
	if resp.StatusCode/100 == 4 {
		return 0, report, fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(body))
	}
	return resp.StatusCode, report, json.Unmarshal(body, &report)
}

// writeTable shows the error of each target's first attempt. It is the reason for a
// second attempt.
func writeTable(w io.Writer, report fanouthttp.Report, results fanout.Results) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "TARGET\tOUTCOME\tSTATUS\tATTEMPTS\tDURATION\tFIRST ATTEMPT")
	for _, t := range report.Targets {
		status := "-"
		if t.StatusCode != 0 {
			status = strconv.Itoa(t.StatusCode)
		}
		first := "-"
		if attempts := results[t.Target].Attempts; len(attempts) > 0 {
			first = "ok"
			if err := attempts[0].Err; err != nil {
				first = err.Error()
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d ms\t%s\n", t.Target, t.Outcome, status, t.Attempts, t.DurationMS, first)
	}
	return table.Flush()
}

func failures(r fanouthttp.Report) error {
	var errs []error
	for _, t := range r.Targets {
		if !t.Optional && t.Outcome != fanout.Delivered {
			errs = append(errs, fmt.Errorf("required target %s: %s", t.Target, t.Outcome))
		}
	}
	return errors.Join(errs...)
}
