package fanout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fanout-go/fanout/internal/ability"
	"github.com/fanout-go/fanout/internal/header"
	"github.com/fanout-go/fanout/internal/ids"
	"github.com/fanout-go/fanout/internal/otel"
	"github.com/fanout-go/fanout/internal/redact"
)

// Target is one target API definition. It is plain data where it can be, and
// is copied: changing it after it was given to [New] or [ToTargets] has no
// effect.
//
// # Targets that depend on each other
//
// With After a target waits for others, and its Prepare sees their results. Fallback
// stands in for a target that failed.
//
// With Compensate the dispatch is a saga. When it has ended, each target that was
// delivered to, or may have been, is in one of these states:
//
//   - It was meant to be, as all required targets succeeded, or the Pivot did.
//   - It was undone, and is [Compensated].
//   - It cannot be undone, as it has no Compensate, and its result says what it did.
//   - It is [CompensationFailed], and told to [Config.OnDeadLetter].
//
// Nothing that was never sent is undone. There is no isolation: in between, others see
// the work half done. If the process dies, or Close cuts the saga short, it stays half
// done, unless it was submitted to a queue that goes on with it.
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
	Validate func(context.Context, *Payload) error
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
	shown      otel.Target // in spans and metrics
	conflicts  bool        // a 409 is retried, as a key makes sense of it
	endpoint   *endpoint   // nil for a Sender
	fallbacks  *fallbacks
	compensate *target
	gates      *gates // nil if it is not configured: kept by name then
	found      bool   // by [Config.Lookup], and so again
}

// fallbacks is what a target does instead, made ready.
type fallbacks struct {
	targets []*target
	on      []Outcome
	timeout time.Duration // of the whole delivery; what the target itself has is less
}

// builder makes definitions ready. It has what all targets of a dispatcher share.
type builder struct {
	defaults   Policy
	transport  http.RoundTripper // of targets that bring none of their own
	transports *transports
	inject     func(context.Context, http.Header) // writes the trace context
	lifetime   context.Context                    // the dispatcher's: ends when it is closed
}

// build checks a definition and makes it ready, all but its gates.
func (b *builder) build(def Target, position int) (*target, error) {
	t, err := b.buildUnnamed(def)
	if err != nil && def.Name == "" {
		return nil, errorIn(fmt.Sprintf("#%d", position+1), err)
	}
	return t, errorIn(def.Name, err)
}

func (b *builder) buildUnnamed(def Target) (*target, error) {
	policy := def.over(b.defaults)
	t := &target{Target: def.clone(), policy: policy.withDefaults(), keySuffix: ids.KeySuffix(def.Name), shown: otel.Target{Name: def.Name, Label: otel.OtherLabel}}
	t.conflicts = t.keyed() && (policy.Retry.Statuses == nil || slices.Contains(policy.Retry.Statuses, http.StatusConflict))
	errs := []error{def.check(), policy.check(), def.checkFallback(t.policy.Timeout), b.buildOthers(t)}
	if def.Sender == nil && def.URL != "" {
		var err error
		t.endpoint, err = newEndpoint(b, t)
		errs = append(errs, err)
	}
	if err := join(errs...); err != nil {
		return nil, err
	}
	if t.endpoint != nil {
		t.shown.HTTP = otel.NewHTTP(t.endpoint.method)
	}
	return t, nil
}

// clone copies what a definition shares with its owner.
func (def Target) clone() Target {
	def.Header = def.Header.Clone()
	def.After, def.FallbackOn = slices.Clone(def.After), slices.Clone(def.FallbackOn)
	def.Fallback = slices.Clone(def.Fallback)
	for i := range def.Fallback {
		def.Fallback[i] = def.Fallback[i].clone()
	}
	if def.Compensate != nil {
		undo := def.Compensate.clone()
		def.Compensate = &undo
	}
	return def
}

// buildOthers makes ready what stands in for the target or undoes it.
func (b *builder) buildOthers(t *target) error {
	var fallbacks []*target
	var errs []error
	for i, def := range t.Fallback {
		fallback, err := b.buildOther(def, fmt.Sprintf("Fallback[%d].", i))
		errs = append(errs, err)
		fallbacks = append(fallbacks, fallback)
	}
	if t.Compensate != nil {
		undo := *t.Compensate
		undo.Name = cmp.Or(undo.Name, t.Name+"-compensation")
		var err error
		t.compensate, err = b.buildOther(undo, "Compensate.")
		errs = append(errs, err)
	}
	if len(t.Fallback) > 0 {
		t.fallbacks, t.policy.Timeout = t.fallbackOf(t.policy.Timeout, fallbacks)
	}
	return join(errs...)
}

func (b *builder) buildOther(def Target, field string) (*target, error) {
	t, err := b.buildUnnamed(def)
	for _, field := range def.areSet("After", "Fallback", "Compensate", "Pivot", "Optional") {
		err = join(err, invalid(field, "must not be set for a fallback or a compensation"))
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
		return join(&InvalidError{Field: "Name", Err: err}, def.checkWay())
	}
	return def.checkWay()
}

// checkWay finds out whether there is one way to the target.
func (def *Target) checkWay() error {
	switch {
	case def.URL == "" && def.Sender == nil:
		return invalid("URL", "neither URL nor Sender is set")
	case def.URL != "" && def.Sender != nil:
		return invalid("Sender", "set together with URL")
	case def.Sender != nil:
		if set := def.areSet("Method", "Header", "Auth", "Sign", "Transport", "TLS", "Guard"); len(set) > 0 {
			return invalid("Sender", "set together with %s, which is for a URL", strings.Join(set, ", "))
		}
	case def.Transport != nil && (def.TLS != nil || def.Guard != nil):
		return invalid("Transport", "set together with TLS or Guard, which are for the dispatcher's own")
	}
	return nil
}

// areSet returns those of the fields that are set.
func (def *Target) areSet(fields ...string) []string {
	of := reflect.ValueOf(*def)
	return slices.DeleteFunc(fields, func(field string) bool { return of.FieldByName(field).IsZero() })
}

func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("empty")
	case len(name) > 128:
		return errors.New("longer than 128 bytes")
	case !utf8.ValidString(name):
		return errors.New("not UTF-8")
	case strings.ContainsFunc(name, redact.Misleading):
		return errors.New("has a control character")
	}
	return nil
}

// keyed reports whether the target is told the idempotency key.
func (t *target) keyed() bool { return !t.policy.Idempotency.off() }

// repeatable reports whether a request that may have arrived can be sent again.
func (t *target) repeatable() bool {
	return t.keyed() || (t.endpoint != nil && t.endpoint.idempotent())
}

// refreshable reports whether the target's credentials can be renewed.
func (t *target) refreshable() bool {
	if t.endpoint == nil {
		return false
	}
	_, ok := ability.Of[Refresher](t.endpoint.auth)
	return ok
}

// keyFor is the idempotency key of a delivery: made of the payload's, and the same as the
// delivery's ID if that is made of the same.
func (t *target) keyFor(p *Payload, deliveryID string) string {
	switch {
	case !t.keyed():
		return ""
	case p.Key == p.ID:
		return deliveryID
	}
	return p.Key + t.keySuffix
}

// request is the payload as the target gets it unless its Prepare says otherwise.
func (t *target) request(p *Payload, key string) Request {
	r := Request{Target: t.Name, Key: key, Payload: p, Header: p.Header, ContentType: p.ContentType, Body: p.Body}
	if t.endpoint != nil {
		r.Method, r.URL = t.endpoint.method, t.endpoint.url
	}
	return r
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
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrPrepare}, args...)...)
	}
	if r.Target != given.Target || r.Method != given.Method || r.Payload != given.Payload || r.Key != given.Key ||
		r.RequestID != given.RequestID || r.Attempt != given.Attempt {
		return wrong("it changed more than URL, Header, ContentType and Body")
	}
	if t.endpoint == nil {
		return nil
	}
	if r.URL == nil {
		return wrong("it removed the URL")
	}
	if err := checkURL(r.URL); err != nil {
		return wrong("%s", fieldText(err))
	}
	if t.TLS != nil && r.URL.Scheme != "https" {
		return wrong("the target has TLS, and the URL's scheme is http")
	}
	if err := header.Check(r.Header); err != nil {
		return wrong("Header: %w", err)
	}
	if !header.ValidValue(r.ContentType) {
		return wrong("ContentType: not a header value")
	}
	return nil
}

// fieldText is an InvalidError without its prefix.
func fieldText(err error) string {
	var e *InvalidError
	if errors.As(err, &e) {
		return fmt.Sprintf("%s: %v", e.Field, e.Err)
	}
	return err.Error()
}

// withOthers adds those that stand in for targets or undo them.
func withOthers(targets []*target) iter.Seq[*target] {
	return func(yield func(*target) bool) {
		for _, t := range targets {
			if !yield(t) {
				return
			}
			for _, other := range t.others() {
				if !yield(other) {
					return
				}
			}
		}
	}
}
