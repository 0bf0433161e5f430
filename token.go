package fanout

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
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
// does everybody else: a token endpoint that is down is not stormed. Nothing of
// that counts in a target's breaker. One TokenAuth may serve several targets.
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

// fetch is a token on its way. It ends early if nobody waits for it any more.
type fetch struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiting int
	err     error
}

const (
	refreshEarly = time.Minute      // at most, before it expires
	failFor      = time.Second      // after a failure
	fetchTimeout = 10 * time.Second // so that one request that hangs is not all that is ever tried
	patience     = time.Second      // for the next token, while the old one can be used
)

func (a *tokenAuth) Authenticate(ctx context.Context, r *http.Request) error {
	token, err := a.get(ctx)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", token.authorization())
	return nil
}

func (t Token) authorization() string { return "Bearer " + t.Value.Reveal() }

// Refresh fetches another token.
func (a *tokenAuth) Refresh(ctx context.Context) error { return a.renew(ctx, "") }

// renew fetches another token, unless the one that was refused is not the one we
// have: then somebody else did.
func (a *tokenAuth) renew(ctx context.Context, refused string) error {
	a.mu.Lock()
	now := time.Now()
	switch {
	case a.fetch != nil:
	case refused != "" && refused != a.token.authorization(), now.Sub(a.refused) < failFor:
		defer a.mu.Unlock()
		return nil
	case a.failed(now):
		defer a.mu.Unlock()
		return a.failure
	default:
		a.refused = now
	}
	f := a.join(ctx)
	a.mu.Unlock()
	return a.wait(ctx, f)
}

func (a *tokenAuth) get(ctx context.Context) (Token, error) {
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
func (a *tokenAuth) waitPatiently(ctx context.Context, f *fetch) (Token, error) {
	least := patience
	if deadline, ok := ctx.Deadline(); ok {
		least = min(least, time.Until(deadline)/2)
	}
	waiting, cancel := context.WithTimeoutCause(ctx, least, errTokenLate)
	defer cancel()
	err := a.wait(waiting, f)
	a.mu.Lock()
	defer a.mu.Unlock()
	if errors.Is(err, errTokenLate) {
		a.failure, a.failedAt = err, time.Now()
	}
	if a.usable(time.Now()) {
		return a.token, nil
	}
	return Token{}, err
}

var errTokenLate = errors.New("no token: the next one is late")

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

// join takes part in the fetch under way, or begins one. The lock is held.
func (a *tokenAuth) join(ctx context.Context) *fetch {
	if a.fetch == nil {
		fetching, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		a.fetch = &fetch{done: make(chan struct{}), cancel: cancel}
		go a.run(fetching, a.fetch)
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
	if err == nil && token.Value.IsZero() {
		err = errors.New("the token is empty")
	}
	if err != nil {
		err = fmt.Errorf("no token: %w", withoutURL(err))
	}
	if f.err = err; a.fetch == f {
		a.fetch = nil
		if a.failure = err; err == nil {
			a.token, a.fetched = token, time.Now()
		} else {
			a.failedAt = time.Now()
		}
	}
	close(f.done)
}

// wait returns when the fetch has ended, or the caller's time has. The last who
// goes cancels it, and a new one may begin.
func (a *tokenAuth) wait(ctx context.Context, f *fetch) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if f.waiting--; f.waiting == 0 {
		f.cancel()
		if a.fetch == f {
			a.fetch = nil
		}
	}
	return context.Cause(ctx)
}
