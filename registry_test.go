package fanout_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func names(results fanout.Results) []string {
	var all []string
	for _, r := range results.Sorted() {
		all = append(all, r.Target)
	}
	return all
}

func TestTargetsAreAddedReplacedAndRemovedWhileRunning(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)), via("b", answering(200)))
	require.NoError(t, d.SetTargets(via("c", answering(200)), via("a", answering(404))))
	results := dispatch(t.Context(), d)
	assert.Equal(t, []string{"a", "b", "c"}, names(results))
	assert.Equal(t, fanout.Failed, results["a"].Outcome)

	d.RemoveTargets("b", "nobody")
	assert.Equal(t, []string{"a", "c"}, names(dispatch(t.Context(), d)))
	_, err := d.Dispatch(t.Context(), "hello", fanout.To("b"))
	require.ErrorIs(t, err, fanout.ErrInvalid)
}

func TestTargetsThatCannotBeUsedChangeNothing(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)))
	require.ErrorIs(t, d.SetTargets(via("b", answering(200)), fanout.Target{Name: "c"}), fanout.ErrInvalid)
	require.ErrorIs(t, d.SetTargets(via("b", answering(200)), via("b", answering(200))), fanout.ErrInvalid)
	assert.Equal(t, []string{"a"}, names(dispatch(t.Context(), d)))
}

func TestWhatIsUnderWayGoesOnWithTheOldDefinition(t *testing.T) {
	arrived, proceed := make(chan struct{}), make(chan struct{})
	d := newDispatcher(t, via("crm", func(*http.Request) (*http.Response, error) {
		close(arrived)
		<-proceed
		return answer(201, ""), nil
	}))
	under := make(chan fanout.Results)
	go func() { under <- dispatch(t.Context(), d) }()
	<-arrived
	require.NoError(t, d.SetTargets(via("crm", answering(204))))
	assert.Equal(t, 204, dispatch(t.Context(), d)["crm"].Response.StatusCode)
	d.RemoveTargets("crm")
	close(proceed)
	assert.Equal(t, 201, (<-under)["crm"].Response.StatusCode)
}

func TestANewDefinitionKeepsTheBreakerIfThePolicyStays(t *testing.T) {
	once := fanout.Policy{Retry: fanout.Retry{MaxAttempts: 1}, Breaker: fanout.Breaker{ConsecutiveFailures: 1}}
	d := newDispatcher(t, with(via("crm", answering(500)), once))
	dispatch(t.Context(), d)
	require.NoError(t, d.SetTargets(with(via("crm", answering(200)), once)))
	assert.Equal(t, fanout.BreakerOpen, stateOf(t, d))

	moved := with(via("crm", answering(200)), once)
	moved.URL = "https://new.example"
	require.NoError(t, d.SetTargets(moved))
	assert.Equal(t, fanout.BreakerClosed, stateOf(t, d), "it is another host")

	once.Breaker.ConsecutiveFailures = 2
	require.NoError(t, d.SetTargets(with(via("crm", answering(200)), once)))
	assert.Equal(t, fanout.BreakerClosed, stateOf(t, d))
}

func TestTargetsMayChangeDuringDispatches(t *testing.T) {
	d := newDispatcher(t, via("a", answering(200)))
	var all sync.WaitGroup
	for i := range 4 {
		name := fmt.Sprint("b", i)
		all.Go(func() {
			for range 100 {
				assert.NoError(t, d.SetTargets(via(name, answering(200)))) //nolint:testifylint // not the test's goroutine
				dispatch(t.Context(), d)
				d.RemoveTargets(name)
			}
		})
	}
	all.Wait()
	assert.Equal(t, []string{"a"}, names(dispatch(t.Context(), d)))
}

func TestTargetNamesAreInDefinitionOrder(t *testing.T) {
	d := newDispatcher(t, via("b", answering(200)), via("a", answering(200)))
	require.NoError(t, d.SetTargets(via("c", answering(200))))
	d.RemoveTargets("b")
	assert.Equal(t, []string{"a", "c"}, d.TargetNames())
}

func TestAClosedDispatcherTakesNoTargets(t *testing.T) {
	d := newDispatcher(t)
	require.NoError(t, d.Close(t.Context()))
	require.ErrorIs(t, d.SetTargets(via("a", answering(200))), fanout.ErrClosed)
}
