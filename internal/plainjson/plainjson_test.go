package plainjson_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/internal/plainjson"
)

func TestMarshal_EscapesNothingForHTML(t *testing.T) {
	for want, v := range map[string]any{
		`{"q":"a=1&b=<2>"}`: map[string]string{"q": "a=1&b=<2>"},
		`{"q":"<&>"}`:       json.RawMessage(`{"q": "<&>"}`),
		`"Zürich\n\u0001"`:  "Zürich\n\x01",
		`null`:              nil,
	} {
		got, err := plainjson.Marshal(v)
		require.NoError(t, err)
		assert.Equal(t, want, string(got))
	}
}

func TestMarshal_AFailureSpoilsNothingAfterIt(t *testing.T) {
	for range 10 {
		_, err := plainjson.Marshal([]any{"half", math.Inf(1)})
		require.Error(t, err)
		got, err := plainjson.Marshal(1)
		require.NoError(t, err)
		assert.Equal(t, "1", string(got))
	}
}
