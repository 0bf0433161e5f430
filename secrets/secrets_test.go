package secrets_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gocloud.dev/runtimevar"
	"gocloud.dev/runtimevar/constantvar"
	_ "gocloud.dev/runtimevar/filevar"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/auth"
	"github.com/fanout-go/fanout/fanouttest"
	"github.com/fanout-go/fanout/secrets"
)

func TestSource_IsRotatedWhileTheServiceRuns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, []byte("first"), 0o600))
	key, err := secrets.Open(t.Context(), (&url.URL{Scheme: "file", Path: file, RawQuery: "decoder=string"}).String())
	require.NoError(t, err)
	defer key.Close()
	api := fanouttest.NewMemoryTarget(t, fanouttest.Status(200))
	target := api.Target("crm")
	target.Auth = auth.Bearer(key)
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
	require.NoError(t, err)
	defer d.Close(t.Context())

	sent := func() string {
		_, err := d.Dispatch(t.Context(), "hello")
		require.NoError(t, err)
		requests := api.Requests()
		return requests[len(requests)-1].Header.Get("Authorization")
	}
	require.Equal(t, "Bearer first", sent())
	require.NoError(t, os.WriteFile(file, []byte("second"), 0o600))
	for deadline := time.Now().Add(time.Minute); sent() != "Bearer second"; time.Sleep(20 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "never rotated")
	}
}

func TestOpen_ErrorHasNothingOfTheURLThatIsSecret(t *testing.T) {
	for _, address := range []string{"vault://s3cr3t@vault.example/key?decoder=string", "file:///none?token=s3cr3t", "file:///none?a=\"s3cr3t",
		"etcd://user:pa/s3cr3t@host/key", "etcd://user:s3cr3t x@host/key", "http://user:\"s3cr3t@h/k", "nowhere://host/key?a=\"s3cr3t", "x:s3cr3t@host"} {
		source, err := secrets.Open(t.Context(), address)
		if err == nil {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			_, err = source.Secret(ctx)
			require.NoError(t, source.Close())
		}
		require.Error(t, err)
		assert.NotContains(t, err.Error(), "s3cr3t")
	}
}

func TestSource_TakesTextAndBytesOnly(t *testing.T) {
	for value, want := range map[any]string{"text": "text", 7: ""} {
		source := secrets.New(constantvar.New(value))
		secret, err := source.Secret(t.Context())
		if want == "" {
			require.EqualError(t, err, "secrets: the decoder must be string or bytes")
		} else {
			require.NoError(t, err)
			assert.Equal(t, want, secret.Reveal())
		}
		require.NoError(t, source.Close())
	}
	source := secrets.New(constantvar.NewBytes([]byte("raw"), runtimevar.NewDecoder([]byte(nil), runtimevar.BytesDecode)))
	defer source.Close()
	secret, err := source.Secret(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "raw", secret.Reveal())
}

func TestOpen_SaysWhyItCannot(t *testing.T) {
	_, err := secrets.Open(t.Context(), "nowhere://key")
	require.ErrorContains(t, err, "secrets: ")
}
