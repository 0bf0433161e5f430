package fanout

import (
	"context"
	"time"
)

// Hooks are functions that are told what happens as it happens, for those who do
// without OpenTelemetry. Any may be nil. They run on the goroutine of the delivery,
// outside all locks, and hold it up; a panic in one is contained, and logged. Their
// arguments must not be changed. What a submitted delivery came to in the end is
// told to [Config.OnResult].
type Hooks struct {
	// AttemptStart comes when an attempt has passed all gates.
	AttemptStart func(context.Context, Request)
	// AttemptDone comes when an attempt that was sent has ended.
	AttemptDone func(context.Context, Request, Attempt)
	// Waited comes when a delivery has waited, for as long as it did.
	Waited func(ctx context.Context, target string, why Wait, waited time.Duration)
	// BreakerChanged comes when a target's breaker changed its state.
	BreakerChanged func(ctx context.Context, target string, from, to BreakerState)
	// DeliveryDone comes when a delivery has ended: for a queue that delivers
	// later again, every time.
	DeliveryDone func(context.Context, Result)
}

// Wait is what a delivery waits for.
type Wait string

// The waits of a delivery.
const (
	WaitRateLimit Wait = "rate_limit"
	WaitBulkhead  Wait = "bulkhead"
	WaitBackoff   Wait = "backoff"
	WaitBreaker   Wait = "breaker"      // to close, in the background
	WaitBudget    Wait = "retry_budget" // to refill, in the background
	WaitToken     Wait = "token"        // to be had, in the background
)
