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
		time.Sleep(time.Second)
		assert.Equal(t, "first", get())
		write("second")
		time.Sleep(time.Second)
		assert.Equal(t, "second", get())
		time.Sleep(time.Second)
		assert.Equal(t, "second", get())
		assert.Equal(t, 4, parsed, "parsed only when it has changed")
	})
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
