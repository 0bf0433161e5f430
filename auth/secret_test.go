package auth_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/auth"
)

func TestSecret_ShowsItselfToNobody(t *testing.T) {
	secret := auth.NewSecret("s3cr3t")
	holder := struct {
		Key    auth.Secret
		Also   *auth.Secret
		Any    any
		hidden auth.Secret
		List   []auth.Secret
		ByName map[string]auth.Secret
	}{secret, &secret, secret, secret, []auth.Secret{secret}, map[string]auth.Secret{"a": secret}}
	var shown bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%10s", "%t"} {
		fmt.Fprintf(&shown, verb+"\n", secret)
		fmt.Fprintf(&shown, verb+"\n", &secret)
		fmt.Fprintf(&shown, verb+"\n", holder.List)
		fmt.Fprintf(&shown, verb+"\n", holder.ByName)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		exported := holder
		exported.hidden = auth.Secret{} // fmt cannot call methods of what is not exported
		fmt.Fprintf(&shown, verb+"\n", exported)
	}
	encoded, err := json.Marshal(holder)
	require.NoError(t, err)
	shown.Write(encoded)
	slog.New(slog.NewJSONHandler(&shown, nil)).Info("x", "key", secret, "holder", holder, "pointer", &secret)
	text := slog.New(slog.NewTextHandler(&shown, nil))
	text.Info("x", "key", secret, "pointer", &secret)
	fmt.Fprintln(&shown, fmt.Errorf("with %w %v", os.ErrExist, secret), secret.String(), secret.GoString())
	func() {
		defer func() { fmt.Fprint(&shown, recover()) }()
		panic(secret)
	}()
	assert.NotContains(t, shown.String(), "s3cr3t")
	assert.NotContains(t, shown.String(), fmt.Sprintf("%x", "s3cr3t"))
	assert.Equal(t, "s3cr3t", secret.Reveal())
	assert.False(t, secret.IsZero())
}

func TestSecret_IsRedactedInLogsAndJSON(t *testing.T) {
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", auth.NewSecret("s3cr3t"))
	assert.Contains(t, log.String(), "key=[redacted]")
	encoded, err := json.Marshal(auth.NewSecret("s3cr3t"))
	require.NoError(t, err)
	assert.Equal(t, `"[redacted]"`, string(encoded))
	assert.Equal(t, "[redacted]", auth.NewSecret("s3cr3t").GoString())
}

func TestSecret_ZeroValueIsEmpty(t *testing.T) {
	var none auth.Secret
	assert.True(t, none.IsZero())
	assert.Empty(t, none.Reveal())
	assert.Equal(t, "[redacted]", none.String(), "not even that it is empty is shown")
}

func TestSecret_IsHiddenInAFieldThatIsNotExported(t *testing.T) {
	holder := struct{ hidden auth.Secret }{auth.NewSecret("s3cr3t")}
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v", holder, holder, &holder), "s3cr3t")
}

func TestSecret_IsReadFromConfiguration(t *testing.T) {
	var config struct{ Key auth.Secret }
	require.NoError(t, json.Unmarshal([]byte(`{"Key":"s3cr3t"}`), &config))
	assert.Equal(t, "s3cr3t", config.Key.Reveal())
}

func TestEnv_IsLookedUpWhenNeeded(t *testing.T) {
	source := auth.Env("FANOUT_TEST_KEY")
	_, err := source.Secret(t.Context())
	require.EqualError(t, err, `environment variable "FANOUT_TEST_KEY" is not set, or empty`)
	t.Setenv("FANOUT_TEST_KEY", "rotated")
	secret, err := source.Secret(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "rotated", secret.Reveal())
}

func TestFile_HasAtLeastOneByteBesideLineEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(path, []byte("\r\n\n"), 0o600))
	_, err := auth.File(path).Secret(t.Context())
	require.EqualError(t, err, path+": empty")
	require.NoError(t, os.WriteFile(path, []byte("k\r\n"), 0o600))
	secret, err := auth.File(path).Secret(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "k", secret.Reveal())
}

func TestFile_IsReadAgainWhenItChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	write := func(content string) { require.NoError(t, os.WriteFile(path, []byte(content), 0o600)) }
	read := func(source auth.SecretSource) string {
		secret, err := source.Secret(t.Context())
		require.NoError(t, err)
		return secret.Reveal()
	}
	_, err := auth.File(path).Secret(t.Context())
	require.EqualError(t, err, path+": no such file or directory")
	write("first\n")
	synctest.Test(t, func(*testing.T) {
		source := auth.File(path)
		assert.Equal(t, "first", read(source))
		write("the second\n")
		assert.Equal(t, "first", read(source), "looked at once a second")
		time.Sleep(time.Second)
		assert.Equal(t, "the second", read(source))
		was, err := os.Stat(path)
		require.NoError(t, err)
		swapped := filepath.Join(filepath.Dir(path), "new")
		require.NoError(t, os.WriteFile(swapped, []byte("the latest\n"), 0o600))
		require.NoError(t, os.Chtimes(swapped, was.ModTime(), was.ModTime()))
		require.NoError(t, os.Rename(swapped, path))
		time.Sleep(time.Second)
		assert.Equal(t, "the latest", read(source), "another file, though as long and as old")
		require.NoError(t, os.Remove(path))
		time.Sleep(time.Second)
		assert.Equal(t, "the latest", read(source), "what it held last")
	})
}
