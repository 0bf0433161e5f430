package usage_test

import (
	"bytes"
	"errors"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/internal/usage"
)

func TestParse_TellsHelpFromWrongUsage(t *testing.T) {
	for _, test := range []struct {
		args   []string
		status int
		says   string // how the output begins
	}{
		{nil, 0, ""},
		{[]string{"-n", "3"}, 0, ""},
		{[]string{"-h"}, 0, "usage: count [flags]\n\nCounts.\n\n  -n int\n"},
		{[]string{"-x"}, 2, "flag provided but not defined: -x\nusage: count"},
		{[]string{"-n", "many"}, 2, `invalid value "many" for flag -n`},
		{[]string{"stray"}, 2, "unexpected argument \"stray\"\nusage: count"},
		{[]string{"-n", "3", "stray", "more"}, 2, "unexpected argument \"stray\"\nusage: count"},
	} {
		var stderr bytes.Buffer
		flags := usage.Flags("count", "Counts.", &stderr)
		flags.Int("n", 1, "how often")
		err := usage.Parse(flags, test.args)
		assert.Equal(t, test.status, usage.Status("count", err, &stderr), test.args)
		if test.says == "" {
			assert.Empty(t, stderr.String(), test.args)
		}
		assert.Regexp(t, "^"+regexp.QuoteMeta(test.says), stderr.String(), test.args)
	}
}

func TestFlags_WithoutAnyFlag(t *testing.T) {
	var stderr bytes.Buffer
	flags := usage.Flags("count", "Counts.", &stderr)
	require.Error(t, usage.Parse(flags, []string{"-h"}))
	assert.Equal(t, "usage: count\n\nCounts.\n", stderr.String())
}

func TestStatus_NamesTheProgram(t *testing.T) {
	var stderr bytes.Buffer
	assert.Equal(t, 1, usage.Status("count", errors.New("lost count"), &stderr))
	assert.Equal(t, "count: lost count\n", stderr.String())
}
