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
// must return when its context ends. It is not called again before it has returned, or
// its context has ended. A token that is empty, or has expired already, counts as an
// error. So does a panic.
type TokenSource interface {
	Token(context.Context) (Token, error)
}

// TokenSourceFunc is a function that is a [TokenSource].
type TokenSourceFunc func(context.Context) (Token, error)

// Token calls f.
func (f TokenSourceFunc) Token(ctx context.Context) (Token, error) { return f(ctx) }

// Tokens sends the source's bearer token (RFC 6750, section 2.1). One Tokens may serve
// several targets, and several dispatchers.
//
// A token is fetched when a delivery needs it, once for all that need it at the same
// time. Each of them waits no longer than its own context lasts. The fetch goes on
// though all of them leave. It ends after 10 s, and with the dispatcher that began it; a
// delivery of another dispatcher that waits for it then begins another one.
//
// A token is renewed early: a minute before it expires, or a tenth of its life if that
// is less. So a token that lives for five minutes is renewed 30 s before its end. One
// delivery fetches the next token while the others use the old one. If that takes
// longer than a second, or half the time this delivery has left, it uses the old one too.
//
// After a 401 another token is fetched, unless that has been done already. A target
// that refuses every token has one fetched a second at most.
//
// If a fetch fails, all who wait for it fail at once with [fanout.ErrAuth], and so does
// everybody else for one second, because a token endpoint that is down must not be
// stormed. A delivery taken by [fanout.Dispatcher.Submit] waits and tries again, as it
// does for an open breaker. No failure of a token counts in a target's breaker.
func Tokens(source TokenSource) fanout.Refresher { return &tokens{source: source} }

type tokens struct {
	source  TokenSource
	fetches singleflight.Group

	mu       sync.Mutex
	fetching bool
	token    Token     // zero before the first
	failure  error     // of the latest fetch
	next     time.Time // when to fetch again: soon after a failure, early before the token expires
	refused  time.Time // when a target's 401 last had us fetch another
}

const (
	renewEarly   = time.Minute      // at most, before a token expires
	failFor      = time.Second      // after a failure
	fetchTimeout = 10 * time.Second // so that one request that hangs is not the last one ever tried
	patience     = time.Second      // for the next token, while the old one can be used
)

// Check finds what can never work; [fanout.New] calls it.
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

// Refresh implements [fanout.Refresher]. It fetches another token, unless the one that
// was refused is not the one we have: then somebody else did.
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

// renewal is when to fetch the next token.
func (t Token) renewal(now time.Time) time.Time {
	if t.Expires.IsZero() {
		return now.Add(math.MaxInt64) // never
	}
	return t.Expires.Add(-min(renewEarly, t.Expires.Sub(now)/10))
}

// join takes part in the fetch under way, or begins one. The lock is held.
func (t *tokens) join(ctx context.Context) <-chan singleflight.Result {
	t.fetching = true
	return t.fetches.DoChan("", func() (any, error) { return t.fetch(ctx) })
}

// wait returns when the fetch has ended, or the caller's time has.
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
		t.mu.Lock() // another dispatcher took its fetch with it
		fetch = t.join(ctx)
		t.mu.Unlock()
	}
}

// fetch asks the source, and keeps what came of it. It does not end with ctx: an
// endpoint slower than its callers are patient would never be heard out.
func (t *tokens) fetch(ctx context.Context) (Token, error) {
	closing := lifetime.Of(ctx)
	bounded, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), fetchTimeout, errTimeout)
	defer cancel()
	defer context.AfterFunc(closing, cancel)()
	token, err := ask(bounded, t.source)

	t.mu.Lock()
	defer t.mu.Unlock()
	// Forget comes under the lock. Otherwise a delivery could see that nothing is being
	// fetched, and still be given the result of this fetch, which has ended.
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

// ask calls the source on a goroutine of its own, because user code may end its
// goroutine. It returns when ctx ends, though the source does not.
func ask(ctx context.Context, source TokenSource) (Token, error) {
	type answer struct {
		token Token
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		got := answer{err: fanout.ErrGoexit} // unless Token returns or panics
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

// errClosed is what those hear who wait for a fetch whose dispatcher has been closed.
var errClosed = &noTokenError{fanout.ErrClosed}

// noTokenError may be over in a while.
type noTokenError struct{ err error }

func (e *noTokenError) Error() string { return "no token: " + e.err.Error() }
func (e *noTokenError) Unwrap() error { return e.err }

// TryLater is the ability of an error that [fanout.Authenticator] describes.
func (e *noTokenError) TryLater() bool { return true }
