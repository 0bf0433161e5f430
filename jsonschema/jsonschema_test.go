package jsonschema_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
	"github.com/fanout-go/fanout/jsonschema"
)

const orders = `{
	"type": "object", "required": ["order"], "additionalProperties": false,
	"properties": {"order": {"type": "string", "pattern": "^[0-9]+$"}, "cents": {"type": "integer", "minimum": 1}}
}`

func TestOnlyWhatFitsIsSent(t *testing.T) {
	valid, err := jsonschema.Compile([]byte(orders))
	require.NoError(t, err)
	api := fanouttest.NewMemoryTarget(t, fanouttest.Status(200))
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{api.Target("crm")}, Validate: valid})
	require.NoError(t, err)
	defer d.Close(t.Context())
	for body, want := range map[string]string{
		`{"order":"7","cents":1999}`:               "",
		`{"order":"s3cr3t","cents":1}`:             `fanout: Payload: refused: does not fit its schema: "/order": pattern`,
		`{"order":"7","cents":-4711}`:              `fanout: Payload: refused: does not fit its schema: "/cents": minimum`,
		`{"cents":1}`:                              `fanout: Payload: refused: does not fit its schema: "/": required ["order"]`,
		`{"order":"7","s3cr3t":true}`:              `fanout: Payload: refused: does not fit its schema: "/": additionalProperties`,
		`{"order":"s3cr3t","order":"7","cents":1}`: `fanout: Payload: refused: has the same name twice in one object`,
		`{"order":"7"} s3cr3t`:                     `fanout: Payload: refused: not JSON`,
		`s3cr3t`:                                   `fanout: Payload: refused: not JSON`,
		`{"order":7,"cents":"s3cr3t"}`:             `"/cents": type`,
	} {
		_, err := d.Dispatch(t.Context(), fanout.Payload{Body: []byte(body), ContentType: "application/json"})
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, fanout.ErrInvalid, body)
		require.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "s3cr3t")
		assert.NotContains(t, err.Error(), "4711")
	}
	assert.Equal(t, 1, api.Count())
}

func TestWhatWouldTakeMuchMemoryIsRefused(t *testing.T) {
	valid, err := jsonschema.Compile([]byte(`{"items": {"anyOf": [{"type": "string"}, {"type": "object"}]}}`))
	require.NoError(t, err)
	for n, want := range map[int]string{9_000: "does not fit its schema", 600_000: "has more than 10000 values"} {
		body := "[" + strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]"
		require.ErrorContains(t, valid(t.Context(), &fanout.Payload{Body: []byte(body)}), want)
	}
}

func TestNamesAreToldFromValues(t *testing.T) {
	valid, err := jsonschema.Compile([]byte(`{}`))
	require.NoError(t, err)
	for body, twice := range map[string]bool{
		`{"a":"a","b":["a","a",{"a":1},{"a":{"a":"a"}}],"c":"a"}`: false,
		`{"b":{"a":[],"a":1}}`: true, `[{"a":{},"b":[{}],"a":0}]`: true, `{"a":1,"\u0061":2}`: true,
	} {
		err := valid(t.Context(), &fanout.Payload{Body: []byte(body)})
		assert.Equal(t, twice, err != nil, "%s: %v", body, err)
	}
}

func TestNumbersThatTakeLongToBeMadeExactAreRefused(t *testing.T) {
	valid, err := jsonschema.Compile([]byte(`{"items": {"multipleOf": 0.01}}`))
	require.NoError(t, err)
	for body, refused := range map[string]bool{
		`[1e999999999]`: true, `[{"a":[1E-99999999]}]`: true, `[` + strings.Repeat("9", 100_000) + `]`: true, `[1e400000000000000000000]`: true,
		`[1.25, 1e3, -0.5E-1, 0]`: false, `[1e300]`: false,
	} {
		err := valid(t.Context(), &fanout.Payload{Body: []byte(body)})
		if refused {
			require.EqualError(t, err, "has a number that is too large, or written with too many digits")
		} else if err != nil {
			assert.NotContains(t, err.Error(), "number")
		}
	}
}

func TestASchemaThatCannotBeUsedIsRefused(t *testing.T) {
	for _, schema := range []string{`{`, `{"type": 7}`, `{"$ref": "https://elsewhere.example/schema.json"}`, `{"$ref": "file:///etc/passwd"}`} {
		_, err := jsonschema.Compile([]byte(schema))
		require.Error(t, err, schema)
	}
}
