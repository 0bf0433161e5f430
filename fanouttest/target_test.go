package fanouttest_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestTarget_WithoutStepsAnswersOKAndAnEmptyObject(t *testing.T) {
	bothWays(t, func(t *testing.T, newTarget newTarget) {
		status, _, body, err := post(t, newTarget(t))
		require.NoError(t, err)
		assert.Equal(t, 200, status)
		assert.Equal(t, "{}", body)
	})
}

func TestTarget_RepeatsItsLastStep(t *testing.T) {
	bothWays(t, func(t *testing.T, newTarget newTarget) {
		f := newTarget(t, fanouttest.Statuses(503, 201, 200)...)
		var got []int
		for range 5 {
			status, _, _, err := post(t, f)
			require.NoError(t, err)
			got = append(got, status)
		}
		assert.Equal(t, []int{503, 201, 200, 200, 200}, got)
	})
}

func TestTarget_RecordsWhatArrivedAttemptByAttempt(t *testing.T) {
	bothWays(t, func(t *testing.T, newTarget newTarget) {
		f := newTarget(t, fanouttest.Statuses(500, 200)...)
		target := f.Target("crm")
		target.URL += "/contacts?list=7"
		target.Method = http.MethodPut
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
		require.NoError(t, err)
		defer d.Close(context.Background())
		results, err := d.Dispatch(fanout.WithCorrelationID(t.Context(), "visit-7"), map[string]int{"n": 1})
		require.NoError(t, err)

		all := f.Requests()
		require.Len(t, all, 2)
		for i, r := range all {
			assert.Equal(t, "PUT /contacts?list=7", r.Method+" "+r.Path)
			assert.Equal(t, "visit-7", r.CorrelationID())
			assert.Equal(t, results["crm"].Attempts[i].RequestID, r.RequestID())
			assert.Equal(t, results["crm"].Key, r.IdempotencyKey())
			var body struct{ N int }
			require.NoError(t, r.JSON(&body))
			assert.Equal(t, 1, body.N)
		}
		assert.True(t, all[1].Time.After(all[0].Time))
		assert.Equal(t, 1, f.Connections())
	})
}

func TestTarget_TakesADefinitionOfOnesOwn(t *testing.T) {
	bothWays(t, func(t *testing.T, newTarget newTarget) {
		f := newTarget(t)
		own := fanout.Target{Name: "crm", URL: "https://crm.example/contacts?list=7", Method: http.MethodPut}
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{f.For(own)}})
		require.NoError(t, err)
		defer d.Close(context.Background())
		_, err = d.Dispatch(t.Context(), "hello")
		require.NoError(t, err)
		assert.Equal(t, "PUT /contacts?list=7", f.Requests()[0].Method+" "+f.Requests()[0].Path)
	})
}

func TestTarget_WaitReturnsWhenAllHasArrivedOrTheContextEnds(t *testing.T) {
	bothWays(t, func(t *testing.T, newTarget newTarget) {
		f := newTarget(t)
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{f.Target("a"), f.Target("b"), f.Target("c")}})
		require.NoError(t, err)
		go func() { _, _ = d.Dispatch(t.Context(), "hello") }()
		require.NoError(t, f.Wait(t.Context(), 3))
		assert.Equal(t, 3, f.Count())
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.ErrorIs(t, f.Wait(ctx, 4), context.DeadlineExceeded)
		require.NoError(t, d.Close(context.Background()))
	})
}
