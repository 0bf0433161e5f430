// Package oauth fetches OAuth 2.0 access tokens for [auth.Tokens]:
//
//	Auth: auth.Tokens(oauth.ClientCredentials(oauth.Config{
//		TokenURL: "https://id.example/token", ClientID: "shop", ClientSecret: auth.Env("CRM_SECRET"),
//	})),
//
// auth.Tokens shares a token between deliveries and renews it early. This package is a
// module of its own, so that only those who use it depend on golang.org/x/oauth2.
package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/fanout-go/fanout/auth"
)

// Config says where tokens are fetched, and with which credentials. A mistake in it is an
// error of the first request for a token.
type Config struct {
	// TokenURL is the URL of the token endpoint. It must be https, except on a loopback
	// address. Required.
	TokenURL string
	// ClientID and ClientSecret are the credentials. The secret is looked up for each
	// request, so that it can be rotated. Both are required.
	ClientID     string
	ClientSecret auth.SecretSource
	// InBody sends the credentials in the body of the request instead of the Authorization
	// header, as RFC 6749, section 2.3.1, allows. It is for endpoints that do not accept the
	// header. Default false.
	InBody bool
	// Scopes are the scopes to ask for. Default none: the server decides.
	Scopes []string
	// Params are further parameters of the request, such as "audience". Default none.
	Params url.Values
	// Client sends the requests. Default nil: a client that follows no redirects and gives
	// up after 10 s.
	Client *http.Client
}

// ClientCredentials fetches tokens with the client credentials grant (RFC 6749, section
// 4.4). Its errors show the status and the error code of the endpoint, and nothing else
// that it answers.
func ClientCredentials(c Config) auth.TokenSource {
	if c.Client == nil {
		c.Client = &http.Client{
			Timeout:       10 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return auth.TokenSourceFunc(c.token)
}

func (c Config) token(ctx context.Context) (auth.Token, error) {
	if err := c.check(); err != nil {
		return auth.Token{}, fmt.Errorf("oauth: %w", err)
	}
	secret, err := c.ClientSecret.Secret(ctx)
	if err != nil {
		return auth.Token{}, err
	}
	grant := clientcredentials.Config{
		ClientID: c.ClientID, ClientSecret: secret.Reveal(), TokenURL: c.TokenURL, Scopes: c.Scopes, EndpointParams: c.Params,
		AuthStyle: oauth2.AuthStyleInHeader,
	}
	if c.InBody {
		grant.AuthStyle = oauth2.AuthStyleInParams
	}
	token, err := grant.Token(context.WithValue(ctx, oauth2.HTTPClient, c.Client))
	if err != nil {
		return auth.Token{}, withoutBody(err)
	}
	if token.Type() != "Bearer" { // RFC 6749, section 7.1
		return auth.Token{}, errors.New("token endpoint: its token is not a bearer token")
	}
	return auth.Token{Value: auth.NewSecret(token.AccessToken), Expires: token.Expiry}, nil
}

func (c Config) check() error {
	u, err := url.Parse(c.TokenURL)
	switch {
	case c.TokenURL == "":
		return errors.New("TokenURL is not set")
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return errors.New("TokenURL is not an https URL")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return errors.New("TokenURL is http, which would send the secret unencrypted")
	case c.ClientID == "":
		return errors.New("ClientID is not set")
	case c.ClientSecret == nil:
		return errors.New("ClientSecret is not set")
	}
	return nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// errorCodes holds the error codes of RFC 6749, section 5.2.
var errorCodes = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
}

// withoutBody removes from an error what the endpoint answered, except the status and the
// error code.
func withoutBody(err error) error {
	var unanswered *url.Error
	if errors.As(err, &unanswered) {
		return err
	}
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) || refused.Response == nil {
		return errors.New("token endpoint: its answer has no readable token")
	}
	text := "token endpoint: " + fmt.Sprint(refused.Response.StatusCode, " ", http.StatusText(refused.Response.StatusCode))
	if slices.Contains(errorCodes, refused.ErrorCode) {
		text += ", " + refused.ErrorCode
	}
	return errors.New(text)
}
