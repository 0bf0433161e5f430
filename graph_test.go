package fanout_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestGraph_TargetBeginsWhenThoseBeforeItHaveSucceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// a and b begin at once, c after a, d after b and c.
		d := newDispatcher(t,
			via("a", slow(time.Second)), via("b", slow(3*time.Second)),
			after(via("c", slow(time.Second)), "a"), after(via("d", slow(time.Second)), "b", "c"))
		began := time.Now()
		results, err := d.Dispatch(t.Context(), "hello")
		require.NoError(t, err)
		assert.Equal(t, 4*time.Second, time.Since(began), "with the greatest concurrency that the order allows")
		for name, start := range map[string]time.Duration{"a": 0, "b": 0, "c": time.Second, "d": 3 * time.Second} {
			assert.Equal(t, start, results[name].Attempts[0].Start.Sub(began), name)
			assert.Equal(t, fanout.Delivered, results[name].Outcome)
		}
		assert.Equal(t, time.Second, results["d"].Duration, "its own time, not that of those before it")
	})
}

func TestGraph_TargetAfterAFailureIsSkippedAndNamesIt(t *testing.T) {
	d := newDispatcher(t, via("payment", answering(402)), after(via("receipt", answering(200)), "payment"), after(via("survey", answering(200)), "receipt"), via("log", answering(200)))
	results, err := d.Dispatch(t.Context(), "hello")
	require.Error(t, err)
	assert.Equal(t, fanout.Failed, results["payment"].Outcome)
	assert.Equal(t, fanout.Skipped, results["receipt"].Outcome)
	assert.Equal(t, fanout.Skipped, results["survey"].Outcome)
	assert.Equal(t, fanout.Delivered, results["log"].Outcome, "independent of it")
	require.ErrorIs(t, results["receipt"].Err(), fanout.ErrSkipped)
	require.EqualError(t, results["receipt"].Err(), `receipt: skipped, as it comes after "payment": failed`)
	require.EqualError(t, results["survey"].Err(), `survey: skipped, as it comes after "receipt": skipped`)
	assert.Empty(t, results["receipt"].Attempts)
}

func TestGraph_ThatCannotBeIsRefusedBeforeAnythingIsSent(t *testing.T) {
	for name, test := range map[string]struct {
		targets []fanout.Target
		want    string
	}{
		"unknown": {[]fanout.Target{after(via("a", answering(200)), "b")}, `target "a": After: no target "b" in this dispatch`},
		"itself":  {[]fanout.Target{after(via("a", answering(200)), "a")}, `target "a": After: names the target itself`},
		"twice":   {[]fanout.Target{via("b", answering(200)), after(via("a", answering(200)), "b", "b")}, `target "a": After: "b" is named twice`},
		"cycle": {[]fanout.Target{via("x", answering(200)), after(via("a", answering(200)), "c", "x"), after(via("b", answering(200)), "a"), after(via("c", answering(200)), "b")},
			`target "a": After: never begins, as it comes after itself by way of a, b, c`},
		"two pivots": {[]fanout.Target{{Name: "a", URL: "http://a.example", Pivot: true}, {Name: "b", URL: "http://b.example", Pivot: true}}, `target "b": Pivot: "a" is the pivot already`},
	} {
		_, err := fanout.New(fanout.Config{Targets: test.targets})
		require.ErrorIs(t, err, fanout.ErrInvalid, name)
		require.ErrorContains(t, err, test.want, name)

		d := newDispatcher(t)
		_, err = d.Dispatch(t.Context(), "hello", fanout.ToTargets(test.targets...))
		require.ErrorContains(t, err, test.want, name)
		require.ErrorContains(t, d.SetTargets(test.targets...), test.want, name)
		assert.Empty(t, d.TargetNames(), "nothing has changed")
	}
}

func TestGraph_TargetThatOthersComeAfterCannotBeLeftOut(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)), after(via("b", answering(200)), "a"))
	_, err := d.Dispatch(t.Context(), "hello", fanout.To("b"))
	require.ErrorContains(t, err, `no target "a" in this dispatch`)
	d.RemoveTargets("a")
	results, err := d.Dispatch(t.Context(), "hello")
	require.ErrorContains(t, err, `no target "a" in this dispatch`)
	assert.Equal(t, fanout.Rejected, results["b"].Outcome)
	require.NoError(t, d.SetTargets(via("a", answering(200))))
	_, err = d.Dispatch(t.Context(), "hello")
	require.NoError(t, err)
}

func TestGraph_EndsOnTheCallersCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, via("a", slow(time.Second)), after(via("b", slow(time.Second)), "a"), after(via("c", slow(time.Second)), "b"))
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		began := time.Now()
		results := dispatch(ctx, d)
		assert.Equal(t, 1500*time.Millisecond, time.Since(began))
		assert.Equal(t, fanout.Delivered, results["a"].Outcome)
		assert.Equal(t, fanout.Unknown, results["b"].Outcome)
		assert.Equal(t, fanout.Skipped, results["c"].Outcome)
	})
}

func TestGraph_KeepsItsOrderWhenSubmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var results fanouttest.Results
		d := newWith(t, fanout.Config{OnResult: results.OnResult, Targets: []fanout.Target{after(via("b", answering(200)), "a"), via("a", slow(time.Second)), after(via("c", answering(200)), "no"), via("no", answering(400))}})
		id := submit(t, d)
		got, err := results.Wait(t.Context(), id, "a", "b", "c", "no")
		require.NoError(t, err)
		assert.Equal(t, fanout.Delivered, got["b"].Outcome)
		assert.Equal(t, time.Second, got["b"].Attempts[0].Start.Sub(got["a"].Attempts[0].Start))
		assert.Equal(t, fanout.Skipped, got["c"].Outcome)
		assert.Equal(t, id, got["c"].Payload.ID)
	})
}

func TestGraph_CutShortByCloseIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := fanout.New(fanout.Config{
			Targets: []fanout.Target{via("a", answering(200)), after(via("b", hanging), "a"), after(via("c", answering(200)), "b")},
			Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{Workers: 1}),
		})
		require.NoError(t, err)
		first, second := submit(t, d), submit(t, d)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var left *fanout.UndeliveredError
		require.ErrorAs(t, d.Close(ctx), &left)
		var named []string
		for _, u := range left.Left {
			which := strings.NewReplacer(first, "first", second, "second").Replace(u.Payload.ID)
			named = append(named, which+" "+u.Target+" "+u.Outcome.String())
		}
		assert.ElementsMatch(t, []string{"first b unknown", "first c skipped", "second a rejected", "second b rejected", "second c rejected"}, named)
	})
}

func TestGraph_IsNotHeldUpByUserCodeThatEndsItsGoroutine(t *testing.T) {
	for name, misbehaving := range misbehavingSenders() {
		results := dispatch(t.Context(), newDispatcher(t, misbehaving, after(via("next", answering(200)), misbehaving.Name), via("other", answering(200))))
		assert.Equal(t, fanout.Skipped, results["next"].Outcome, name)
		assert.Equal(t, fanout.Delivered, results["other"].Outcome, name)
	}
}
