package fanout_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestNew_ThatFailsLeavesTheQueueToItsOwner(t *testing.T) {
	for name, q := range map[string]*closeCounter{
		"a target is invalid": {Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{})},
		"it does not start":   {Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{}), fails: errors.New("file in use")},
	} {
		targets := []fanout.Target{{Name: "crm"}}
		if q.fails != nil {
			targets = nil
		}
		_, err := fanout.New(fanout.Config{Queue: q, Targets: targets})
		require.Error(t, err, name)
		assert.Zero(t, q.times, name)
	}
}

func TestNew_ReportsAllMistakesAtOnce(t *testing.T) {
	_, err := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "a", URL: "ftp://a", Method: "post", Header: http.Header{"Host": {"x"}}, FallbackReserve: time.Second},
		{URL: "http://d", Sender: fanout.SenderFunc(nil), Policy: fanout.Policy{Timeout: -2}},
		via("b", answering(200)),
		via("b", answering(200)),
		with(via("c", answering(200)), fanout.Policy{Retry: fanout.Retry{MaxAttempts: -1}, Breaker: fanout.Breaker{MinCalls: -1}}),
	}})
	assert.EqualError(t, err, strings.Join([]string{
		`fanout: target "a": Fallback: none, but FallbackOn or FallbackReserve is set`,
		`fanout: target "a": URL: scheme is neither http nor https`,
		`fanout: target "a": Method: "post" is not a method in upper case that can carry a payload`,
		`fanout: target "a": Header: Host is set by the library or the connection`,
		`fanout: target "#2": Name: empty`,
		`fanout: target "#2": Sender: set together with URL`,
		`fanout: target "c": Retry.MaxAttempts: -1 is negative`,
		`fanout: target "c": Breaker.MinCalls: -1 is negative`,
		`fanout: target "b": Name: given twice`,
	}, "\n"))
}

func TestDispatcher_ServesManyAtOnce(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)), via("b", answering(200)))
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 20 {
				_, err := d.Dispatch(t.Context(), "hello", fanout.To("a", "b"), fanout.ToTargets(via("c", answering(200))))
				assert.NoError(t, err)
			}
		})
	}
	all.Wait()
}

func TestSubmit_ReturnsAtOnceAndDeliversToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var results fanouttest.Results
		d := newWith(t, fanout.Config{
			Targets:  []fanout.Target{via("quick", answering(200)), via("slow", slow(5*time.Second)), via("no", answering(400))},
			OnResult: results.OnResult,
		})
		began := time.Now()
		id := submit(t, d)
		assert.Zero(t, time.Since(began))
		got, err := results.Wait(t.Context(), id, "quick", "slow", "no")
		require.NoError(t, err)
		assert.Equal(t, 5*time.Second, time.Since(began))
		for target, outcome := range map[string]fanout.Outcome{"quick": fanout.Delivered, "slow": fanout.Delivered, "no": fanout.Failed} {
			assert.Equal(t, outcome, got[target].Outcome)
			assert.Equal(t, id, got[target].Payload.ID)
		}
	})
}

func TestSubmit_SendsToTargetsGivenInTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var results fanouttest.Results
		d := newWith(t, fanout.Config{OnResult: results.OnResult})
		got, err := results.Wait(t.Context(), submit(t, d, fanout.ToTargets(via("webhook", answering(200)))))
		require.NoError(t, err)
		assert.Equal(t, fanout.Delivered, got["webhook"].Outcome)
	})
}

func TestSubmit_RefusesWhatCannotBeSent(t *testing.T) {
	d := newDispatcher(t, via("crm", answering(200)))
	_, err := d.Submit(t.Context(), make(chan int))
	require.ErrorIs(t, err, fanout.ErrInvalid)
	_, err = d.Submit(t.Context(), "hello", fanout.To("nobody"))
	require.ErrorIs(t, err, fanout.ErrInvalid)
	var none context.Context
	_, err = d.Submit(none, "hello")
	require.EqualError(t, err, "fanout: Context: nil")
	_, err = fanout.New(fanout.Config{Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{Workers: -1})})
	require.EqualError(t, err, "fanout: MemoryLimits.Workers: -1 is negative")
}

func TestSubmit_ReportsResultsInDefinitionOrder(t *testing.T) {
	var results fanouttest.Results
	d := newWith(t, fanout.Config{OnResult: results.OnResult, Targets: []fanout.Target{via("zeta", answering(200)), via("mid", answering(200)), via("alpha", answering(200))}})
	got, err := results.Wait(t.Context(), submit(t, d), "zeta", "mid", "alpha")
	require.NoError(t, err)
	assert.Equal(t, []string{"zeta", "mid", "alpha"}, names(got))
}

func TestSubmit_DeadLetterIsRepeatedWithItsKeys(t *testing.T) {
	var keys []string
	var left *fanout.Payload
	statuses := inTurn(400, 200)
	var results fanouttest.Results
	d := newWith(t, fanout.Config{
		OnResult: results.OnResult, OnDeadLetter: func(_ context.Context, r fanout.Result) { left = r.Payload },
		Targets: []fanout.Target{via("crm", func(r *http.Request) (*http.Response, error) {
			keys = append(keys, r.Header.Get("Idempotency-Key")+" "+r.Header.Get("X-Tenant")+" "+r.Header.Get("X-Correlation-Id"))
			return answer(statuses(), ""), nil
		})},
	})
	id, err := d.Submit(t.Context(), fanout.Payload{Value: "hello", Header: http.Header{"X-Tenant": {"acme"}}})
	require.NoError(t, err)
	require.NoError(t, d.Close(t.Context()))
	again := newWith(t, fanout.Config{Targets: []fanout.Target{via("crm", func(r *http.Request) (*http.Response, error) {
		keys = append(keys, r.Header.Get("Idempotency-Key")+" "+r.Header.Get("X-Tenant")+" "+r.Header.Get("X-Correlation-Id"))
		return answer(200, ""), nil
	})}})
	_, err = again.Dispatch(t.Context(), left, fanout.To("crm"))
	require.NoError(t, err)
	want := id + ":crm acme " + id
	assert.Equal(t, []string{want, want}, keys)
}

func TestClose_WaitsForWhatIsUnderWayAndRefusesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatcher(t, via("slow", func(*http.Request) (*http.Response, error) {
			time.Sleep(20 * time.Second)
			return answer(200, ""), nil
		}))
		under := make(chan fanout.Results, 1)
		go func() { under <- dispatch(context.Background(), d) }()
		synctest.Wait()

		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.EqualError(t, d.Close(impatient), "fanout: closed with 1 dispatches under way: context deadline exceeded")

		results, err := d.Dispatch(t.Context(), "late")
		require.ErrorIs(t, err, fanout.ErrClosed)
		assert.Equal(t, fanout.Rejected, results["slow"].Outcome)

		require.NoError(t, d.Close(context.Background()))
		assert.NotEmpty(t, <-under)
		require.NoError(t, d.Close(context.Background()), "again")
	})
}

func TestClose_DrainsWhatWasSubmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var delivered atomic.Int64
		d, err := fanout.New(fanout.Config{
			Targets:  []fanout.Target{via("crm", slow(time.Second))},
			Queue:    fanout.NewMemoryQueue(fanout.MemoryLimits{Workers: 2}),
			OnResult: func(context.Context, fanout.Result) { delivered.Add(1) },
		})
		require.NoError(t, err)
		for range 10 {
			submit(t, d)
		}
		var closers sync.WaitGroup
		for range 3 {
			closers.Go(func() { assert.NoError(t, d.Close(context.Background())) })
		}
		synctest.Wait()
		_, err = d.Submit(t.Context(), "late")
		require.ErrorIs(t, err, fanout.ErrClosed)
		closers.Wait()
		assert.Equal(t, int64(10), delivered.Load())
		require.NoError(t, d.Close(context.Background()), "again")
	})
}

func TestClose_WithoutADeadlineDrainsForThirtySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{with(via("crm", hanging), fanout.Policy{Timeout: time.Hour, AttemptTimeout: -1})}})
		require.NoError(t, err)
		submit(t, d)
		began := time.Now()
		var left *fanout.UndeliveredError
		require.ErrorAs(t, d.Close(context.Background()), &left)
		assert.Equal(t, 30*time.Second, time.Since(began))
		require.Len(t, left.Left, 1)
		require.ErrorAs(t, d.Close(context.Background()), &left, "and says so again")
	})
}

func TestClose_KeepsConnectionsWhileDraining(t *testing.T) {
	crm := fanouttest.NewTarget(t, fanouttest.Delay(20*time.Millisecond, fanouttest.Status(200)))
	var results fanouttest.Results
	d, err := fanout.New(fanout.Config{
		Targets: []fanout.Target{crm.Target("crm")}, OnResult: results.OnResult,
		Queue: fanout.NewMemoryQueue(fanout.MemoryLimits{Workers: 1}),
	})
	require.NoError(t, err)
	first, second := submit(t, d), submit(t, d)
	require.NoError(t, d.Close(context.Background()))
	for _, id := range []string{first, second} {
		got, err := results.Wait(t.Context(), id)
		require.NoError(t, err)
		assert.Len(t, got["crm"].Attempts, 1)
		assert.Equal(t, fanout.Delivered, got["crm"].Outcome, "%v", got["crm"].Err())
	}
}

func TestClose_DoesNotWaitForATargetThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var results fanouttest.Results
		down := with(via("crm", answering(500)), fanout.Policy{Breaker: fanout.Breaker{OpenFor: time.Hour}, Retry: fanout.Retry{MaxAttempts: 1}, Timeout: -1, AttemptTimeout: -1})
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{down}, OnResult: results.OnResult})
		require.NoError(t, err)
		for range 20 {
			submit(t, d)
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
		defer cancel()
		require.NoError(t, d.Close(ctx), "all was told as failed")
	})
}

func TestClose_NamesADeliveryWhoseSenderIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{
			sending("deaf", func(context.Context, *fanout.Request) (*fanout.Response, error) { <-release; return nil, nil }),
		}})
		require.NoError(t, err)
		id := submit(t, d)
		synctest.Wait()
		var left *fanout.UndeliveredError
		require.ErrorAs(t, d.Close(context.Background()), &left)
		require.Len(t, left.Left, 1)
		assert.Equal(t, id, left.Left[0].Payload.ID)
		assert.Equal(t, fanout.Unknown, left.Left[0].Outcome)
		close(release)
	})
}

func TestClose_NamesWhatFailedWhileItsHookHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		d, err := fanout.New(fanout.Config{
			Targets:  []fanout.Target{via("crm", answering(400))},
			OnResult: func(context.Context, fanout.Result) { <-block },
		})
		require.NoError(t, err)
		submit(t, d)
		var left *fanout.UndeliveredError
		require.ErrorAs(t, d.Close(context.Background()), &left)
		require.Len(t, left.Left, 1)
		assert.Equal(t, fanout.Failed, left.Left[0].Outcome)
		close(block)
		synctest.Wait()
	})
}

func TestClose_DoesNotNameWhatWasDeliveredForASlowHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := fanout.New(fanout.Config{
			Targets:  []fanout.Target{via("crm", answering(200))},
			OnResult: func(context.Context, fanout.Result) { time.Sleep(time.Minute) },
		})
		require.NoError(t, err)
		submit(t, d)
		require.NoError(t, d.Close(context.Background()))
		time.Sleep(time.Minute)
	})
}

func TestClose_ThatTimedOutLeavesTheConnectionsToTheLastDispatch(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	target, _ := listening(t, func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	})
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		dispatch(context.Background(), d)
	}()
	<-arrived
	over, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorContains(t, d.Close(over), "1 dispatches under way")
	close(release)
	<-ended // goleak looks for connections left open
}
