package auth

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/internal/lifetime"
	"github.com/fanout-go/fanout/internal/panics"
	"github.com/fanout-go/fanout/internal/redact"
)

// Token is a bearer token.
type Token struct {
	Value   Secret
	Expires time.Time // zero if it does not expire
}

// TokenSource fetches a new token, for example from an OAuth 2.0 token endpoint. Token
// must return when its context ends. It is not called again before it has returned or its
// context has ended. A token that is empty or has expired already counts as an error, and
// so does a panic.
type TokenSource interface {
	Token(context.Context) (Token, error)
}

// TokenSourceFunc is a function that implements [TokenSource].
type TokenSourceFunc func(context.Context) (Token, error)

// Token calls f.
func (f TokenSourceFunc) Token(ctx context.Context) (Token, error) { return f(ctx) }

// Tokens sends the source's bearer token (RFC 6750, section 2.1). The value it returns
// can be used by several targets and several dispatchers, which then share the token.
//
// A token is fetched when a delivery needs it. Deliveries that need it at the same time
// share one fetch. Each of them waits at most until its own context ends. The fetch
// continues even if no delivery waits for it any more. It ends after 10 s, or when the
// dispatcher that began it is closed. If a delivery of another dispatcher still waits for
// it then, that delivery begins a new fetch.
//
// A token is renewed early: a minute before it expires, or a tenth of its lifetime if
// that is less. For example, a token that lives for five minutes is renewed 30 s before
// its end. One delivery fetches the next token, while the others use the old one. That
// delivery too uses the old one, if the fetch takes longer than a second, or longer than
// half the time that the delivery has left.
//
// After a 401 a new token is fetched, unless another delivery has already done so. If a
// target refuses every token, at most one token per second is fetched.
//
// If a fetch fails, all deliveries that wait for it fail with [fanout.ErrAuth]. During
// the next second no token is fetched, and every delivery that needs one fails the same
// way. This protects a token endpoint that is down. A delivery in the queue in memory
// waits and tries again, as it does for an open breaker; a durable queue tries it again
// in a later round. A target's breaker does not count failures to get a token.
func Tokens(source TokenSource) fanout.Refresher { return &tokens{source: source} }

type tokens struct {
	source  TokenSource
	fetches singleflight.Group

	mu       sync.Mutex
	fetching bool
	token    Token     // zero before the first fetch
	failure  error     // of the last fetch; nil if it succeeded
	next     time.Time // when to fetch again: a second after a failure, and before the token expires
	refused  time.Time // when a 401 last made us fetch another token
}

const (
	renewEarly   = time.Minute      // the longest time before a token expires
	failFor      = time.Second      // how long after a failure no token is fetched
	fetchTimeout = 10 * time.Second // so that a request that hangs does not prevent all later ones
	patience     = time.Second      // how long to wait for the next token while the old one can be used
)

// Check returns an error for what can never work. [fanout.New] calls it.
func (t *tokens) Check() error {
	if t.source == nil {
		return errors.New("its source of tokens is nil")
	}
	return nil
}

// Authenticate implements [fanout.Authenticator].
func (t *tokens) Authenticate(ctx context.Context, r *http.Request) error {
	token, err := t.get(ctx)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", bearer(token.Value))
	return nil
}

// Refresh implements [fanout.Refresher]. It fetches a new token. It does nothing if the
// refused token is not the current one, because another delivery has then renewed it
// already.
func (t *tokens) Refresh(ctx context.Context, refused *http.Request) error {
	t.mu.Lock()
	now := time.Now()
	if !t.fetching {
		sent := refused.Header.Get("Authorization")
		switch {
		case sent != "" && sent != bearer(t.token.Value), now.Sub(t.refused) < failFor:
			defer t.mu.Unlock()
			return nil
		case t.failure != nil && now.Before(t.next):
			defer t.mu.Unlock()
			return t.failure
		}
		t.refused = now
	}
	fetch := t.join(ctx)
	t.mu.Unlock()
	_, err := t.wait(ctx, fetch)
	return err
}

func (t *tokens) get(ctx context.Context) (Token, error) {
	t.mu.Lock()
	now, old := time.Now(), t.token
	usable := old.usable(now)
	switch {
	case usable && (t.fetching || now.Before(t.next)):
		defer t.mu.Unlock()
		return old, nil
	case t.failure != nil && now.Before(t.next):
		defer t.mu.Unlock()
		return Token{}, t.failure
	}
	fetch := t.join(ctx)
	t.mu.Unlock()
	if !usable {
		return t.wait(ctx, fetch)
	}

	waiting, cancel := context.WithTimeout(ctx, patienceOf(ctx))
	defer cancel()
	next, err := t.wait(waiting, fetch)
	switch {
	case err == nil:
		return next, nil
	case old.usable(time.Now()):
		return old, nil
	}
	return t.get(ctx) // it has expired meanwhile
}

func patienceOf(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(patience, time.Until(deadline)/2)
	}
	return patience
}

func (t Token) usable(now time.Time) bool {
	return !t.Value.IsZero() && (t.Expires.IsZero() || now.Before(t.Expires))
}

// renewal returns when to fetch the next token.
func (t Token) renewal(now time.Time) time.Time {
	if t.Expires.IsZero() {
		return now.Add(math.MaxInt64) // never
	}
	return t.Expires.Add(-min(renewEarly, t.Expires.Sub(now)/10))
}

// join joins the fetch that is running, or begins one. The caller holds t.mu.
func (t *tokens) join(ctx context.Context) <-chan singleflight.Result {
	t.fetching = true
	return t.fetches.DoChan("", func() (any, error) { return t.fetch(ctx) })
}

// wait returns when the fetch has ended, or when ctx ends.
func (t *tokens) wait(ctx context.Context, fetch <-chan singleflight.Result) (Token, error) {
	for {
		select {
		case <-ctx.Done():
			return Token{}, context.Cause(ctx)
		case done := <-fetch:
			if !errors.Is(done.Err, errClosed) || lifetime.Of(ctx).Err() != nil {
				token, _ := done.Val.(Token)
				return token, done.Err
			}
		}
		t.mu.Lock() // the dispatcher that began the fetch was closed
		fetch = t.join(ctx)
		t.mu.Unlock()
	}
}

// fetch asks the source for a token and keeps the result. It does not end with ctx.
// Otherwise, if the endpoint always takes longer than its callers wait, no token would
// ever be fetched.
func (t *tokens) fetch(ctx context.Context) (Token, error) {
	closing := lifetime.Of(ctx)
	bounded, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), fetchTimeout, errTimeout)
	defer cancel()
	defer context.AfterFunc(closing, cancel)()
	token, err := ask(bounded, t.source)

	t.mu.Lock()
	defer t.mu.Unlock()
	// The lock covers both lines. Otherwise a delivery could see that fetching is false,
	// call join, and still be given the result of this fetch, which has already ended.
	t.fetching = false
	t.fetches.Forget("")
	now := time.Now()
	switch {
	case err == nil && token.Value.IsZero():
		err = errors.New("it is empty")
	case err == nil && !token.usable(now):
		err = errors.New("it has expired already")
	case err == nil:
		t.token, t.next, t.failure = token, token.renewal(now), nil
		return token, nil
	case closing.Err() != nil:
		return Token{}, errClosed
	}
	t.failure, t.next = &noTokenError{redact.URL(err)}, now.Add(failFor)
	return Token{}, t.failure
}

// ask calls the source on a separate goroutine, because user code may end its goroutine.
// It returns when ctx ends, even if the source does not.
func ask(ctx context.Context, source TokenSource) (Token, error) {
	type answer struct {
		token Token
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		got := answer{err: fanout.ErrGoexit} // if Token neither returns nor panics
		defer func() {
			if p := recover(); p != nil {
				got.err = &fanout.PanicError{Value: p, Stack: debug.Stack(), Where: panics.Site()}
			}
			answered <- got
		}()
		got.token, got.err = source.Token(ctx)
	}()
	select {
	case got := <-answered:
		return got.token, got.err
	case <-ctx.Done():
		return Token{}, context.Cause(ctx)
	}
}

var errTimeout = fmt.Errorf("none within %s: %w", fetchTimeout, context.DeadlineExceeded)

// errClosed is the error of a fetch that ended because its dispatcher was closed.
var errClosed = &noTokenError{fanout.ErrClosed}

// noTokenError says that there is no token now, but may be one later.
type noTokenError struct{ err error }

func (e *noTokenError) Error() string { return "no token: " + e.err.Error() }
func (e *noTokenError) Unwrap() error { return e.err }

// TryLater implements what [fanout.Authenticator] says about errors that may pass.
func (e *noTokenError) TryLater() bool { return true }
