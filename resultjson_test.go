package fanout_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestResult_IsReadBackFromJSONWithoutItsPayloadButForTheID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := optional(withFallback(via("email", answering(503, 400)), via("backup", answering(202))))
		sent := dispatch(t.Context(), newDispatcher(t, target))["email"]
		text, err := json.Marshal(sent)
		require.NoError(t, err)
		var read fanout.Result
		require.NoError(t, json.Unmarshal(text, &read))

		assert.Equal(t, &fanout.Payload{ID: sent.Payload.ID}, read.Payload)
		assert.Equal(t, "email", read.Target)
		assert.Equal(t, fanout.Degraded, read.Outcome)
		assert.True(t, read.Optional)
		assert.Equal(t, sent.Key, read.Key)
		assert.Equal(t, sent.Duration, read.Duration)
		assert.Equal(t, "{}", string(read.Response.Body))
		assert.Equal(t, 202, read.Response.StatusCode)
		require.EqualError(t, read.Err(), sent.Err().Error())
		assert.Equal(t, fanout.Class("400"), fanout.ClassOf(read.Err()))

		require.Len(t, read.Attempts, 3)
		for i, a := range read.Attempts {
			was := sent.Attempts[i]
			assert.Equal(t, was.RequestID, a.RequestID)
			assert.Equal(t, was.StatusCode, a.StatusCode)
			assert.Equal(t, was.Kind, a.Kind)
			assert.Equal(t, was.Duration, a.Duration)
			assert.True(t, was.Start.Equal(a.Start))
			assert.Equal(t, fanout.ClassOf(was.Err), fanout.ClassOf(a.Err))
		}
		assert.Equal(t, fanout.FallbackAttempt, read.Attempts[2].Kind)
		assert.NoError(t, read.Attempts[2].Err)
	})
}

func TestResult_ThatIsNotJSONIsNotReadBack(t *testing.T) {
	var r fanout.Result
	require.ErrorContains(t, json.Unmarshal([]byte(`{"outcome":"splendid"}`), &r), `no outcome is called "splendid"`)
	require.ErrorContains(t, json.Unmarshal([]byte(`{"attempts":[{"kind":"third"}]}`), &r), `no kind of attempt is called "third"`)
}
