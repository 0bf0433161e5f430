package fanout_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestTLS_ClientCertificateIsReloadedWithoutDroppingAnything(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	files := &fanout.TLS{CertFile: filepath.Join(dir, "client.pem"), KeyFile: filepath.Join(dir, "client.key"), CAFile: filepath.Join(dir, "ca.pem")}
	a.writeCA(t, files.CAFile)
	a.writeClient(t, "first", files.CertFile, files.KeyFile)
	callers, proceed := make(chan string, 10), make(chan struct{}, 10)
	server := a.serveTLS(t, func(w http.ResponseWriter, r *http.Request) {
		callers <- r.TLS.PeerCertificates[0].Subject.CommonName
		<-proceed
		w.Header().Set("Connection", "close") // so that the next one shakes hands
	}, func(*x509.Certificate) {})
	d := newDispatcher(t, fanout.Target{Name: "crm", URL: server.URL, TLS: files})

	under := make(chan fanout.Results)
	go func() { under <- dispatch(t.Context(), d) }()
	require.Equal(t, "first", <-callers)
	a.writeClient(t, "second", files.CertFile, files.KeyFile)
	proceed <- struct{}{}
	require.NoError(t, (<-under)["crm"].Err(), "what was under way goes on")

	deadline := time.Now().Add(10 * time.Second) // a file is looked at once a second
	for caller := ""; caller != "second"; {
		require.True(t, time.Now().Before(deadline), "never reloaded")
		proceed <- struct{}{}
		require.NoError(t, dispatch(t.Context(), d)["crm"].Err())
		caller = <-callers
		time.Sleep(50 * time.Millisecond)
	}

	require.NoError(t, os.WriteFile(files.KeyFile, []byte("half a key"), 0o600))
	proceed <- struct{}{}
	require.NoError(t, dispatch(t.Context(), d)["crm"].Err(), "the last that did fit are used")
	assert.Equal(t, "second", <-callers)
}

func TestTLS_OldVersionIsRefused(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	a.writeCA(t, ca)
	pair, err := tls.X509KeyPair(a.issue(t, "server", func(*x509.Certificate) {}))
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") }))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	server.Config.ErrorLog = quiet
	server.StartTLS()
	defer server.Close()
	d := newDispatcher(t, with(fanout.Target{Name: "crm", URL: server.URL, TLS: &fanout.TLS{CAFile: ca}}, once))
	require.Error(t, dispatch(t.Context(), d)["crm"].Err())
}

func TestTLS_CannotBeTurnedOffByPrepare(t *testing.T) {
	target := fanout.Target{Name: "crm", URL: "https://crm.example", TLS: &fanout.TLS{}, Prepare: func(_ context.Context, r *fanout.Request) error {
		r.URL.Scheme = "http"
		return nil
	}}
	r := dispatch(t.Context(), newDispatcher(t, target))["crm"]
	assert.Equal(t, fanout.Rejected, r.Outcome)
	require.ErrorContains(t, r.Err(), "the target has TLS, and the URL's scheme is http")
}

func TestTLS_ClientCertificateThatATargetRefusesIsNotTriedAgain(t *testing.T) {
	a, stranger, dir := newAuthority(t), newAuthority(t), t.TempDir()
	ca, cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key")
	a.writeCA(t, ca)
	stranger.writeClient(t, "stranger", cert, key)
	pair, err := tls.X509KeyPair(a.issue(t, "server", func(*x509.Certificate) {}))
	require.NoError(t, err)
	none, strangers := fanout.TLS{CAFile: ca}, fanout.TLS{CAFile: ca, CertFile: cert, KeyFile: key}
	for name, test := range map[string]struct {
		files   fanout.TLS
		version uint16
	}{
		"none":                  {none, tls.VersionTLS13}, // TLS 1.2 says of it no more than that a handshake failed
		"a stranger's":          {strangers, tls.VersionTLS13},
		"a stranger's, TLS 1.2": {strangers, tls.VersionTLS12},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") }))
			server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.pool(), MaxVersion: test.version}
			server.Config.ErrorLog = quiet
			server.StartTLS()
			defer server.Close()
			var security records
			d := newWith(t, fanout.Config{SecurityLogger: security.logger(slog.LevelInfo), Targets: []fanout.Target{{Name: "crm", URL: server.URL, TLS: &test.files}}})
			r := dispatch(t.Context(), d)["crm"]
			assert.Equal(t, fanout.Failed, r.Outcome)
			assert.Len(t, r.Attempts, 1)
			require.ErrorIs(t, r.Err(), fanout.ErrCertificateRefused)
			assert.Equal(t, fanout.Class("certificate"), fanout.ClassOf(r.Err()))
			assert.Contains(t, r.Err().Error(), "crm: not retried after 1 attempt: client certificate refused: remote error: tls: ")
			assert.Contains(t, security.String(), "certificate_refused")
		})
	}
}

func TestTLS_FilesThatCannotBeUsedAreRefusedByField(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	cert, key, junk := filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key"), filepath.Join(dir, "junk")
	a.writeClient(t, "client", cert, key)
	require.NoError(t, os.WriteFile(junk, []byte("junk"), 0o600))
	for want, files := range map[string]fanout.TLS{
		`target "crm": TLS.CAFile: no such file`:                    {CAFile: filepath.Join(dir, "none")},
		`target "crm": TLS.CAFile: has no certificate in PEM`:       {CAFile: junk},
		`target "crm": TLS.CertFile: ` + filepath.Join(dir, "none"): {CertFile: filepath.Join(dir, "none"), KeyFile: key},
		`its KeyFile cannot be read`:                                {CertFile: cert},
		`tls: failed to find any PEM data`:                          {CertFile: cert, KeyFile: junk},
	} {
		_, err := fanout.New(fanout.Config{Targets: []fanout.Target{{Name: "crm", URL: "https://crm.example", TLS: &files}}})
		require.ErrorIs(t, err, fanout.ErrInvalid)
		require.ErrorContains(t, err, want)
	}
	_, err := fanout.New(fanout.Config{Targets: []fanout.Target{{Name: "crm", URL: "https://crm.example", TLS: &fanout.TLS{}, Transport: http.DefaultTransport}}})
	require.ErrorContains(t, err, `target "crm": Transport: set together with TLS or Guard`)
	_, err = fanout.New(fanout.Config{Targets: []fanout.Target{{Name: "crm", URL: "http://crm.example", TLS: &fanout.TLS{}}}})
	require.ErrorContains(t, err, `target "crm": TLS: is for https, and the URL's scheme is http`)
}
