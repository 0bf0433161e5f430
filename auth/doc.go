// Package auth has credentials for the targets of a [fanout.Dispatcher]. Their secrets
// are looked up when they are needed:
//
//	Auth: auth.Header("X-Api-Key", auth.Env("CRM_KEY"))         // an API key
//	Auth: auth.Basic("shop", auth.File("/run/secrets/crm"))     // a user name and a password
//	Auth: auth.Bearer(key)                                      // a token that does not expire
//	Auth: auth.Tokens(oauth.ClientCredentials(oauth.Config{…})) // tokens that expire
//
// If a secret or token cannot be had, nothing is sent. The delivery ends as
// [fanout.Rejected] with [fanout.ErrAuth]. There is one exception: a delivery in the
// queue in memory waits for a token that could not be fetched; see [Tokens].
//
// A secret comes from the environment ([Env]), from a file ([File]), or from a
// [SecretSource] of your own. The module github.com/fanout-go/fanout/secrets reads the
// secret managers of the clouds. [fanout.New] refuses credentials that can never work,
// for example a user name with a colon.
package auth
