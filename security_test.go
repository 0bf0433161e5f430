package fanout_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestThreatModel_HasATestForEveryLine(t *testing.T) {
	model, err := os.ReadFile("SECURITY.md")
	require.NoError(t, err)
	var tests strings.Builder
	for _, pattern := range []string{"*_test.go", "*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			source, err := os.ReadFile(file)
			require.NoError(t, err)
			tests.Write(source)
		}
	}
	lines := 0
	for line := range strings.Lines(string(model)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| tries") || strings.HasPrefix(line, "| ---") {
			continue
		}
		lines++
		names := regexp.MustCompile(`\bTest\w+`).FindAllString(line, -1)
		assert.NotEmpty(t, names, line)
		for _, name := range names {
			assert.Contains(t, tests.String(), "func "+name+"(t *testing.T)")
		}
	}
	assert.Greater(t, lines, 20)
}
