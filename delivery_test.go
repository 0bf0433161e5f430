package fanout_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestPrepare_ShapesOneTargetsRequestForAllItsAttempts(t *testing.T) {
	var bodies, paths []string
	record := func(statuses ...int) wire {
		next := inTurn(statuses...)
		return func(r *http.Request) (*http.Response, error) {
			body, _ := io.ReadAll(r.Body)
			bodies, paths = append(bodies, string(body)), append(paths, r.URL.Path)
			return answer(next(), ""), nil
		}
	}
	calls := 0
	target := fanout.Target{Name: "crm", URL: "https://crm.example/v1", Transport: roundTripper(record(500, 200)),
		Policy: fanout.Policy{Retry: fanout.Retry{InitialBackoff: 1}},
		Prepare: func(_ context.Context, r *fanout.Request) error {
			calls++
			r.URL = r.URL.JoinPath(r.Payload.Value.(string))
			r.Body = []byte("shaped")
			r.Header.Set("X-Shape", "1")
			return nil
		}}
	other := fanout.Target{Name: "other", URL: "https://other.example/v1", Transport: roundTripper(record(200))}
	d := newDispatcher(t, target, other)
	for _, name := range []string{"crm", "other"} {
		_, err := d.Dispatch(t.Context(), "ada", fanout.To(name))
		require.NoError(t, err)
	}
	assert.Equal(t, 1, calls)
	assert.Equal(t, []string{"shaped", "shaped", `"ada"`}, bodies)
	assert.Equal(t, []string{"/v1/ada", "/v1/ada", "/v1"}, paths)
}

func TestPrepare_ThatBreaksTheRequestIsRejected(t *testing.T) {
	for want, breaks := range map[string]func(*fanout.Request) error{
		"no such plan":       func(*fanout.Request) error { return errors.New("no such plan") },
		"it removed the URL": func(r *fanout.Request) error { r.URL = nil; return nil },
		"URL: no host":       func(r *fanout.Request) error { r.URL.Host = ""; return nil },
		"Header: Idempotency-Key is set by the library or the connection": func(r *fanout.Request) error { r.Header.Set("Idempotency-Key", "x"); return nil },
		"ContentType: not a header value":                                 func(r *fanout.Request) error { r.ContentType = "a\nb"; return nil },
	} {
		target := via("crm", answering(200))
		target.Prepare = func(_ context.Context, r *fanout.Request) error { return breaks(r) }
		r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
		assert.Equal(t, fanout.Rejected, r.Outcome)
		require.EqualError(t, r.Err(), "crm: prepare failed: "+want)
		require.ErrorIs(t, r.Err(), fanout.ErrPrepare)
		require.NotErrorIs(t, r.Err(), fanout.ErrInvalid, "which is about what was never begun")
		assert.Empty(t, r.Attempts)
	}
}

func TestPrepare_SeesTheResultsOfEarlierTargets(t *testing.T) {
	var body []byte
	receipt := after(sending("receipt", func(_ context.Context, r *fanout.Request) (*fanout.Response, error) {
		body = r.Body
		return nil, nil
	}), "payment")
	receipt.Prepare = func(_ context.Context, r *fanout.Request) error {
		payment, err := fanout.Decode[struct{ ID string }](r.Earlier["payment"])
		r.Body = []byte("paid with " + payment.ID)
		return err
	}
	d := newDispatcher(t, receipt, via("other", answering(200)), via("payment", func(*http.Request) (*http.Response, error) { return answer(201, `{"id":"p-1"}`), nil }))
	_, err := d.Dispatch(t.Context(), "hello")
	require.NoError(t, err)
	assert.Equal(t, "paid with p-1", string(body))
}

func TestPrepare_TakesNoneOfTheAttemptsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := with(via("crm", slow(8*time.Second)), fanout.Policy{AttemptTimeout: 10 * time.Second})
		crm.Prepare = func(context.Context, *fanout.Request) error { time.Sleep(5 * time.Second); return nil }
		assert.Equal(t, fanout.Delivered, deliverTo(t, crm, crm.Policy).Outcome)
	})
}

// temporary is an error that may be over in a while, or not.
type temporary bool

func (temporary) Error() string    { return "away" }
func (a temporary) TryLater() bool { return bool(a) }

func TestTryLater_MakesWhatIsSubmittedWait(t *testing.T) {
	for later, want := range map[temporary]fanout.Outcome{true: fanout.Delivered, false: fanout.Rejected} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			crm := via("crm", answering(200))
			crm.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error {
				if time.Since(began) < 5*time.Second {
					return later
				}
				return nil
			})
			ended := make(chan fanout.Result, 1)
			d := newWith(t, fanout.Config{Targets: []fanout.Target{crm}, OnResult: func(_ context.Context, r fanout.Result) { ended <- r }})
			_, err := d.Submit(t.Context(), "hello")
			require.NoError(t, err)
			assert.Equal(t, want, (<-ended).Outcome)
		})
	}
}
