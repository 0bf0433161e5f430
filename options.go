package fanout

import "context"

// DispatchOption is an option of [Dispatcher.Dispatch].
type DispatchOption interface{ forDispatch(*options) }

// SubmitOption is an option of [Dispatcher.Submit]. Queues have options of their own,
// which [ForQueue] makes.
type SubmitOption interface{ forSubmit(*options) }

// Option is an option of both. Without options, a dispatch goes to all of
// [Config.Targets].
type Option interface {
	DispatchOption
	SubmitOption
}

// To dispatches to the targets of these names instead of to all. A name that is not
// configured is given to [Config.Lookup]. Several options add up.
func To(names ...string) Option { return toNames(names) }

// ToTargets dispatches to targets that are defined in the call, such as the webhook that
// a customer has registered. They inherit [Config.Defaults]. Their breaker, bulkhead,
// rate limit and retry budget are kept by name from call to call, and have the policy
// that the first call gave. If a name is not used for 10 to 20 minutes, they are
// forgotten, or later if its breaker or rate limit remembers longer. A configured target
// of the same name shares its own.
func ToTargets(targets ...Target) Option { return toTargets(targets) }

// Quorum lets Dispatch return when n targets have succeeded, whichever they are. With 1,
// for example, one is sufficient. What still runs is then cut short, and its result wraps
// [ErrNotNeeded]. The error is nil if n succeeded. Otherwise it is a [*DispatchError]
// with all that failed, optional targets too. The dispatch is refused if n is less than 1
// or more than the number of targets, or if the targets depend on each other.
func Quorum(n int) DispatchOption { return quorum{n, false} }

// QuorumLeaveRest is [Quorum], but what still runs then goes on in the background, even
// if the caller's context ends. In the returned results it is [Unknown] and wraps
// [ErrUnderWay]. [Config.OnResult] and [Config.OnDeadLetter] get its final result.
// [Dispatcher.Close] waits for it.
func QuorumLeaveRest(n int) DispatchOption { return quorum{n, true} }

// QueueOption is an option of Submit for the queue, such as the transaction in which to
// store the payload. A queue refuses a delivery with an option that it does not know: see
// [Delivery.Check].
type QueueOption struct {
	Name  string // the function that made it, such as "InTx", for errors
	Value any    // of a type that only the queue's package knows
}

// ForQueue gives an option to the queue. It is for authors of queues. A user calls a
// function of the queue's package, which calls ForQueue.
func ForQueue(o QueueOption) SubmitOption { return o }

// QueueOptions returns the options of the Submit for which a [Config.Lookup] is called.
// For example, a queue's package finds its transaction there.
func QueueOptions(ctx context.Context) []QueueOption {
	all, _ := ctx.Value(queueOptions{}).([]QueueOption)
	return all
}

type queueOptions struct{}

// options holds the options of one call.
type options struct {
	picks   []pick // the targets, if chosen
	chosen  bool   // there was a To or ToTargets, even an empty one
	quorum  quorum
	quorums int // number of quorum options
	queue   []QueueOption
}

// quorum says how many successes a dispatch waits for. The zero value means all.
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

// everywhere is shared by all calls without options. Nothing changes it.
var everywhere options

func dispatchOptions(given []DispatchOption) *options {
	if len(given) == 0 {
		return &everywhere // saves an allocation
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

// within returns a context in which a look-up finds the queue's options.
func (o *options) within(ctx context.Context) context.Context {
	if len(o.queue) == 0 {
		return ctx
	}
	return context.WithValue(ctx, queueOptions{}, o.queue)
}
