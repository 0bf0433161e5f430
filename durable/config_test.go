package durable_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
)

func TestConfig_ThatCannotWorkIsRefused(t *testing.T) {
	for want, config := range map[string]durable.Config{
		"Schedule[1]: -1ns is negative":                           {Schedule: []time.Duration{0, -1}},
		"Concurrency: -1 is not in 1 to 10,000":                   {Concurrency: -1},
		`Targets["a"].Concurrency: 10001 is not in 1 to 10,000`:   {Targets: map[string]durable.TargetConfig{"a": {Concurrency: 10001}}},
		`Targets["a"].Schedule[0]: -1s is negative`:               {Targets: map[string]durable.TargetConfig{"a": {Schedule: []time.Duration{-time.Second}}}},
		"TakeOver: 1s is less than 2s":                            {TakeOver: time.Second},
		"Retention: 1ns is less than 1s":                          {Retention: 1},
		"Schedule[0]: 5ns is less than 1ms: is its unit missing?": {Schedule: []time.Duration{5, 300}},
		"Schema: is for Postgres":                                 {Schema: "fanout"},
		`Schema: "x; y" is not letters, digits and underscores`:   {Schema: "x; y"},
	} {
		_, err := durable.Open(filepath.Join(t.TempDir(), "q.db"), config)
		require.ErrorIs(t, err, fanout.ErrInvalid)
		require.ErrorContains(t, err, want)
	}
}

func TestConfig_ALimitIsAllowedAndWhatIsBeyondItIsRefused(t *testing.T) {
	pool := connect(t, "postgres://nowhere.invalid/nothing") // it is not used
	waiting := func(wait time.Duration) durable.Config { return durable.Config{Schedule: []time.Duration{wait}} }
	one := func(target durable.TargetConfig) durable.Config {
		return durable.Config{Targets: map[string]durable.TargetConfig{"crm": target}}
	}
	const year = 365 * 24 * time.Hour
	for name, c := range map[string]struct{ allowed, refused durable.Config }{
		"many waits":      {durable.Config{Schedule: fast(1000)}, durable.Config{Schedule: fast(1001)}},
		"a short wait":    {waiting(time.Millisecond), waiting(time.Millisecond - 1)},
		"a long wait":     {waiting(year), waiting(year + 1)},
		"a target's wait": {one(durable.TargetConfig{Schedule: []time.Duration{year}}), one(durable.TargetConfig{Schedule: []time.Duration{year + 1}})},
		"Concurrency":     {durable.Config{Concurrency: 10_000}, durable.Config{Concurrency: 10_001}},
		"one at a time":   {one(durable.TargetConfig{Concurrency: 1}), one(durable.TargetConfig{Concurrency: -1})},
		"Retention":       {durable.Config{Retention: time.Second}, durable.Config{Retention: time.Second - 1}},
		"for ever":        {durable.Config{Retention: -1}, durable.Config{Retention: 1}},
		"TakeOver":        {durable.Config{TakeOver: 2 * time.Second}, durable.Config{TakeOver: 2*time.Second - 1}},
		"a long schema":   {durable.Config{Schema: strings.Repeat("s", 46)}, durable.Config{Schema: strings.Repeat("s", 47)}},
		"a digit in it":   {durable.Config{Schema: "s1"}, durable.Config{Schema: "1s"}},
	} {
		q, err := durable.OpenPostgres(pool, c.allowed)
		if assert.NoError(t, err, name) {
			require.NoError(t, q.Close(t.Context()))
		}
		_, err = durable.OpenPostgres(pool, c.refused)
		require.ErrorIs(t, err, fanout.ErrInvalid, name)
	}
}

func TestStandardSchedule_IsThatOfStandardWebhooks(t *testing.T) {
	var all []string
	total := time.Duration(0)
	for _, wait := range durable.StandardSchedule() {
		all = append(all, wait.String())
		total += wait
	}
	assert.Equal(t, []string{"5s", "5m0s", "30m0s", "2h0m0s", "5h0m0s", "10h0m0s", "14h0m0s", "20h0m0s", "24h0m0s"}, all)
	assert.Equal(t, 75*time.Hour+35*time.Minute+5*time.Second, total, "a little over three days")
}

func TestFinal_ThatPanicsIsNotFinal(t *testing.T) {
	q, _ := inFile(t, durable.Config{Schedule: fast(1), Final: func(fanout.Result) bool { panic("oops") }})
	var told atomic.Int32
	d := dispatcher(t, q, fanout.Config{
		Targets:      []fanout.Target{sending("crm", func(*fanout.Request) error { return fanout.Permanent(errDown) })},
		OnDeadLetter: func(context.Context, fanout.Result) { told.Add(1) },
	})
	submit(t, d, "entry")
	eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")
	assert.EqualValues(t, 1, told.Load())
	assert.Equal(t, 2, deadLetters(t, q, durable.Filter{})[0].Rounds)
}

func TestFinal_EndsWhatNoReceiverWillMend(t *testing.T) {
	status := func(code int) error { return &fanout.StatusError{StatusCode: code} }
	for name, c := range map[string]struct {
		reason, err error
		want        bool
	}{
		"410 Gone":                    {fanout.ErrNotRetried, status(410), true},
		"a blocked address":           {fanout.ErrNotRetried, fanout.ErrAddressBlocked, true},
		"what must not be repeated":   {fanout.ErrNotIdempotent, errDown, true},
		"an error of one's own":       {fanout.ErrNotRetried, errDown, true},
		"400":                         {fanout.ErrNotRetried, status(400), false},
		"401":                         {fanout.ErrNotRetried, status(401), false},
		"404":                         {fanout.ErrNotRetried, status(404), false},
		"422":                         {fanout.ErrNotRetried, status(422), false},
		"503, to the last attempt":    {fanout.ErrAttemptsExhausted, status(503), false},
		"credentials":                 {fanout.ErrNotRetried, fanout.ErrAuth, false},
		"a certificate":               {fanout.ErrNotRetried, fanout.ErrCertificateRefused, false},
		"a panic, under a key":        {fanout.ErrNotRetried, &fanout.PanicError{Value: "oops"}, false},
		"a target unknown here":       {fanout.ErrUnknownTarget, nil, false},
		"a target that is gone":       {fanout.ErrTargetGone, nil, true},
		"an error that may be mended": {fanout.ErrAttemptsExhausted, errDown, false},
	} {
		r := fanout.Result{Target: "crm", Outcome: fanout.Unknown, Key: "key"}.
			WithErr(&fanout.TargetError{Target: "crm", Outcome: fanout.Failed, Reason: c.reason, Err: c.err, Attempts: 1})
		assert.Equal(t, c.want, durable.Final(r), name)
	}
	assert.True(t, durable.Final(fanout.Result{Outcome: fanout.Unknown}.
		WithErr(&fanout.TargetError{Reason: fanout.ErrNotRetried, Err: &fanout.PanicError{Value: "oops"}})), "it may have taken effect, and has no key")
}
