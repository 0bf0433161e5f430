package fanout

import "context"

// DispatchOption says more about one [Dispatcher.Dispatch].
type DispatchOption interface{ forDispatch(*options) }

// SubmitOption says more about one [Dispatcher.Submit]. Queues bring options of their
// own, made by [ForQueue].
type SubmitOption interface{ forSubmit(*options) }

// Option is for both. Without any, a dispatch goes to all of [Config.Targets].
type Option interface {
	DispatchOption
	SubmitOption
}

// To names configured targets to dispatch to, instead of all of them. Several
// options add up.
func To(names ...string) Option { return toNames(names) }

// ToTargets gives targets to dispatch to in the call itself, such as the webhook
// a customer has registered. They inherit [Config.Defaults]. Their breaker,
// bulkhead, rate limit and retry budget are kept under their name from call to
// call, and made from the first definition seen. A name not used for 20 minutes
// is forgotten, or later if its breaker or rate limit remembers longer.
func ToTargets(targets ...Target) Option { return toTargets(targets) }

// Quorum has Dispatch return when n targets have been delivered to: 1 for any one, or
// a majority. What is still under way is then cut short, and its result wraps
// [ErrNotNeeded]. The error is nil if there were n, whichever targets they are, and
// all results are waited for if there cannot be n any more. It is not for targets that
// depend on each other.
func Quorum(n int) DispatchOption { return quorum{n, false} }

// QuorumLeaveRest is [Quorum], but what is still under way goes on in the background,
// not bound by the caller's context. Its result is [Unknown] and wraps
// [ErrUnderWay]; the final one is told to [Config.OnResult] and
// [Config.OnDeadLetter]. [Dispatcher.Close] waits for it.
func QuorumLeaveRest(n int) DispatchOption { return quorum{n, true} }

// QueueOption is what one Submit asks of its queue, such as a transaction to accept the
// payload in. A queue that does not know an option refuses the delivery: see
// [Delivery.Check].
type QueueOption struct {
	Name  string // of the function that made it, such as "InTx", for errors
	Value any    // of a type that only the queue's package knows
}

// ForQueue hands an option to the queue. Users of a queue call the functions that its
// package has for it instead.
func ForQueue(o QueueOption) SubmitOption { return o }

// QueueOptions are those of the Submit that a [Config.Lookup] is called for: a queue's
// package finds its transaction there, say.
func QueueOptions(ctx context.Context) []QueueOption {
	all, _ := ctx.Value(queueOptions{}).([]QueueOption)
	return all
}

type queueOptions struct{}

// options is what a call asks for.
type options struct {
	picks   []pick // where to go; none means everywhere
	chosen  bool   // that was said, be it an empty list
	quorum  quorum
	quorums int // how many were given
	queue   []QueueOption
}

// quorum is how many successes a dispatch waits for. The zero value is all.
type quorum struct {
	successes int
	leaveRest bool
}

// pick is a target by its name, or by its definition.
type pick struct {
	name       string
	definition *Target
}

type (
	toNames   []string
	toTargets []Target
)

func (names toNames) forDispatch(o *options) {
	o.chosen = true
	for _, name := range names {
		o.picks = append(o.picks, pick{name: name})
	}
}

func (targets toTargets) forDispatch(o *options) {
	o.chosen = true
	for i := range targets {
		o.picks = append(o.picks, pick{name: targets[i].Name, definition: &targets[i]})
	}
}

func (q quorum) forDispatch(o *options) {
	o.quorums++
	o.quorum = q
}

func (names toNames) forSubmit(o *options)     { names.forDispatch(o) }
func (targets toTargets) forSubmit(o *options) { targets.forDispatch(o) }
func (q QueueOption) forSubmit(o *options)     { o.queue = append(o.queue, q) }

// everywhere is what a call asks for that has no options. Nothing writes it.
var everywhere options

func dispatchOptions(given []DispatchOption) *options {
	if len(given) == 0 {
		return &everywhere // spares an allocation
	}
	o := new(options)
	for _, one := range given {
		if one != nil {
			one.forDispatch(o)
		}
	}
	return o
}

func submitOptions(given []SubmitOption) *options {
	if len(given) == 0 {
		return &everywhere
	}
	o := new(options)
	for _, one := range given {
		if one != nil {
			one.forSubmit(o)
		}
	}
	return o
}

// within has a look-up find the queue's options.
func (o *options) within(ctx context.Context) context.Context {
	if len(o.queue) == 0 {
		return ctx
	}
	return context.WithValue(ctx, queueOptions{}, o.queue)
}
