// Package auth has credentials for the targets of a [fanout.Dispatcher], and secrets
// that are looked up when they are needed:
//
//	Auth: auth.Header("X-Api-Key", auth.Env("CRM_KEY"))         // an API key
//	Auth: auth.Basic("shop", auth.File("/run/secrets/crm"))     // a user name and a password
//	Auth: auth.Bearer(key)                                      // a token that does not expire
//	Auth: auth.Tokens(oauth.ClientCredentials(oauth.Config{…})) // tokens that do
//
// A credential that cannot be had ends the delivery as [fanout.Rejected], with
// [fanout.ErrAuth]: nothing was sent. Only a token that cannot be fetched is waited for
// by what [fanout.Dispatcher.Submit] took; see [Tokens].
//
// Secrets come from the environment ([Env]), from files ([File]), from the module
// github.com/fanout-go/fanout/secrets for the managers of the clouds, or from a
// [SecretSource] of your own. [fanout.New] refuses credentials that can never work, for
// example a user name with a colon.
package auth
