package fanout

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fanout-go/fanout/internal/ids"
)

// Signer signs each attempt at an HTTP target, after [Target.Auth], so that the
// target can tell who sent it. It adds to the header; r has the body as it is sent,
// and must not be changed. An error ends the delivery with [ErrAuth].
type Signer interface {
	Sign(ctx context.Context, r *Request, header http.Header) error
}

// SignerFunc is a function that is a [Signer].
type SignerFunc func(context.Context, *Request, http.Header) error

// Sign calls f.
func (f SignerFunc) Sign(ctx context.Context, r *Request, header http.Header) error {
	return f(ctx, r, header)
}

// WebhookSigner signs as the Standard Webhooks specification describes: with the
// headers webhook-id, the same on all attempts; webhook-timestamp, fresh on each; and
// webhook-signature, which has one signature for each key. Two keys are for a
// rotation: add the new one, have the receivers take it, remove the old one.
//
// A key is written as the specification has it: "whsec_" and base64 of 24 to 64
// bytes is symmetric (HMAC-SHA256); "whsk_" and base64 of an ed25519 private key, or
// of its 32-byte seed, is asymmetric. Receivers verify with any library of that
// specification.
func WebhookSigner(keys ...SecretSource) Signer { return webhookSigner(keys) }

type webhookSigner []SecretSource

// check looks at keys that never change, too.
func (s webhookSigner) check() error {
	if len(s) == 0 {
		return errors.New("webhook signer without a key")
	}
	for i, source := range s {
		key, constant := source.(Secret)
		if source == nil {
			return fmt.Errorf("webhook key %d is nil", i+1)
		} else if !constant {
			continue
		}
		if _, err := signWebhook(key.Reveal(), nil); err != nil {
			return fmt.Errorf("webhook key %d: %w", i+1, err)
		}
	}
	return nil
}

func (s webhookSigner) Sign(ctx context.Context, r *Request, header http.Header) error {
	id, timestamp := webhookID(r), strconv.FormatInt(time.Now().Unix(), 10)
	content := make([]byte, 0, len(id)+len(timestamp)+2+len(r.Body))
	content = append(content, id+"."+timestamp+"."...)
	content = append(content, r.Body...)
	signatures := make([]string, len(s))
	for i, source := range s {
		secret, err := source.Secret(ctx)
		if err != nil {
			return err
		}
		if signatures[i], err = signWebhook(secret.Reveal(), content); err != nil {
			return fmt.Errorf("webhook key %d: %w", i+1, err)
		}
	}
	header.Set("Webhook-Id", id)
	header.Set("Webhook-Timestamp", timestamp)
	header.Set("Webhook-Signature", strings.Join(signatures, " "))
	return nil
}

// webhookID is the same on all attempts. A dot would make the signed content
// ambiguous.
func webhookID(r *Request) string {
	switch {
	case r.IdempotencyKey == "":
		return r.DispatchID
	case strings.Contains(r.IdempotencyKey, "."):
		return ids.Hash(r.IdempotencyKey)
	}
	return r.IdempotencyKey
}

func signWebhook(key string, content []byte) (string, error) {
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
