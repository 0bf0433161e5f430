// Package webhook signs requests as the Standard Webhooks specification describes, so
// that receivers can verify who sent them:
//
//	Sign: webhook.Signer(auth.Env("HOOK_KEY"))
package webhook

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/auth"
	"github.com/fanout-go/fanout/internal/ids"
)

// Signer signs as the Standard Webhooks specification describes
// (https://www.standardwebhooks.com), with three headers:
//
//   - webhook-id is the same for all attempts of a delivery, so that receivers recognize
//     repetitions. It is the idempotency key, or a hash of the key if that contains a
//     dot. If the target takes no key, it is the ID of the dispatch.
//   - webhook-timestamp is new for each attempt.
//   - webhook-signature has one signature for each key, in the order of the keys.
//
// At least one key is required. Use two keys for a rotation: add the new key, let the
// receivers accept it, then remove the old one.
//
// A key has the form of the specification. "whsec_" and 24 to 64 bytes in base64 is a
// symmetric key (HMAC-SHA256). "whsk_" and an ed25519 private key, or its 32-byte seed,
// in base64 is an asymmetric key. Receivers can verify the signatures with any library
// for that specification.
//
// Keys are looked up for each attempt. If a key cannot be had or is malformed, the
// delivery ends with [fanout.ErrAuth]. [fanout.New] already refuses an [auth.Secret] that
// is malformed.
func Signer(keys ...auth.SecretSource) fanout.Signer { return signer(keys) }

type signer []auth.SecretSource

// Check returns an error for what can never work. [fanout.New] calls it. It can only
// check keys that never change.
func (s signer) Check() error {
	if len(s) == 0 {
		return errors.New("webhook signer without a key")
	}
	for i, source := range s {
		key, constant := source.(auth.Secret)
		if source == nil {
			return fmt.Errorf("webhook key %d is nil", i+1)
		} else if !constant {
			continue
		}
		if _, err := sign(key.Reveal(), nil); err != nil {
			return fmt.Errorf("webhook key %d: %w", i+1, err)
		}
	}
	return nil
}

// Sign implements [fanout.Signer].
func (s signer) Sign(ctx context.Context, r *fanout.Request) error {
	id, timestamp := idOf(r), strconv.FormatInt(time.Now().Unix(), 10)
	content := make([]byte, 0, len(id)+len(timestamp)+2+len(r.Body))
	content = append(content, id+"."+timestamp+"."...)
	content = append(content, r.Body...)
	signatures := make([]string, len(s))
	for i, source := range s {
		secret, err := source.Secret(ctx)
		if err != nil {
			return err
		}
		if signatures[i], err = sign(secret.Reveal(), content); err != nil {
			return fmt.Errorf("webhook key %d: %w", i+1, err)
		}
	}
	r.Header.Set("Webhook-Id", id)
	r.Header.Set("Webhook-Timestamp", timestamp)
	r.Header.Set("Webhook-Signature", strings.Join(signatures, " "))
	return nil
}

// idOf returns an ID that is the same for all attempts. It has no dot: dots separate the
// parts of the signed content, so a dot in the ID would make it ambiguous.
func idOf(r *fanout.Request) string {
	switch {
	case r.Key == "":
		return r.Payload.ID
	case strings.Contains(r.Key, "."):
		return ids.Hash(r.Key)
	}
	return r.Key
}

func sign(key string, content []byte) (string, error) {
	kind, encoded, _ := strings.Cut(key, "_")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", errors.New("is not base64 after its prefix")
	}
	switch {
	case kind == "whsec" && len(raw) >= 24 && len(raw) <= 64:
		mac := hmac.New(sha256.New, raw)
		mac.Write(content)
		return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
	case kind == "whsk" && len(raw) == ed25519.SeedSize:
		return "v1a," + base64.StdEncoding.EncodeToString(ed25519.Sign(ed25519.NewKeyFromSeed(raw), content)), nil
	case kind == "whsk" && len(raw) == ed25519.PrivateKeySize:
		return "v1a," + base64.StdEncoding.EncodeToString(ed25519.Sign(raw, content)), nil
	}
	return "", errors.New("is neither whsec_ and 24 to 64 bytes, nor whsk_ and an ed25519 key, in base64")
}
