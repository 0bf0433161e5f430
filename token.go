package fanout

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/fanout-go/fanout/internal/redact"
)

// Token is a bearer token.
type Token struct {
	Value   Secret
	Expires time.Time // zero if it does not
}

// TokenSource fetches a new token, from an OAuth 2.0 token endpoint, say. It honours
// its context, and is not called more than once at a time.
type TokenSource interface {
	Token(context.Context) (Token, error)
}

// TokenSourceFunc is a function that is a [TokenSource].
type TokenSourceFunc func(context.Context) (Token, error)

// Token calls f.
func (f TokenSourceFunc) Token(ctx context.Context) (Token, error) { return f(ctx) }

// TokenAuth sends the source's bearer token. It fetches one for all who need it at
// the same time, within 10 s, and each waits no longer than its own context lasts. A
// minute before a token expires, or a tenth of its life if that is less, one delivery
// fetches the next while the others use the old one; if that takes longer than a
// second it uses the old one too. After a 401 it fetches another, at most once a second.
//
// If fetching fails, all who wait fail at once, with [ErrAuth], and for a second so
// does everybody else: a token endpoint that is down is not stormed. With the queue in
// memory a delivery waits for it, as it does for an open circuit. Nothing of that counts in
// a target's breaker. One TokenAuth may serve several targets, and dispatchers.
func TokenAuth(source TokenSource) Refresher { return &tokenAuth{source: source} }

type tokenAuth struct {
	source TokenSource

	mu       sync.Mutex
	token    Token
	fetched  time.Time
	fetch    *fetch // nil if none is under way
	failure  error
	failedAt time.Time
	refused  time.Time // when a target's 401 last had us fetch another
}

const (
	refreshEarly = time.Minute      // at most, before it expires
	failFor      = time.Second      // after a failure
	fetchTimeout = 10 * time.Second // so that one request that hangs is not all that is ever tried
	patience     = time.Second      // for the next token, while the old one can be used
)

func (a *tokenAuth) check() error {
	if a.source == nil {
		return errors.New("its source of tokens is nil")
	}
	return nil
}

func (a *tokenAuth) Authenticate(ctx context.Context, r *http.Request) error {
	return (&tokenUse{a, never, ""}).Authenticate(ctx, r)
}

func (a *tokenAuth) Refresh(ctx context.Context) error {
	return (&tokenUse{a, never, ""}).Refresh(ctx)
}

func never(func()) (stop func() bool) { return func() bool { return true } }

func (t Token) authorization() string { return "Bearer " + t.Value.Reveal() }

// tokenUse is one attempt's.
type tokenUse struct {
	*tokenAuth
	atEnd   func(func()) (stop func() bool)
	refused string // the Authorization that the target took for stale
}

func (a *tokenUse) Authenticate(ctx context.Context, r *http.Request) error {
	token, err := a.get(ctx)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", token.authorization())
	return nil
}

func (a *tokenUse) get(ctx context.Context) (Token, error) {
	a.mu.Lock()
	now := time.Now()
	usable := a.usable(now)
	switch {
	case usable && (a.fetch != nil || !a.stale(now) || a.failed(now)):
		defer a.mu.Unlock()
		return a.token, nil
	case !usable && a.fetch == nil && a.failed(now):
		defer a.mu.Unlock()
		return Token{}, a.failure
	}
	f := a.join(ctx)
	a.mu.Unlock()
	if usable {
		return a.waitPatiently(ctx, f)
	}
	err := a.wait(ctx, f)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.token, err
}

// waitPatiently falls back on the token there is.
func (a *tokenUse) waitPatiently(ctx context.Context, f *fetch) (Token, error) {
	most := patience
	if deadline, ok := ctx.Deadline(); ok {
		most = min(most, time.Until(deadline)/2)
	}
	waiting, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	_ = a.wait(waiting, f)
	a.mu.Lock()
	token, usable := a.token, a.usable(time.Now())
	a.mu.Unlock()
	if usable {
		return token, nil
	}
	return a.get(ctx)
}

// Refresh fetches another token, unless the one that was refused is not the one we
// have: then somebody else did.
func (a *tokenUse) Refresh(ctx context.Context) error {
	a.mu.Lock()
	now := time.Now()
	switch {
	case a.fetch != nil:
	case a.refused != "" && a.refused != a.token.authorization(), now.Sub(a.tokenAuth.refused) < failFor:
		defer a.mu.Unlock()
		return nil
	case a.failed(now):
		defer a.mu.Unlock()
		return a.failure
	default:
		a.tokenAuth.refused = now
	}
	f := a.join(ctx)
	a.mu.Unlock()
	return a.wait(ctx, f)
}

func (a *tokenAuth) usable(now time.Time) bool {
	return !a.token.Value.IsZero() && (a.token.Expires.IsZero() || now.Before(a.token.Expires))
}

func (a *tokenAuth) failed(now time.Time) bool {
	return a.failure != nil && now.Sub(a.failedAt) < failFor
}

// stale reports whether it is time for the next token.
func (a *tokenAuth) stale(now time.Time) bool {
	early := min(refreshEarly, a.token.Expires.Sub(a.fetched)/10)
	return !a.token.Expires.IsZero() && now.After(a.token.Expires.Add(-early))
}

// fetch is a token on its way. It goes on though all who wait for it leave, or an
// endpoint slower than they are patient would never be heard out. It ends with the
// dispatcher that began it, unless somebody waits.
type fetch struct {
	done     chan struct{}
	cancel   context.CancelFunc
	waiting  int
	orphaned bool
	err      error
}

// join takes part in the fetch under way, or begins one. The lock is held.
func (a *tokenUse) join(ctx context.Context) *fetch {
	if a.fetch == nil {
		fetching, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		f := &fetch{done: make(chan struct{}), cancel: cancel}
		a.fetch = f
		forget := a.atEnd(func() { a.leave(f, 0) })
		go func() {
			defer forget()
			a.run(fetching, f)
		}()
	}
	a.fetch.waiting++
	return a.fetch
}

func (a *tokenAuth) run(ctx context.Context, f *fetch) {
	defer f.cancel()
	token, err := Token{}, ErrGoexit
	defer func() {
		if p := recover(); p != nil {
			err = newPanicError(p)
		}
		a.end(f, token, err)
	}()
	token, err = a.source.Token(ctx)
}

func (a *tokenAuth) end(f *fetch, token Token, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	switch {
	case err != nil:
	case token.Value.IsZero():
		err = errors.New("it is empty")
	case !token.Expires.IsZero() && !now.Before(token.Expires):
		err = errors.New("it has expired already")
	}
	if err != nil {
		f.err = &noTokenError{redact.URL(err)}
	}
	close(f.done)
	if a.fetch != f {
		return // it was given up
	}
	a.fetch, a.failure = nil, f.err
	if err != nil {
		a.failedAt = now
	} else {
		a.token, a.fetched = token, now
	}
}

// noTokenError is what may be over in a while.
type noTokenError struct{ err error }

func (e *noTokenError) Error() string { return "no token: " + e.err.Error() }
func (e *noTokenError) Unwrap() error { return e.err }

// wait returns when the fetch has ended, or the caller's time has.
func (a *tokenAuth) wait(ctx context.Context, f *fetch) error {
	defer a.leave(f, 1)
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// leave is called by those who wait, and with none by the end of the dispatcher.
func (a *tokenAuth) leave(f *fetch, waiting int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f.waiting -= waiting
	f.orphaned = f.orphaned || waiting == 0
	if f.orphaned && f.waiting == 0 {
		f.cancel()
		if a.fetch == f {
			a.fetch = nil
		}
	}
}
