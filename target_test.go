package fanout_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestTarget_ThatCannotBeUsedIsRefusedByNameAndField(t *testing.T) {
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
		{fanout.Target{Name: "crm", Sender: sender, Method: "PUT"}, `target "crm": Sender: set together with Method, which is for a URL`},
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

func TestTarget_IsCopiedThroughAndThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j callLog
		slow400 := delayed(time.Second, answering(400))
		pay := j.step("pay", answering(200), answering(200))
		ship := after(j.step("ship", slow400, nil), "pay")
		mail := withFallback(via("mail", answering(400)), via("text", answering(200)))
		mail.FallbackOn = []fanout.Outcome{fanout.Failed}
		mail.Header = http.Header{"X-Tenant": {"acme"}}
		mail.Retry.Statuses = []int{503}
		d := newDispatcher(t, pay, ship, mail)
		var changing sync.WaitGroup
		changing.Go(func() { // races with the dispatch if anything is shared
			ship.After[0] = "nobody"
			*pay.Compensate = via("other", answering(500))
			mail.Fallback[0] = via("other", answering(500))
			mail.FallbackOn[0] = fanout.Unknown
			mail.Header.Set("X-Tenant", "evil")
			mail.Retry.Statuses[0] = 400
		})
		results := dispatch(t.Context(), d)
		changing.Wait()
		assert.Equal(t, map[string]string{"pay": "compensated", "ship": "failed", "mail": "degraded"}, outcomesOf(results))
	})
}

func TestTarget_WithoutAPathCanBeJoinedTo(t *testing.T) {
	for _, base := range []string{"https://crm.example", "https://crm.example/", "https://crm.example?tenant=7"} {
		var path string
		target := fanout.Target{Name: "crm", URL: base, Transport: wire(func(r *http.Request) (*http.Response, error) {
			path = r.URL.RequestURI()
			return answer(200, ""), nil
		})}
		target.Prepare = func(_ context.Context, r *fanout.Request) error {
			r.URL = r.URL.JoinPath("contacts", "7")
			return nil
		}
		require.Equal(t, fanout.Delivered, dispatch(t.Context(), newDispatcher(t, target))["crm"].Outcome)
		assert.Regexp(t, `^/contacts/7(\?tenant=7)?$`, path)
	}
}

func TestTarget_WhosePrepareLeavesARelativePathIsNotSent(t *testing.T) {
	target := via("crm", answering(200))
	target.Prepare = func(_ context.Context, r *fanout.Request) error { r.URL.Path = "contacts"; return nil }
	r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
	require.EqualError(t, r.Err(), "crm: prepare failed: URL: its path does not begin with a slash")
	assert.Empty(t, r.Attempts)
}

func TestTarget_ADefinitionThatIsGivenIsNotWrittenTo(t *testing.T) {
	header := http.Header{}
	given := withFallback(via("email", answering(200)), fanout.Target{Name: "backup", URL: "http://backup.example", Header: header})
	newDispatcher(t, given)
	header.Set("X-Tenant", "acme")
	assert.Equal(t, "acme", given.Fallback[0].Header.Get("X-Tenant"), "it is still the caller's own")
}
