package watchfile_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/internal/watchfile"
)

func TestGet_ReturnsTheLastGoodValue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "word")
	write := func(content string) { require.NoError(t, os.WriteFile(path, []byte(content), 0o600)) }
	synctest.Test(t, func(t *testing.T) {
		parsed := 0
		file := watchfile.New(path, func(content []byte) (string, error) {
			parsed++
			if len(content) == 0 {
				return "", errors.New("empty")
			}
			return string(content), nil
		})
		get := func() string {
			word, err := file.Get()
			require.NoError(t, err)
			return word
		}
		write("")
		_, err := file.Get()
		require.EqualError(t, err, path+": empty")
		write("first")
		assert.Equal(t, "first", get(), "a file that was never good is looked at each time")
		write("")
		assert.Equal(t, "first", get(), "looked at once a second")
		time.Sleep(time.Second)
		assert.Equal(t, "first", get(), "the last good value")
		write("second")
		time.Sleep(time.Second)
		assert.Equal(t, "second", get())
		time.Sleep(time.Second)
		assert.Equal(t, "second", get())
		assert.Equal(t, 4, parsed, "parsed only when it has changed")
	})
}

func TestGet_SaysWhyThereIsNoValue(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{dir: "not a regular file", filepath.Join(dir, "none"): "no such file or directory"} {
		_, err := watchfile.New(path, func([]byte) (string, error) { return "x", nil }).Get()
		require.EqualError(t, err, path+": "+want)
	}
}

func TestRead_TakesSmallRegularFilesOnly(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "large")
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("x"), 64<<10), 0o600))
	content, err := watchfile.Read(path)
	require.NoError(t, err)
	assert.Len(t, content, 64<<10)
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("x"), 64<<10+1), 0o600))
	_, err = watchfile.Read(path)
	require.EqualError(t, err, "longer than 65536 bytes")
	_, err = watchfile.Read(dir)
	require.EqualError(t, err, "not a regular file")
	_, err = watchfile.Read(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestRead_ClosesTheFile(t *testing.T) {
	open := func() int {
		all, err := os.ReadDir("/dev/fd")
		if err != nil {
			t.Skip("SKIPPED: this system does not list open files")
		}
		return len(all)
	}
	path := filepath.Join(t.TempDir(), "word")
	require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
	before := open()
	for range 20 {
		_, err := watchfile.Read(path)
		require.NoError(t, err)
	}
	assert.Equal(t, before, open())
}
