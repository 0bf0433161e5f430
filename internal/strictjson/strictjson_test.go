package strictjson_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/internal/strictjson"
)

type limits struct {
	MaxAttempts int
	Share       float64
}

// menu has a field of each kind that a document can set.
type menu struct {
	embedded

	Name     string
	Open     bool
	Wait     time.Duration
	Size     uint8
	Tiny     int8
	Level    level
	Tags     []string
	ByName   map[string][]string
	Limits   limits
	Lists    []limits
	Inner    *menu
	Callback func()
	Hook     *hook
	HTTPPort int
	hidden   string //nolint:unused // a document must not set it
}

type embedded struct{ Embedded string }

// hook has no field that a document could set.
type hook struct {
	Call func()
	Next *hook
}

// level is read by its UnmarshalText.
type level int

func (l *level) UnmarshalText(text []byte) error {
	if string(text) != "high" {
		return errors.New("no such level")
	}
	*l = 7
	return nil
}

// decode replaces $ by the path of the string. It refuses the word "bad".
func decode(document string) (menu, error) {
	var m menu
	err := strictjson.Decode([]byte(document), &m, func(path, s string) (string, error) {
		if s == "bad" {
			return "", errors.New("bad word")
		}
		return strings.ReplaceAll(s, "$", path), nil
	})
	return m, err
}

func TestDecode_SetsFieldsOfEveryKind(t *testing.T) {
	got, err := decode("\ufeff" + `{
		"embedded": "e", "name": "$", "open": true, "wait": "1m30s", "size": 255, "tiny": -128, "level": "high",
		"tags": "$", "by_name": {"a b": ["$", "x"], "c": "$"}, "limits": {"max_attempts": 3, "share": 0.5},
		"lists": [{"max_attempts": 1}, {}], "inner": {"tags": ["$"]}, "httpport": 80
	} `)
	require.NoError(t, err)
	assert.Equal(t, menu{
		embedded: embedded{"e"}, Name: "name", Open: true, Wait: 90 * time.Second, Size: 255, Tiny: -128, Level: 7,
		Tags: []string{"tags"}, ByName: map[string][]string{"a b": {`by_name["a b"][0]`, "x"}, "c": {"by_name.c"}}, Limits: limits{3, 0.5},
		Lists: []limits{{MaxAttempts: 1}, {}}, Inner: &menu{Tags: []string{"inner.tags[0]"}}, HTTPPort: 80,
	}, got)
}

func TestDecode_SaysWhereAMistakeIs(t *testing.T) {
	long := strings.Repeat("x", 64)
	for _, test := range []struct{ document, want string }{
		{"", "1:1: the document ends too early"},
		{"{\n  \"name\": ", "2:11: name: the document ends too early"},
		{"{\n\"name\": \"\xff\"}", "2:10: not UTF-8"},
		{"\xff", "1:1: not UTF-8"},
		{`{"name": "a"} x`, "1:15: something follows the document"},
		{`{"name": tru}`, "1:10: name: invalid character '}' in literal true (expecting 'e')"},
		{`{"name": "` + long + `\q"}`, `1:10: name: invalid character 'q' in string escape code`},
		{`{"name" "a"}`, `1:9: name: invalid character '"' after object key`},
		{`[]`, "1:1: must be an object"},
		{`"x"`, "1:1: must be an object"},
		{`{"name": null}`, "1:10: name: null: leave it out instead"},
		{`{"name": true}`, "1:10: name: must be a string"},
		{`{"name": {}}`, "1:10: name: must be a string"},
		{`{"name": "bad"}`, "1:10: name: bad word"},
		{`{"name": "\ufffd"}`, `1:10: name: has U+FFFD, which stands for a character that was lost, or half of a \u pair`},
		{`{"name": "a", "name": "b"}`, "1:15: name: given twice"},
		{`{"open": "true"}`, "1:10: open: must be true or false"},
		{`{"wait": 90}`, `1:10: wait: 90: must be a duration such as "2s" or "1m30s"`},
		{`{"wait": "90"}`, `1:10: wait: "90" is not a duration such as "2s" or "1m30s"`},
		{`{"size": 256}`, "1:10: size: 256: must be a whole number"},
		{`{"size": "1"}`, "1:10: size: must be a whole number"},
		{`{"size": ` + long + long + `}`, "1:10: size: invalid character 'x' looking for beginning of value"},
		{`{"tiny": 128}`, "1:10: tiny: 128: must be a whole number"},
		{`{"level": "low"}`, "1:11: level: no such level"},
		{`{"tags": ["a", 1]}`, "1:16: tags[1]: 1: must be a string"},
		{`{"tags": true}`, "1:10: tags: must be a string or a list of strings"},
		{`{"tags": ["a"`, "1:14: tags: the document ends too early"},
		{`{"by_name": {"a": {}}}`, "1:19: by_name.a: must be a string or a list of strings"},
		{`{"lists": 1}`, "1:11: lists: 1: must be a list"},
		{`{"lists": [{"share": "1"}]}`, "1:22: lists[0].share: must be a number"},
		{`{"limits": {"max_attempts": 1.5}}`, "1:29: limits.max_attempts: 1.5: must be a whole number"},
		{`{"callback": 1}`, "1:2: callback: is set in code, not in a file"},
		{`{"hook": {}}`, "1:2: hook: is set in code, not in a file"},
		{`{"hidden": "x"}`, "1:2: hidden: unknown field; known are by_name, embedded, httpport, inner, level, limits, lists, name, open, size, tags, tiny, wait"},
		{`{"inner": {"Nam": "x"}}`, `1:12: inner.Nam: unknown field; did you mean "name"?`},
		{`{"limits": {"max-attempts-now": 1}}`, `1:13: limits.max-attempts-now: unknown field; did you mean "max_attempts"?`},
		{`{"limits": {"ma": 1}}`, "1:13: limits.ma: unknown field; known are max_attempts, share"},
		{`{"limits": {"` + long + `": 1}}`, "1:13: limits." + long + ": unknown field; known are max_attempts, share"},
		{`{"limits": {"` + long + `x": 1}}`, `1:13: limits["` + long[:40] + `"]: unknown field; known are max_attempts, share`},
	} {
		_, err := decode(test.document)
		require.EqualError(t, err, test.want, test.document)
	}
}

func TestError_WrapsItsCause(t *testing.T) {
	cause := errors.New("no")
	var m menu
	err := strictjson.Decode([]byte(`{"name": "x"}`), &m, func(string, string) (string, error) { return "", cause })
	require.ErrorIs(t, err, cause)
	var at *strictjson.Error
	require.ErrorAs(t, err, &at)
	assert.Equal(t, strictjson.Error{Line: 1, Column: 10, Path: "name", Err: cause}, *at)
}
