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

// Target defines one API that payloads are sent to. It is copied: changing it after it
// was given to [New], [Dispatcher.SetTargets] or [ToTargets] has no effect.
//
// # Targets that depend on each other
//
// A target with After begins when the targets it names have succeeded. Its Prepare gets
// their results. A target with Fallback is replaced by others if it fails.
//
// If a target has Compensate, the dispatch is a saga. When a saga has ended, each target
// that was delivered to, or may have been, is in one of these states:
//
//   - It keeps its effect, because all required targets succeeded or the Pivot did.
//   - Its effect was undone, and it is [Compensated].
//   - It has no Compensate, so it cannot be undone. Its result says what it did.
//   - Its compensation failed. It is [CompensationFailed], and [Config.OnDeadLetter] gets
//     it.
//
// What was never sent is never undone. A saga does not isolate: while it runs, others see
// some effects without the rest. If the process dies, or Close cuts the saga short, some
// targets keep their effect. Only a queue that calls the saga again, such as that of
// module durable, can then finish it.
type Target struct {
	// Name identifies the target in results, logs and errors. Its breaker, bulkhead, rate
	// limit and retry budget are kept under this name. It has 1 to 128 bytes of UTF-8, has
	// no control characters, and is unique within a dispatch. Required.
	Name string

	// URL of an HTTP target. It begins with http or https, and has no userinfo and no
	// fragment. Exactly one of URL and Sender must be set.
	URL string
	// Method, in upper case. Default POST. GET and HEAD send no body. CONNECT is an error.
	Method string
	// Header is sent with every request. Default none. It must not set headers that the
	// connection or this library sets, such as Content-Length, X-Request-ID and the one of
	// the idempotency key. Content-Type is set by the payload.
	Header http.Header
	// Auth adds credentials to every attempt. Default none. Package auth has the common
	// kinds. For credentials that expire, see [Refresher].
	Auth Authenticator
	// Sign signs every attempt, after Auth. Default none. Package webhook has a signer.
	Sign Signer
	// Transport sends this target's requests. Default [Config.Transport]. It must not follow
	// redirects and must not retry. The caller owns it.
	Transport http.RoundTripper
	// TLS has client certificates and private CAs. It configures the dispatcher's own
	// transport, which this target then uses instead of [Config.Transport]. It must not be
	// set together with Transport. Default: no client certificate, and the system's CAs.
	TLS *TLS
	// Guard is for a URL that you do not control, such as a customer's webhook: see
	// [PublicOnly]. As with TLS, the target then uses the dispatcher's own transport, and
	// Transport must not be set. Each different pair of TLS and Guard keeps a transport
	// until Close. Default none.
	Guard *Guard

	// Sender delivers the payload to a target that has no URL, such as a message broker.
	Sender Sender

	// Validate checks a payload before anything is sent to any target. If it returns an
	// error, the whole dispatch is refused with an [*InvalidError]. It must not change the
	// payload. Default none.
	Validate func(context.Context, *Payload) error
	// Prepare changes this target's request, once per delivery, before the first attempt. It
	// may change URL, Header, ContentType and Body. If it returns an error, the delivery is
	// [Rejected]. Default: the payload is sent as it is.
	Prepare func(context.Context, *Request) error
	// Classify judges a complete answer. Nil means delivered, whatever the status is. An
	// error means that the target denied. It is retried, with two exceptions: not if it is
	// [Permanent], and a [*StatusError] only if [Retry.Statuses] has its status. Classify
	// must not change the answer. Default: [Response.Err].
	Classify func(*Response) error

	// Optional keeps this target's failure out of [Results.Err]. Default: it is required.
	Optional bool

	// After names targets of the same dispatch. This target begins when all of them have
	// succeeded, and its Prepare gets their results in [Request.Earlier]. If one does not
	// succeed, this target is [Skipped]. [Policy.Timeout] counts from when it begins.
	// Default none: it begins at once.
	After []string

	// Fallback lists targets to try if this one fails, in this order, for example a second
	// mail provider and then an [Answer]. Each has a policy and an idempotency key of its
	// own, and this target's Timeout limits all of them together. The first that succeeds
	// ends the list, and the outcome is [Degraded]. One that is [Unknown] also ends it, and
	// the outcome is Unknown. If all fail, the outcome stays as it was. None is tried after
	// the caller's context has ended. Their After, Compensate, Fallback, Pivot and Optional
	// must not be set. Default none.
	Fallback []Target
	// FallbackOn lists the outcomes after which the fallbacks are tried. It may have
	// [Failed], [Rejected] and [Unknown]. With Unknown, both this target and a fallback may
	// take effect. Default Failed and Rejected.
	FallbackOn []Outcome
	// FallbackReserve is the part of [Policy.Timeout] that is kept for the fallbacks. For
	// example, with a Timeout of 30 s and a reserve of 10 s the target itself has 20 s. It
	// must be less than Timeout. Default a fifth of Timeout; negative means none.
	FallbackReserve time.Duration

	// Compensate undoes what this target did, and makes the dispatch a saga. If a required
	// target does not succeed, no more targets with After begin, and all targets that were
	// delivered to, or may have been, are compensated. Those that come after others are
	// compensated first.
	//
	// A compensation has a policy and an idempotency key of its own, and does not end with
	// the caller's context. Its Prepare gets the result to undo in [Request.Earlier]. It
	// must have no effect if the target did nothing, because after [Unknown] nobody knows
	// what the target did. If its Name is empty, it is the target's with "-compensation"
	// added. Its After, Compensate, Fallback, Pivot and Optional must not be set. Default:
	// the target cannot be undone.
	Compensate *Target
	// Pivot marks the target after which the saga cannot go back. If the pivot succeeds,
	// nothing is compensated, whatever fails. A pivot that ends in [Unknown] counts as
	// succeeded, unless it has a Compensate. A dispatch has at most one pivot.
	Pivot bool

	Policy
}

// target is a definition that was checked and copied. Its policy has all defaults filled
// in.
type target struct {
	Target
	policy     Policy
	keySuffix  string
	shown      otel.Target // in spans and metrics
	conflicts  bool        // a 409 is retried: with a key it means that an earlier attempt is in progress
	endpoint   *endpoint   // nil for a Sender
	fallbacks  *fallbacks
	compensate *target
	gates      *gates // nil if the target is not configured: then they are found by its name
	found      bool   // by [Config.Lookup], which can find it again
}

// fallbacks holds the built [Target.Fallback] of a target.
type fallbacks struct {
	targets []*target
	on      []Outcome
	timeout time.Duration // of the whole delivery; the target itself has less, by its reserve
}

// builder turns definitions into targets. It has what all targets of a dispatcher share.
type builder struct {
	defaults   Policy
	transport  http.RoundTripper // of targets that have no Transport of their own
	transports *transports
	inject     func(context.Context, http.Header) // writes the trace context
	lifetime   context.Context                    // the dispatcher's: ends when it is closed
}

// build checks a definition and makes a target of it, without gates.
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

// clone copies the slices, maps and targets that a definition points to.
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

// buildOthers builds the target's fallbacks and its compensation.
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

// others returns the target's fallbacks and its compensation.
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

// checkWay checks that exactly one of URL and Sender is set, and that the other fields
// fit.
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

// areSet returns the names of those fields that are not zero.
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

// keyed reports whether the target gets an idempotency key.
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

// keyFor returns the idempotency key of a delivery, which is made from the payload's Key.
// If Key and ID are equal, the result equals deliveryID, which is returned to save
// memory.
func (t *target) keyFor(p *Payload, deliveryID string) string {
	switch {
	case !t.keyed():
		return ""
	case p.Key == p.ID:
		return deliveryID
	}
	return p.Key + t.keySuffix
}

// request returns the target's request as it is before Prepare changes it.
func (t *target) request(p *Payload, key string) Request {
	r := Request{Target: t.Name, Key: key, Payload: p, Header: p.Header, ContentType: p.ContentType, Body: p.Body}
	if t.endpoint != nil {
		r.Method, r.URL = t.endpoint.method, t.endpoint.url
	}
	return r
}

// build makes the attempt's request. Any error that can happen before sending happens
// here.
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

// fieldText returns the text of an InvalidError without its prefix.
func fieldText(err error) string {
	var e *InvalidError
	if errors.As(err, &e) {
		return fmt.Sprintf("%s: %v", e.Field, e.Err)
	}
	return err.Error()
}

// withOthers yields each target, followed by its fallbacks and its compensation.
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
