// Package fanout sends one payload to several APIs at once, each behind its own retry,
// circuit breaker and bulkhead, and says what became of each.
//
//	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{
//		{Name: "email", URL: "https://email.example/v1/messages"},
//		{Name: "crm", URL: "https://crm.example/contacts", Method: http.MethodPut},
//	}})
//	results, err := d.Dispatch(ctx, signup) // any value, or a Payload
//	fmt.Println(results["crm"].Outcome)     // delivered, failed, unknown, rejected, ...
//
// Read [Config], [Target] and [Policy] for what goes in, and [Results] and [Outcome] for
// what comes out. [Dispatcher.Submit] delivers in the background.
//
// # How to read an error
//
// The type says how far it got. A [*RefusedError] means that nothing was begun. A
// [*DispatchError] means that some targets failed: it has a [*TargetError] for each, with
// the [Outcome]. [errors.Is] with one of the variables below says why, and [ClassOf] says
// it in a word. For example:
//
//	fanout: 1 of 3 targets not delivered: crm: given up after 3 attempts: 503 Service Unavailable
//
// # Packages beside this one
//
// Package auth has credentials, package webhook has signatures, and package cloudevent
// makes payloads of events.
// Package fanouthttp has a handler and a status page, fanoutfile reads targets from JSON,
// and fanouttest has fake targets. Module durable keeps what is submitted in a database.
package fanout
