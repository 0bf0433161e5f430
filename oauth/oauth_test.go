package oauth_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/auth"
	"github.com/fanout-go/fanout/fanouttest"
	"github.com/fanout-go/fanout/oauth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// endpoint is a token endpoint that counts its requests.
type endpoint struct {
	*httptest.Server
	calls   atomic.Int64
	expires atomic.Int64 // seconds
	answer  func(w http.ResponseWriter, r *http.Request)
}

func newEndpoint(t *testing.T) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.expires.Store(3600)
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := e.calls.Add(1)
		if e.answer != nil {
			e.answer(w, r)
			return
		}
		user, secret, _ := r.BasicAuth()
		assert.Equal(t, "shop s3cr3t", user+" "+secret)
		assert.Equal(t, "client_credentials", r.FormValue("grant_type"))
		assert.Equal(t, "write", r.FormValue("scope"))
		time.Sleep(50 * time.Millisecond)
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":"t-%d","token_type":"Bearer","expires_in":%d}`, n, e.expires.Load())
	}))
	t.Cleanup(e.Close)
	return e
}

func newDispatcher(t *testing.T, e *endpoint, api *fanouttest.Target) *fanout.Dispatcher {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(client.CloseIdleConnections)
	target := api.Target("crm")
	target.Auth = auth.Tokens(oauth.ClientCredentials(oauth.Config{
		TokenURL: e.URL, ClientID: "shop", ClientSecret: auth.NewSecret("s3cr3t"), Scopes: []string{"write"}, Client: client,
	}))
	target.Bulkhead.MaxConcurrent = -1
	target.Timeout = 10 * time.Second
	d, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close(t.Context())) })
	return d
}

func all(n int, do func()) {
	var group sync.WaitGroup
	for range n {
		group.Go(do)
	}
	group.Wait()
}

func TestClientCredentials_FetchOneTokenForAThousandDispatches(t *testing.T) {
	e, api := newEndpoint(t), fanouttest.NewMemoryTarget(t, fanouttest.Status(200))
	d := newDispatcher(t, e, api)
	e.expires.Store(2)
	deliver := func() {
		_, err := d.Dispatch(t.Context(), "hello")
		assert.NoError(t, err)
	}
	all(1000, deliver)
	assert.EqualValues(t, 1, e.calls.Load())
	assert.Equal(t, "Bearer t-1", api.Requests()[0].Header.Get("Authorization"))
	time.Sleep(2100 * time.Millisecond) // the token has expired
	e.expires.Store(3600)
	all(1000, deliver)
	assert.EqualValues(t, 2, e.calls.Load())
}

func TestClientCredentials_RepeatNothingTheEndpointSays(t *testing.T) {
	for want, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"crm: authentication failed: no token: token endpoint: 401 Unauthorized, invalid_client": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client","error_description":"s3cr3t is wrong"}`)
		},
		"crm: authentication failed: no token: token endpoint: 500 Internal Server Error": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "s3cr3t\nlog line", http.StatusInternalServerError)
		},
		"crm: authentication failed: no token: token endpoint: 400 Bad Request": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"s_cr_t"}`)
		},
		"crm: authentication failed: no token: token endpoint: its answer has no readable token": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"access_token":{"s3cr3t":1}}`)
		},
		"crm: authentication failed: no token: token endpoint: its token is not a bearer token": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"access_token":"t-1","token_type":"mac"}`)
		},
		"crm: authentication failed: no token: token endpoint: 307 Temporary Redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/s3cr3t", http.StatusTemporaryRedirect)
		},
	} {
		e := newEndpoint(t)
		e.answer = answer
		d := newDispatcher(t, e, fanouttest.NewMemoryTarget(t, fanouttest.Status(200)))
		results, err := d.Dispatch(t.Context(), "hello")
		require.Error(t, err)
		require.EqualError(t, results["crm"].Err(), want)
		state, _ := d.BreakerState("crm")
		assert.Equal(t, fanout.BreakerClosed, state)
	}
}

func TestClientCredentials_AreSentWhereTheEndpointTakesThem(t *testing.T) {
	for inBody, want := range map[bool]string{false: "shop s3cr3t /", true: "/ shop s3cr3t"} {
		var got string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, secret, _ := r.BasicAuth()
			got = strings.TrimSpace(user+" "+secret) + " / " + strings.TrimSpace(r.PostFormValue("client_id")+" "+r.PostFormValue("client_secret"))
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"access_token":"t-1"}`)
		}))
		token, err := oauth.ClientCredentials(oauth.Config{TokenURL: server.URL, ClientID: "shop", ClientSecret: auth.NewSecret("s3cr3t"), InBody: inBody, Client: server.Client()}).Token(t.Context())
		server.Close()
		require.NoError(t, err)
		assert.Equal(t, "t-1", token.Value.Reveal())
		assert.Equal(t, want, strings.TrimSpace(got), "in the body: %v", inBody)
	}
}

func TestClientCredentials_EndpointThatIsDownFailsAllAtOnce(t *testing.T) {
	e := newEndpoint(t)
	e.answer = func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(100 * time.Millisecond)
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	d := newDispatcher(t, e, fanouttest.NewMemoryTarget(t, fanouttest.Status(200)))
	all(1000, func() {
		results, _ := d.Dispatch(t.Context(), "hello")
		assert.Equal(t, fanout.Rejected, results["crm"].Outcome)
	})
	assert.LessOrEqual(t, e.calls.Load(), int64(3), "not stormed")
}

func TestConfig_ThatCannotWorkIsRefused(t *testing.T) {
	whole := oauth.Config{TokenURL: "https://id.example/token", ClientID: "shop", ClientSecret: auth.NewSecret("s3cr3t")}
	for want, change := range map[string]func(*oauth.Config){
		"oauth: TokenURL is not set":                                       func(c *oauth.Config) { c.TokenURL = "" },
		"oauth: TokenURL is not an https URL":                              func(c *oauth.Config) { c.TokenURL = "id.example" },
		"oauth: TokenURL is http, which would send the secret unencrypted": func(c *oauth.Config) { c.TokenURL = "http://id.example/token" },
		"oauth: ClientID is not set":                                       func(c *oauth.Config) { c.ClientID = "" },
		"oauth: ClientSecret is not set":                                   func(c *oauth.Config) { c.ClientSecret = nil },
	} {
		c := whole
		change(&c)
		_, err := oauth.ClientCredentials(c).Token(t.Context())
		require.EqualError(t, err, want)
	}
}
