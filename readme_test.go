package fanout_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every Go snippet in the README stands, line for line, in an example that runs.
func TestReadme_SnippetsStandInExamplesThatRun(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	files, err := filepath.Glob("example*_test.go")
	require.NoError(t, err)
	beside, err := filepath.Glob("*/example*_test.go")
	require.NoError(t, err)
	var examples strings.Builder
	for _, file := range append(files, beside...) {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		examples.WriteString(withoutIndent(string(source)))
	}

	snippets := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.NotEmpty(t, snippets)
	for _, snippet := range snippets {
		require.Contains(t, examples.String(), withoutIndent(snippet[1]))
	}
}

// withoutIndent is the source with every line moved to the left edge.
func withoutIndent(source string) string {
	return regexp.MustCompile(`(?m)^[ \t]+`).ReplaceAllString(source, "")
}
