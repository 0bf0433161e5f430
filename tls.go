package fanout

import (
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/fanout-go/fanout/internal/watchfile"
)

// TLS is how a target is told who calls (mutual TLS), and whom to believe. TLS 1.2
// is the least in any case. Targets with equal settings share connections.
type TLS struct {
	// CertFile and KeyFile are a client certificate with its chain, and its private
	// key, in PEM. They are looked at once a second at most, when a connection is
	// made, and read again if the certificate has changed; connections that stand
	// go on. While the two do not fit, the last that did are used. Default none.
	CertFile, KeyFile string
	// CAFile has the certificates, in PEM, of those who may vouch for the target.
	// It is read once by a dispatcher. Default the system's.
	CAFile string
	// ServerName is who the target has to be, if not the host in its URL.
	ServerName string
}

// config reads the files, so that what is wrong with them is known at once.
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
