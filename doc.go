// Package fanout sends one payload to several APIs: concurrently, each behind
// its own retry, circuit breaker and bulkhead, with a result for every one.
//
//	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{
//		{Name: "email", URL: "https://email.example/v1/messages"},
//		{Name: "crm", URL: "https://crm.example/contacts", Method: http.MethodPut},
//		{Name: "ledger", Sender: fanout.SenderFunc(ledgerSDK)},
//	}})
//	results, err := d.Dispatch(ctx, signup)
//
// # Dispatches, targets and attempts
//
// A dispatch is one payload on its way to a set of targets. A target is the
// definition of one API: a URL, or a [Sender] for anything that is not HTTP. A
// dispatch makes one delivery per target, and a delivery makes one or more
// attempts, each a try on the wire. [Dispatcher.Dispatch] returns when all
// deliveries have ended. One that fails, hangs or panics changes nothing for the
// others.
//
// # Results
//
// Every target has an entry in [Results], whose [Outcome] is one of
//
//   - [Delivered]: the target accepted the payload;
//   - [Failed]: the target said no, or was never reached;
//   - [Unknown]: sent, but not answered, so it may have taken effect. That
//     includes 502 and 504, with which a gateway gives up on the target behind it
//     (RFC 9110, sections 15.6.3 and 15.6.5);
//   - [Rejected]: never sent;
//   - [Degraded]: not delivered, but a [Target.Fallback] was;
//   - [Skipped]: it comes after a target that did not succeed;
//   - [Compensated] and [CompensationFailed]: the saga failed, and what was done is
//     undone, or is not.
//
// [Results.Err] joins the failures of the targets that are not
// [Target.Optional]. It works with [errors.Is] and [errors.As], and reads like
//
//	fanout: 1 of 3 targets not delivered: crm: given up after 3 attempts: 503 Service Unavailable
//
// # What happens to a call
//
// For each attempt, in this order: the breaker is asked whether it is open; the
// rate limit gives a token; the bulkhead gives a place; the breaker admits; the
// attempt timeout starts; [Target.Auth] signs; the request is sent; the answer
// is read, within bounds, and judged. Then [Retry] decides whether there is
// another one, and waits without holding a place or a token. [Policy.Timeout]
// bounds it all. So what waits in our own queues never counts against a target,
// and what we reject ourselves, or the caller cancels, never moves its breaker.
//
// Every policy has defaults that are safe to use as they are; the zero [Policy]
// is complete. [Config.Defaults] changes them for all targets, a target's own
// [Policy] for one.
//
// # Targets that depend on each other
//
// With [Target.After] a target waits for others, and its [Target.Prepare] sees their
// results. [Target.Fallback] stands in for one that failed, a [Hedge] runs beside one
// that is slow, and [Enough] is for when not all are needed.
//
// With [Target.Compensate] the dispatch is a saga. What it promises is this: when it
// has ended, every target that was delivered to, or may have been, was either meant to
// be, because all required targets succeeded or the [Target.Pivot] did; or was undone,
// and is [Compensated]; or cannot be undone, and its result says what it did; or is
// [CompensationFailed], and told to [Config.OnDeadLetter]. Nothing that was never sent
// is undone. In between, others see the work half done: there is no isolation. If
// the process dies, or Close cuts the saga short, it stays half done: the queue in
// memory forgets it, and only what Close names is known.
//
// # In the background
//
// [Dispatcher.Submit] accepts a payload and returns; the deliveries outlive the
// request. [Config.OnResult] and [Config.OnDeadLetter] are told what became of
// them, and [Dispatcher.Close] waits for those that are left. When targets are
// slower than what comes in, Submit fails with [ErrFull]: memory is bounded, and
// nothing accepted is dropped in silence. A submission that waits costs its body
// and about 330 bytes, and no goroutine.
//
// # Idempotency
//
// A target that does not answer may have acted. Every delivery therefore carries
// an idempotency key, the same on all its attempts, by which the target can tell
// a repetition; see [Idempotency]. Without one, a method that is not idempotent
// is repeated only where nothing can have reached the target.
//
// # Correlation
//
// Every request carries the correlation ID of the dispatch, taken from the
// context ([WithCorrelationID], [CorrelationMiddleware]) or minted, and a request
// ID of its own. [NewCorrelationHandler] adds the former to log records.
//
// # Credentials, signatures and events
//
// Package auth has credentials for [Target.Auth]: API keys, passwords, tokens that are
// renewed before they expire, and secrets that are looked up when needed. Package webhook
// signs requests for [Target.Sign], as Standard Webhooks describes. Package cloudevent
// writes payloads as CloudEvents.
//
// # Gateways, and definitions from a file
//
// Package fanouthttp has a handler that turns each inbound request into one dispatch, and
// a status page.
//
// Package fanoutfile reads targets and policies from JSON, with secrets by reference.
//
// # Testing
//
// Package fanouttest has fake targets that fail as real ones do, over loopback
// or in memory and in the virtual time of testing/synctest.
package fanout
