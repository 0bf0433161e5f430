// Package fanout sends one payload to several APIs at the same time. Each has its own
// retry, circuit breaker and bulkhead, and its own result.
//
//	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{
//		{Name: "email", URL: "https://email.example/v1/messages"},
//		{Name: "crm", URL: "https://crm.example/contacts", Method: http.MethodPut},
//	}})
//	results, err := d.Dispatch(ctx, signup) // any value, or a Payload
//	fmt.Println(results["crm"].Outcome)     // delivered, failed, unknown, rejected, ...
//
// [Config], [Target] and [Policy] describe the input, [Results] and [Outcome] the output.
// [Dispatcher.Submit] delivers in the background.
//
// # How to read an error
//
// The type says how far the dispatch got. A [*RefusedError] means that nothing began. A
// [*DispatchError] means that some targets failed. It has a [*TargetError] with the
// [Outcome] for each of them. [errors.Is] with one of the variables below finds out why a
// target failed, and [ClassOf] returns the reason as one word. For example:
//
//	fanout: 1 of 3 targets not delivered: crm: given up after 3 attempts: 503 Service Unavailable
//
// # Packages beside this one
//
// Package auth has credentials, package webhook has signatures, and package cloudevent
// makes payloads from events. Package fanouthttp has a handler and a status page,
// fanoutfile reads targets from JSON, and fanouttest has fake targets. Module durable
// stores submitted payloads in a database.
package fanout
