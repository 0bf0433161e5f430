package fanout

import (
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/fanout-go/fanout/internal/watchfile"
)

// TLS says how we identify ourselves to a target (mutual TLS), and which certificates of
// the target we accept. The oldest version is TLS 1.2, whatever is set here. Targets with
// equal settings share connections.
type TLS struct {
	// CertFile and KeyFile are PEM files with a client certificate and its chain, and with
	// the private key. The files are looked at when a connection is made, but at most once a
	// second. If the certificate has changed, both are read again. Open connections are
	// kept. If the key does not fit the certificate, the last pair that fitted is used.
	// Default none.
	CertFile, KeyFile string
	// CAFile is a PEM file with the certificates of the authorities that may sign the
	// target's certificate. A dispatcher reads it once. Default: those of the system.
	CAFile string
	// ServerName is the name that the target's certificate must have. Default: the host in
	// its URL.
	ServerName string
}

// config reads the files at once, so that mistakes are found early.
func (t *TLS) config() (*tls.Config, error) {
	own := *t // which its owner may change
	t = &own
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := watchfile.Read(t.CAFile)
		if err != nil {
			return nil, &InvalidError{Field: "TLS.CAFile", Err: err}
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, invalid("TLS.CAFile", "has no certificate in PEM")
		}
	}
	if t.CertFile == "" && t.KeyFile == "" {
		return c, nil
	}
	certificate := watchfile.New(t.CertFile, t.parse)
	if _, err := certificate.Get(); err != nil {
		return nil, &InvalidError{Field: "TLS.CertFile", Err: err}
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate.Get() }
	return c, nil
}

func (t *TLS) parse(cert []byte) (*tls.Certificate, error) {
	key, err := watchfile.Read(t.KeyFile)
	if err != nil {
		return nil, errors.New("its KeyFile cannot be read")
	}
	pair, err := tls.X509KeyPair(cert, key)
	return &pair, err
}
