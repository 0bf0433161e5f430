package fanout_test

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestPolicy_InvalidFieldIsRefusedByName(t *testing.T) {
	for want, policy := range map[string]fanout.Policy{
		"Retry.MaxAttempts: -1 is negative":                                {Retry: fanout.Retry{MaxAttempts: -1}},
		"Retry.InitialBackoff: -1s is negative":                            {Retry: fanout.Retry{InitialBackoff: -time.Second}},
		"Retry.MaxBackoff: -1s is negative":                                {Retry: fanout.Retry{MaxBackoff: -time.Second}},
		"Retry.InitialBackoff: 2s is more than MaxBackoff, 1s":             {Retry: fanout.Retry{InitialBackoff: 2 * time.Second, MaxBackoff: time.Second}},
		"Retry.Multiplier: 0.5 is less than 1":                             {Retry: fanout.Retry{Multiplier: 0.5}},
		"Retry.Multiplier: +Inf is not a number to use":                    {Retry: fanout.Retry{Multiplier: math.Inf(1)}},
		"Retry.Jitter: 1.5 is more than 1":                                 {Retry: fanout.Retry{Jitter: 1.5}},
		"Retry.Jitter: NaN is not a number to use":                         {Retry: fanout.Retry{Jitter: math.NaN()}},
		"Retry.Budget: 0.5 is less than one retry":                         {Retry: fanout.Retry{Budget: 0.5}},
		"Retry.Statuses: 200 is not a status of failure":                   {Retry: fanout.Retry{Statuses: []int{503, 200}}},
		"Breaker.FailureRatio: 2 is more than 1":                           {Breaker: fanout.Breaker{FailureRatio: 2}},
		"Breaker.MinCalls: -1 is negative":                                 {Breaker: fanout.Breaker{MinCalls: -1}},
		"Breaker.Window: -1s is negative":                                  {Breaker: fanout.Breaker{Window: -time.Second}},
		"Breaker.Window: 20s is less than 3 attempt timeouts, 30s":         {Breaker: fanout.Breaker{Window: 20 * time.Second}},
		"Breaker.Probes: -1 is negative":                                   {Breaker: fanout.Breaker{Probes: -1}},
		"RateLimit.PerSecond: NaN is not a number to use":                  {RateLimit: fanout.RateLimit{PerSecond: math.NaN()}},
		"RateLimit.Burst: -1 is negative":                                  {RateLimit: fanout.RateLimit{PerSecond: 1, Burst: -1}},
		"RateLimit.Burst: set without PerSecond":                           {RateLimit: fanout.RateLimit{Burst: 1}},
		`Idempotency.Header: "A B" is not a header name`:                   {Idempotency: fanout.Idempotency{Header: "A B"}},
		`Idempotency.Format: "quoted" is neither "plain" nor "structured"`: {Idempotency: fanout.Idempotency{Format: "quoted"}},
		"Breaker.Window: 5s is less than 3 attempt timeouts, 6s":           {Timeout: 2 * time.Second, Breaker: fanout.Breaker{Window: 5 * time.Second}},
	} {
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{with(via("crm", answering(200)), policy)}})
		require.ErrorContains(t, err, `fanout: target "crm": `+want)
		_, err = fanout.New(fanout.Config{Defaults: policy})
		require.ErrorContains(t, err, "fanout: Defaults."+want)
	}
}

func TestPolicy_ExtremeValuesAreRefusedOrHarmless(t *testing.T) {
	for _, policy := range []fanout.Policy{
		{Timeout: math.MaxInt64}, {AttemptTimeout: math.MaxInt64}, {Breaker: fanout.Breaker{Window: math.MaxInt64}},
		{Breaker: fanout.Breaker{OpenFor: math.MaxInt64}}, {Breaker: fanout.Breaker{Window: 20}, Timeout: -1, AttemptTimeout: -1},
		{Retry: fanout.Retry{InitialBackoff: math.MaxInt64, MaxBackoff: math.MaxInt64}}, {Bulkhead: fanout.Bulkhead{MaxWait: math.MaxInt64}},
	} {
		_, err := fanout.New(fanout.Config{Defaults: policy})
		require.ErrorIs(t, err, fanout.ErrInvalid, "%+v", policy)
	}
	synctest.Test(t, func(t *testing.T) {
		r := deliverTo(t, via("crm", saying("9223372036", 503)), fanout.Policy{
			Timeout: -1, AttemptTimeout: -1,
			Retry:    fanout.Retry{MaxAttempts: 2, InitialBackoff: 365 * 24 * time.Hour, MaxBackoff: 365 * 24 * time.Hour, Budget: math.MaxFloat64},
			Breaker:  fanout.Breaker{Window: 365 * 24 * time.Hour, OpenFor: 365 * 24 * time.Hour, Probes: math.MaxInt, ConsecutiveFailures: math.MaxInt, MinCalls: math.MaxInt},
			Bulkhead: fanout.Bulkhead{MaxConcurrent: math.MaxInt, MaxQueue: math.MaxInt},
		})
		assert.Len(t, r.Attempts, 2)
	})
}

func TestPolicy_MistakeInADefaultIsNotBlamedOnATarget(t *testing.T) {
	_, err := fanout.New(fanout.Config{
		Defaults: fanout.Policy{Retry: fanout.Retry{MaxAttempts: -1}},
		Targets:  []fanout.Target{via("crm", answering(200))},
	})
	assert.EqualError(t, err, "fanout: Defaults.Retry.MaxAttempts: -1 is negative")
}

func TestPolicy_OfATargetOverridesTheDefaultsFieldByField(t *testing.T) {
	d := newWith(t, fanout.Config{
		Defaults: fanout.Policy{Retry: fanout.Retry{MaxAttempts: 2, InitialBackoff: time.Millisecond, MaxBackoff: time.Millisecond}},
		Targets: []fanout.Target{
			via("inherits", answering(500)),
			with(via("differs", answering(500)), fanout.Policy{Retry: fanout.Retry{MaxAttempts: 4}}),
		},
	})
	results := dispatch(t.Context(), d)
	assert.Len(t, results["inherits"].Attempts, 2)
	assert.Len(t, results["differs"].Attempts, 4)
}
