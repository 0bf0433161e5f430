package fanout_test

import (
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestATargetThatCannotBeUsedIsRefusedByNameAndField(t *testing.T) {
	const url = "https://crm.example/contacts"
	sender := fanout.SenderFunc(nil)
	for _, test := range []struct {
		target fanout.Target
		want   string
	}{
		{fanout.Target{URL: url}, `target "#1": Name: empty`},
		{fanout.Target{Name: strings.Repeat("x", 129), URL: url}, `target "` + strings.Repeat("x", 129) + `": Name: longer than 128 bytes`},
		{fanout.Target{Name: "c\nrm", URL: url}, `target "c\nrm": Name: has a control character`},
		{fanout.Target{Name: "c\u202erm", URL: url}, `target "c\u202erm": Name: has a control character`},
		{fanout.Target{Name: "c\xffrm", URL: url}, `target "c\xffrm": Name: not UTF-8`},
		{fanout.Target{Name: "crm"}, `target "crm": URL: neither URL nor Sender is set`},
		{fanout.Target{Name: "crm", URL: url, Sender: sender}, `target "crm": Sender: set together with URL`},
		{fanout.Target{Name: "crm", Sender: sender, Method: "PUT"}, `target "crm": Sender: set together with Method, Header, Auth, Sign, Transport, TLS or Guard, which are for a URL`},
		{fanout.Target{Name: "crm", URL: "crm.example"}, `target "crm": URL: scheme is neither http nor https`},
		{fanout.Target{Name: "crm", URL: "https://"}, `target "crm": URL: no host`},
		{fanout.Target{Name: "crm", URL: "https://:443/x"}, `target "crm": URL: no host`},
		{fanout.Target{Name: "crm", URL: "https://a b/"}, `target "crm": URL: cannot be parsed (not shown, as it may hold a secret)`},
		{fanout.Target{Name: "crm", URL: "https://me:pw@crm.example"}, `target "crm": URL: has userinfo: use Auth or a header`},
		{fanout.Target{Name: "crm", URL: "https://crm.example:65536"}, `target "crm": URL: its port is above 65535`},
		{fanout.Target{Name: "crm", URL: url + "#top"}, `target "crm": URL: has a fragment, which is never sent`},
		{fanout.Target{Name: "crm", URL: url, Method: "post"}, `target "crm": Method: "post" is not a method in upper case that can carry a payload`},
		{fanout.Target{Name: "crm", URL: url, Method: "A B"}, `target "crm": Method: "A B" is not a method in upper case that can carry a payload`},
		{fanout.Target{Name: "crm", URL: url, Method: "CONNECT"}, `target "crm": Method: "CONNECT" is not a method in upper case that can carry a payload`},
		{fanout.Target{Name: "crm", URL: url, Header: http.Header{"X:": nil}}, `target "crm": Header: "X:" is not a header name`},
		{fanout.Target{Name: "crm", URL: url, Header: http.Header{"": nil}}, `target "crm": Header: "" is not a header name`},
		{fanout.Target{Name: "crm", URL: url, Header: http.Header{"X": {"a\x00"}}}, `target "crm": Header: X: value has a control character`},
		{fanout.Target{Name: "crm", URL: url, Header: http.Header{"x-a": {"1"}, "X-a": {"2"}}}, `target "crm": Header: X-A is given twice, in different case`},
		{fanout.Target{Name: "crm", URL: url, Header: http.Header{"Host": {"x"}}}, `target "crm": Header: Host is set by the library or the connection`},
		{fanout.Target{Name: "crm", URL: url, Header: http.Header{"X-Key": {"x"}}, Policy: fanout.Policy{Idempotency: fanout.Idempotency{Header: "x-key"}}},
			`target "crm": Header: x-key is the idempotency key's, which differs for each dispatch`},
	} {
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{test.target}})
		require.EqualError(t, err, "fanout: "+test.want)
		require.ErrorIs(t, err, fanout.ErrInvalid)
	}
}

func TestAPolicyThatCannotBeMeantIsRefusedByField(t *testing.T) {
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

func TestAllThatIsWrongIsReportedAtOnce(t *testing.T) {
	_, err := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "a", URL: "ftp://a"},
		via("b", answering(200)),
		via("b", answering(200)),
		with(via("c", answering(200)), fanout.Policy{Retry: fanout.Retry{MaxAttempts: -1}, Breaker: fanout.Breaker{MinCalls: -1}}),
	}})
	assert.EqualError(t, err, strings.Join([]string{
		`fanout: target "a": URL: scheme is neither http nor https`,
		`fanout: target "c": Retry.MaxAttempts: -1 is negative`,
		`fanout: target "c": Breaker.MinCalls: -1 is negative`,
		`fanout: target "b": Name: given twice`,
	}, "\n"))
}

func TestAMistakeInADefaultIsNotBlamedOnATarget(t *testing.T) {
	_, err := fanout.New(fanout.Config{
		Defaults: fanout.Policy{Retry: fanout.Retry{MaxAttempts: -1}},
		Targets:  []fanout.Target{via("crm", answering(200))},
	})
	assert.EqualError(t, err, "fanout: Defaults.Retry.MaxAttempts: -1 is negative")
}

func TestATargetsPolicyOverridesTheDefaultsFieldByField(t *testing.T) {
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
