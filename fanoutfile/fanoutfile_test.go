package fanoutfile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanoutfile"
)

func TestRead_TheExampleFileIsAccepted(t *testing.T) {
	key := filepath.Join(t.TempDir(), "crm_key")
	require.NoError(t, os.WriteFile(key, []byte("k-1\n"), 0o600))
	document, err := os.ReadFile("../testdata/targets.json")
	require.NoError(t, err)
	t.Setenv("EMAIL_TOKEN", "t-1")
	config, err := fanoutfile.Read(strings.NewReader(strings.ReplaceAll(string(document), "/run/secrets/crm_key", key)))
	require.NoError(t, err)

	assert.Equal(t, fanout.Config{
		Defaults: fanout.Policy{Timeout: 5 * time.Second, AttemptTimeout: 2 * time.Second},
		Targets: []fanout.Target{
			{
				Name: "email", URL: "https://email.example/v1/messages",
				Header: http.Header{"Authorization": {"Bearer t-1"}},
				Policy: fanout.Policy{RateLimit: fanout.RateLimit{PerSecond: 50}},
			},
			{
				Name: "crm", URL: "https://crm.example/contacts", Method: http.MethodPut,
				Header: http.Header{"X-Api-Key": {"k-1"}, "Accept": {"application/json", "application/problem+json"}},
				Policy: fanout.Policy{
					Retry:   fanout.Retry{MaxAttempts: 5, InitialBackoff: 200 * time.Millisecond},
					Breaker: fanout.Breaker{OpenFor: 30 * time.Second},
				},
			},
			{
				Name: "analytics", URL: "https://analytics.example/events", Optional: true,
				Policy: fanout.Policy{AttemptTimeout: 500 * time.Millisecond, Bulkhead: fanout.Bulkhead{MaxConcurrent: 16}},
			},
		},
	}, config)
	_, err = fanout.New(config)
	require.NoError(t, err)
}

// A field that is added to Target or Policy can be set in files, or must be named here.
func TestRead_KnowsEveryFieldThatHoldsData(t *testing.T) {
	notData := []string{"Auth", "Sign", "Transport", "Sender", "Validate", "Prepare", "Classify"}
	var left []string
	check := func(owner reflect.Type, field, member string, load func(fanout.Config) any) {
		config, err := fanoutfile.Read(strings.NewReader(`{"targets":[{` + member + `}]}`))
		if err != nil {
			left = append(left, field)
			return
		}
		assert.NotZero(t, load(config), "%v.%s", owner, field)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[fanout.Target]()) {
		if f.Anonymous {
			continue
		}
		in := func(c fanout.Config) reflect.Value { return reflect.ValueOf(c.Targets[0]).FieldByIndex(f.Index) }
		if f.Type.Kind() != reflect.Struct {
			check(reflect.TypeFor[fanout.Target](), f.Name, sample(f), func(c fanout.Config) any { return in(c).Interface() })
			continue
		}
		for _, inner := range reflect.VisibleFields(f.Type) {
			member := fmt.Sprintf("%q:{%s}", snake(f.Name), sample(inner))
			check(f.Type, inner.Name, member, func(c fanout.Config) any { return in(c).FieldByIndex(inner.Index).Interface() })
		}
	}
	assert.ElementsMatch(t, notData, left)
}

// snake returns a field's name as it is in files: MaxAttempts is max_attempts.
func snake(name string) string {
	return strings.ToLower(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(name, "${1}_${2}"))
}

// sample returns a valid JSON value for the field.
func sample(f reflect.StructField) string {
	value := `1`
	switch {
	case f.Type == reflect.TypeFor[time.Duration]():
		value = `"1s"`
	case f.Type.Kind() == reflect.String:
		value = `"x"`
	case f.Type.Kind() == reflect.Bool:
		value = `true`
	case f.Type == reflect.TypeFor[[]string]():
		value = `["x"]`
	case f.Type == reflect.TypeFor[[]fanout.Outcome]():
		value = `["failed"]`
	case f.Type == reflect.TypeFor[[]fanout.Target]():
		value = `[{"name":"x"}]`
	case f.Type.Kind() == reflect.Pointer:
		value = `{}`
	case f.Type.Kind() == reflect.Slice:
		value = `[503]`
	case f.Type.Kind() == reflect.Map:
		value = `{"X-A":"b"}`
	}
	return fmt.Sprintf("%q:%s", snake(f.Name), value)
}

func TestRead_RefusesWhatCannotBeMeantWithItsPlace(t *testing.T) {
	for _, test := range []struct{ document, want string }{
		{``, `1:1: the document ends too early`},
		{`{`, `1:2: the document ends too early`},
		{`{"targets": [{"header": {"A":`, `1:30: targets[0].header.A: the document ends too early`},
		{`[]`, `1:1: must be an object`},
		{`null`, `1:1: null: leave it out instead`},
		{`{} {}`, `1:4: something follows the document`},
		{`{"targets": [}`, `1:14: targets: invalid character '}' looking for beginning of value`},
		{"{\n  \"target\": []\n}", `2:3: target: unknown field; did you mean "targets"?`},
		{`{"transport": 1}`, `1:2: transport: is set in code, not in a file`},
		{`{"targets": {}}`, `1:13: targets: must be a list`},
		{`{"targets": [1]}`, `1:14: targets[0]: 1: must be an object`},
		{`{"targets": [{"name": "a"}, {"name": 7}]}`, `1:38: targets[1].name: 7: must be a string`},
		{`{"targets": [{"name": "a", "name": "b"}]}`, `1:28: targets[0].name: given twice`},
		{`{"targets": [{"Name": "a"}]}`, `1:15: targets[0].Name: unknown field; did you mean "name"?`},
		{`{"targets": [{"retry": {"maxAttempts": 1}}]}`, `1:25: targets[0].retry.maxAttempts: unknown field; did you mean "max_attempts"?`},
		{`{"targets": [{"retry": {"max_attempts": 1.5}}]}`, `1:41: targets[0].retry.max_attempts: 1.5: must be a whole number`},
		{`{"targets": [{"retry": {"max_attempts": 99999999999999999999}}]}`, `1:41: targets[0].retry.max_attempts: 99999999999999999999: must be a whole number`},
		{`{"targets": [{"retry": {"multiplier": 1e999}}]}`, `1:39: targets[0].retry.multiplier: 1e999: must be a number`},
		{`{"targets": [{"retry": {"jitter": "1"}}]}`, `1:35: targets[0].retry.jitter: must be a number`},
		{`{"targets": [{"retry": {"statuses": [503, true]}}]}`, `1:43: targets[0].retry.statuses[1]: must be a whole number`},
		{`{"targets": [{"timeout": 2}]}`, `1:26: targets[0].timeout: 2: must be a duration such as "2s" or "1m30s"`},
		{`{"targets": [{"timeout": "2"}]}`, `1:26: targets[0].timeout: "2" is not a duration such as "2s" or "1m30s"`},
		{`{"targets": [{"optional": "yes"}]}`, `1:27: targets[0].optional: must be true or false`},
		{`{"targets": [{"header": []}]}`, `1:25: targets[0].header: must be an object`},
		{`{"targets": [{"header": {"A": 1}}]}`, `1:31: targets[0].header.A: 1: must be a string or a list of strings`},
		{`{"targets": [{"header": {"A\nB": 1}}]}`, `1:34: targets[0].header["A\nB"]: 1: must be a string or a list of strings`},
		{`{"targets": [{"auth": "x"}]}`, `1:15: targets[0].auth: is set in code, not in a file`},
		{`{"targets": [{"name": "\ud800"}]}`, `1:23: targets[0].name: has U+FFFD, which stands for a character that was lost, or half of a \u pair`},
		{`{"` + strings.Repeat("x", 100) + `": 1}`, `1:2: ["` + strings.Repeat("x", 40) + `"]: unknown field; known are defaults, max_payload_bytes, targets`},
		{strings.Repeat("[", 1<<19), `1:1: must be an object`},
		{`{"targets": [{"header": {"A": ["x", null]}}]}`, `1:37: targets[0].header.A[1]: null: leave it out instead`},
		{"{\"targets\": [{\"name\": \"\xff\"}]}", `1:24: not UTF-8`},
		{`{"targets": [{"name": "${env:HOME}"}]}`, `1:23: targets[0].name: references are allowed only in url and header; write $${ for ${ itself`},
		{`{"targets": [{"url": "${env:FANOUT_UNSET}"}]}`, `1:22: targets[0].url: environment variable "FANOUT_UNSET" is not set, or empty`},
		{`{"targets": [{"url": "${vault:x}"}]}`, `1:22: targets[0].url: unknown reference "${vault:x}": write ${env:NAME} or ${file:/path}`},
		{`{"targets": [{"url": "https://x/${env:"}]}`, `1:22: targets[0].url: reference without a closing brace; write $${ for ${ itself`},
		{`{"targets": [{"header": {"A": "${file:/nowhere/at/all}"}}]}`, `1:31: targets[0].header.A: /nowhere/at/all: no such file or directory`},
		{`{"targets": [{"header": {"A": "${file:/dev/null}"}}]}`, `1:31: targets[0].header.A: /dev/null: not a regular file`},
	} {
		_, err := fanoutfile.Read(strings.NewReader(test.document))
		require.EqualError(t, err, "fanout: "+test.want, test.document)
		require.ErrorIs(t, err, fanout.ErrInvalid)
		require.NotErrorIs(t, err, fs.ErrNotExist, "only the file itself can be missing")
	}
}

func TestRead_ReferencesStandForWhatTheyName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte("from ${env:X} file\r\n\n"), 0o600))
	t.Setenv("FANOUT_A", "a")
	t.Setenv("FANOUT_B", "${env:FANOUT_A}")
	for reference, want := range map[string]string{
		"plain":                            "plain",
		"${env:FANOUT_A}":                  "a",
		"x ${env:FANOUT_A}${env:FANOUT_A}": "x aa",
		"${env:FANOUT_B}":                  "${env:FANOUT_A}",
		"${file:" + path + "}":             "from ${env:X} file",
		"$${env:FANOUT_A}":                 "${env:FANOUT_A}",
		"$$${":                             "$${",
		"$5 {x} $":                         "$5 {x} $",
	} {
		config, err := fanoutfile.Read(strings.NewReader(fmt.Sprintf(`{"targets": [{"header": {"X-A": [%q]}}]}`, reference)))
		require.NoError(t, err)
		assert.Equal(t, want, config.Targets[0].Header.Get("X-A"), reference)
	}
}

func TestRead_WhatAReferenceHoldsIsInNoError(t *testing.T) {
	const secret = "s3cr3t"
	t.Setenv("FANOUT_SECRET", secret+"\x7f/%zz://")
	large := filepath.Join(t.TempDir(), "large")
	require.NoError(t, os.WriteFile(large, []byte(strings.Repeat("x", 64<<10)+"\n"+secret), 0o600))
	for _, target := range []string{
		`{"name": "a", "url": "${env:FANOUT_SECRET}"}`,
		`{"name": "a", "url": "https://a.example/${env:FANOUT_SECRET}"}`,
		`{"name": "a", "url": "https://a.example", "header": {"X-A": "${env:FANOUT_SECRET}"}}`,
		`{"name": "a", "url": "https://a.example", "header": {"X-A": "${file:` + large + `}"}}`,
	} {
		config, err := fanoutfile.Read(strings.NewReader(`{"targets": [` + target + `]}`))
		if err == nil {
			_, err = fanout.New(config)
		}
		require.ErrorIs(t, err, fanout.ErrInvalid, target)
		assert.NotContains(t, err.Error(), secret)
	}
}

func TestLoad_NamesTheFileInErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "targets.json")
	require.NoError(t, os.WriteFile(path, []byte("{\n\"x\": 1}"), 0o600))
	_, err := fanoutfile.Load(path)
	require.EqualError(t, err, "fanout: "+path+":2:1: x: unknown field; known are defaults, max_payload_bytes, targets")

	_, err = fanoutfile.Load(filepath.Join(t.TempDir(), "none.json"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = fanoutfile.Load(t.TempDir())
	require.ErrorContains(t, err, "is a directory")
}

func TestLoad_ClosesTheFile(t *testing.T) {
	open := func() int {
		all, err := os.ReadDir("/dev/fd")
		if err != nil {
			t.Skip("SKIPPED: this system does not list open files")
		}
		return len(all)
	}
	path := filepath.Join(t.TempDir(), "targets.json")
	require.NoError(t, os.WriteFile(path, []byte("{}"), 0o600))
	before := open()
	for range 20 {
		_, err := fanoutfile.Load(path)
		require.NoError(t, err)
	}
	assert.Equal(t, before, open())
}

func TestRead_PassesOverAByteOrderMark(t *testing.T) {
	config, err := fanoutfile.Read(strings.NewReader("\ufeff" + `{"targets": [{"name": "a"}]}`))
	require.NoError(t, err)
	require.Equal(t, "a", config.Targets[0].Name)
}

func TestRead_IsBounded(t *testing.T) {
	_, err := fanoutfile.Read(strings.NewReader(`{"targets": [` + strings.Repeat(" ", 1<<20) + `]}`))
	require.EqualError(t, err, "fanout: longer than 1048576 bytes")
	_, err = fanoutfile.Read(strings.NewReader(`{"targets": [` + strings.Repeat(" ", 1<<20-15) + `]}`))
	require.NoError(t, err, "exactly as long as it may be")
	_, err = fanoutfile.Read(brokenReader{})
	require.ErrorIs(t, err, errBroken)
}

// errBroken is what a brokenReader returns.
var errBroken = errors.New("broken")

// brokenReader is a file that cannot be read.
type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

func FuzzRead(f *testing.F) {
	example, err := os.ReadFile("../testdata/targets.json")
	require.NoError(f, err)
	f.Add(string(example))
	f.Add(`{"targets": [{"name": "a", "url": "https://a.example", "header": {"A": "$${x"}}]}`)
	f.Add(`{"defaults": {"retry": {"statuses": [503], "jitter": 1e-3}}}`)
	f.Fuzz(func(t *testing.T, document string) {
		if strings.Contains(strings.ReplaceAll(document, "$${", ""), "${") || strings.Contains(document, `\u`) {
			t.Skip("it would read this machine's files")
		}
		config, err := fanoutfile.Read(strings.NewReader(document))
		if err == nil {
			_, err = fanout.New(config)
		}
		if err != nil {
			require.ErrorIs(t, err, fanout.ErrInvalid)
		}
	})
}
