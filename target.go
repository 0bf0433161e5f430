package fanout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fanout-go/fanout/internal/header"
)

// Target is one target API definition. It is plain data where it can be, and
// is copied: changing it after it was given to [New] or [ToTargets] has no
// effect.
type Target struct {
	// Name identifies the target in results, logs and errors, and is what its
	// breaker, bulkhead, rate limit and retry budget are kept under. 1 to 128
	// bytes without control characters, unique within a dispatch.
	Name string

	// URL of an HTTP target, http or https, without userinfo or fragment.
	// Exactly one of URL and Sender must be set.
	URL string
	// Method, in upper case. Default POST. GET and HEAD send no body.
	Method string
	// Header is sent with every request. Headers that belong to the connection
	// or to this library, such as Content-Length and the idempotency key's, are
	// refused, and so is Content-Type, which is the payload's.
	Header http.Header
	// Auth adds credentials to every attempt. Package auth has those that are common.
	// Default none. See [Refresher] for those that expire.
	Auth Authenticator
	// Sign signs every attempt, after Auth. Default none. Package webhook
	// has one.
	Sign Signer
	// Transport carries this target's requests. Default [Config.Transport]. It
	// must not follow redirects or retry by itself.
	Transport http.RoundTripper
	// TLS has client certificates and private CAs. It is for the dispatcher's own
	// transport, which it then has instead of [Config.Transport], and must not be set
	// together with Transport. Default none, and the system's CAs.
	TLS *TLS
	// Guard is for a URL that a stranger chose, such as a customer's webhook: see
	// [PublicOnly]. It is for the dispatcher's own transport, as TLS is. Each different
	// pair of TLS and Guard keeps a transport until Close. Default none.
	Guard *Guard

	// Sender carries the payload to a target that is not a URL.
	Sender Sender

	// Validate looks at a payload before anything is sent to any target. An error
	// refuses the whole dispatch, with an [*InvalidError]. It must not change the
	// payload. Default none.
	Validate func(context.Context, *Submission) error
	// Prepare shapes this target's request, once per delivery: its URL, Header,
	// ContentType and Body. An error ends the delivery as [Rejected]. Default: the
	// payload as it is.
	Prepare func(context.Context, *Request) error
	// Classify judges a complete answer: nil is delivered, whatever the status;
	// an error is the target's no, retried unless it is [Permanent]. It must not
	// change the answer. Default: [Response.Err].
	Classify func(*Response) error

	// Optional keeps this target's failure out of [Results.Err].
	Optional bool

	// After names targets of the same dispatch that must have succeeded before this
	// one begins; its Prepare finds their results in [Request.Earlier]. If one did
	// not, this one is [Skipped]. [Policy.Timeout] counts from when it begins.
	// Default none: it begins at once.
	After []string

	// Fallback are tried one after the other if this target was not delivered to, each
	// with its own policy and key, until one succeeds, and the outcome is [Degraded];
	// or may have, and it is [Unknown]. Their After, Compensate, Fallback, Pivot
	// and Optional must not be set. Not if the caller's context has ended. [Answer]
	// is a Sender for the last one. Default none.
	Fallback []Target
	// FallbackOn are the outcomes to fall back on: of [Failed], [Rejected] and
	// [Unknown], which risks that both take effect. Default Failed and Rejected.
	FallbackOn []Outcome
	// FallbackReserve is the part of [Policy.Timeout] that is kept for the
	// fallbacks. Default a fifth of it; negative means none.
	FallbackReserve time.Duration

	// Compensate undoes what this target did, and makes the dispatch a saga: if a
	// required target does not succeed, none that comes after another begins any
	// more, and all that were
	// delivered to, or may have been, are compensated, those that come after others
	// first. It has a policy and key of its own, and outlives the caller's context;
	// its Prepare finds the result to undo in [Request.Earlier]. Its Name is by
	// default this target's and "-compensation"; its After, Compensate, Fallback,
	// Pivot and Optional must not be set. It must be safe to call though the target
	// did nothing: after [Unknown] nobody knows. Default: it cannot be undone.
	Compensate *Target
	// Pivot marks the target after whose success the saga only goes forward: then
	// nothing is compensated, whatever fails. A pivot that ends in [Unknown] counts as
	// passed unless it can be compensated itself. At most one in a dispatch.
	Pivot bool

	Policy
}

// target is a definition made ready: checked, copied, with its policy resolved
// and its gates at hand.
type target struct {
	Target
	policy     Policy
	keySuffix  string
	label      string    // in metrics: its name, or one it shares
	conflicts  bool      // a 409 is retried, as a key makes sense of it
	endpoint   *endpoint // nil for a Sender
	fallbacks  *fallbacks
	compensate *target
	gates      *gates // nil if it is not configured: kept by name then
	found      bool   // by [Config.Lookup], and so again
}

// compile checks a definition and makes it ready, all but its gates.
func (d *Dispatcher) compile(def Target, position int) (*target, error) {
	t, err := d.compileUnnamed(def)
	if err != nil && def.Name == "" {
		return nil, errorIn(fmt.Sprintf("#%d", position+1), err)
	}
	return t, errorIn(def.Name, err)
}

func (d *Dispatcher) compileUnnamed(def Target) (*target, error) {
	if err := def.check(); err != nil {
		return nil, err
	}
	policy := def.over(d.defaults)
	if err := policy.check(); err != nil {
		return nil, err
	}
	t := &target{Target: def, policy: policy.withDefaults(), keySuffix: keySuffix(def.Name), label: otherLabel}
	t.conflicts = t.keyed() && (policy.Retry.Statuses == nil || slices.Contains(policy.Retry.Statuses, http.StatusConflict))
	if err := def.checkFallback(&t.policy); err != nil {
		return nil, err
	}
	if err := d.compileOthers(t); err != nil {
		return nil, err
	}
	if def.Sender == nil {
		endpoint, err := d.newEndpoint(&def, t.policy)
		if err != nil {
			return nil, err
		}
		t.endpoint = endpoint
	}
	return t, nil
}

// compileOthers makes ready what stands in for the target or undoes it.
func (d *Dispatcher) compileOthers(t *target) error {
	var stands []*target
	var errs []error
	for i, def := range t.Fallback {
		stand, err := d.compileOther(def, fmt.Sprintf("Fallback[%d].", i))
		errs = append(errs, err)
		stands = append(stands, stand)
	}
	if t.Compensate != nil {
		undo := *t.Compensate
		undo.Name = cmp.Or(undo.Name, t.Name+"-compensation")
		var err error
		t.compensate, err = d.compileOther(undo, "Compensate.")
		errs = append(errs, err)
	}
	if len(t.Fallback) > 0 {
		t.fallbacks = t.fallbackOf(&t.policy, stands)
	}
	return join(errs...)
}

func (d *Dispatcher) compileOther(def Target, field string) (*target, error) {
	t, err := d.compileUnnamed(def)
	if def.After != nil || def.Fallback != nil || def.Compensate != nil || def.Pivot || def.Optional {
		err = join(err, invalid("After", "or Fallback, Compensate, Pivot or Optional is set, which is for targets of the dispatch"))
	}
	return t, mapInvalid(err, func(e *InvalidError) { e.Field = field + e.Field })
}

// others are the targets that stand in for this one or undo it.
func (t *target) others() []*target {
	var others []*target
	if t.fallbacks != nil {
		others = append(others, t.fallbacks.targets...)
	}
	if t.compensate != nil {
		others = append(others, t.compensate)
	}
	return others
}

func (def *Target) check() error {
	if err := checkName(def.Name); err != nil {
		return &InvalidError{Field: "Name", Err: err}
	}
	switch {
	case def.URL == "" && def.Sender == nil:
		return invalid("URL", "neither URL nor Sender is set")
	case def.URL != "" && def.Sender != nil:
		return invalid("Sender", "set together with URL")
	case def.Sender != nil && (def.Method != "" || def.Header != nil || def.Auth != nil || def.Sign != nil || def.Transport != nil || def.TLS != nil || def.Guard != nil):
		return invalid("Sender", "set together with Method, Header, Auth, Sign, Transport, TLS or Guard, which are for a URL")
	case def.Transport != nil && (def.TLS != nil || def.Guard != nil):
		return invalid("Transport", "set together with TLS or Guard, which are for the dispatcher's own")
	}
	return nil
}

func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("empty")
	case len(name) > 128:
		return errors.New("longer than 128 bytes")
	case !utf8.ValidString(name):
		return errors.New("not UTF-8")
	case strings.ContainsFunc(name, misleading):
		return errors.New("has a control character")
	}
	return nil
}

// keyed reports whether the target is told the idempotency key.
func (t *target) keyed() bool { return !t.policy.Idempotency.off() }

// repeatable reports whether a request that may have arrived can be sent again.
func (t *target) repeatable() bool {
	return t.keyed() || (t.endpoint != nil && idempotentMethod(t.endpoint.method))
}

// refreshable reports whether the target's credentials can be renewed.
func (t *target) refreshable() bool {
	if t.endpoint == nil {
		return false
	}
	_, ok := ability[Refresher](t.endpoint.auth)
	return ok
}

// build readies an attempt: what can fail before anything is sent does so here.
func (t *target) build(ctx context.Context, x *exchange, r *Request) error {
	if t.endpoint != nil {
		return t.endpoint.build(ctx, x, r)
	}
	own := *r
	own.Header = r.Header.Clone()
	x.own = &own
	return nil
}

// send makes the attempt.
func (t *target) send(ctx context.Context, x *exchange) (*Response, error) {
	if t.endpoint != nil {
		return t.endpoint.roundTrip(ctx, x)
	}
	return t.Sender.Send(ctx, x.own)
}

func (t *target) checkPrepared(given, r *Request) error {
	if r.Target != given.Target || r.Method != given.Method || r.DispatchID != given.DispatchID ||
		r.CorrelationID != given.CorrelationID || r.IdempotencyKey != given.IdempotencyKey {
		return &InvalidError{Target: t.Name, Field: "Prepare", Err: errors.New("changed more than URL, Header, ContentType and Body")}
	}
	if t.endpoint == nil {
		return nil
	}
	if r.URL == nil {
		return &InvalidError{Target: t.Name, Field: "Prepare", Err: errors.New("URL removed")}
	}
	if err := checkURL(r.URL); err != nil {
		return errorIn(t.Name, err)
	}
	if t.TLS != nil && r.URL.Scheme != "https" {
		return &InvalidError{Target: t.Name, Field: "Prepare", Err: errors.New("the target has TLS, and the URL's scheme is http")}
	}
	if err := checkHeader(r.Header); err != nil {
		return &InvalidError{Target: t.Name, Field: "Header", Err: err}
	}
	if !header.ValidValue(r.ContentType) {
		return &InvalidError{Target: t.Name, Field: "ContentType", Err: errors.New("not a header value")}
	}
	return nil
}

// errorIn names the target in every InvalidError that err holds.
func errorIn(name string, err error) error {
	return mapInvalid(err, func(e *InvalidError) { e.Target = name })
}

// mapInvalid returns err with change made to copies of all its InvalidErrors.
func mapInvalid(err error, change func(*InvalidError)) error {
	switch e := err.(type) { //nolint:errorlint // the tree is rebuilt, node by node
	case *InvalidError:
		changed := *e
		change(&changed)
		return &changed
	case interface{ Unwrap() []error }:
		var all []error
		for _, inner := range e.Unwrap() {
			all = append(all, mapInvalid(inner, change))
		}
		return join(all...)
	}
	return err
}

func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// url.Parse quotes the URL, which may hold a secret.
		return nil, invalid("URL", "cannot be parsed (not shown, as it may hold a secret)")
	}
	return u, checkURL(u)
}

func checkURL(u *url.URL) error {
	switch {
	case u.User != nil:
		return invalid("URL", "has userinfo: use Auth or a header")
	case u.Scheme != "http" && u.Scheme != "https":
		return invalid("URL", "scheme is neither http nor https")
	case u.Hostname() == "":
		return invalid("URL", "no host")
	case portOf(u) > 65535:
		return invalid("URL", "its port is above 65535")
	case u.Fragment != "":
		return invalid("URL", "has a fragment, which is never sent")
	}
	return nil
}
