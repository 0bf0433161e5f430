package durable_test

import (
	"bytes"
	"database/sql"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestSubmit_RefusesWhatCannotBeKept(t *testing.T) {
	q, _ := inFile(t, durable.Config{MaxPayloadBytes: 100})
	sender := fanouttest.NewSender()
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{sender.Target("ledger"), {Name: "after", After: []string{"ledger"}, Sender: fanout.SenderFunc(nil)}}})
	for name, c := range map[string]struct {
		payload any
		options []fanout.SubmitOption
		want    string
	}{
		"a body too large":              {fanout.Payload{Body: make([]byte, 101), ContentType: "text/plain"}, nil, "fanout: Payload.Body: too large: 101 bytes with its header, and the queue takes 100"},
		"a header too large":            {fanout.Payload{Header: http.Header{"X": {string(bytes.Repeat([]byte("x"), 101))}}}, nil, "fanout: Payload.Body: too large: 102 bytes"},
		"a header in Latin-1":           {fanout.Payload{Header: http.Header{"X": {"caf\xe9"}}}, nil, "fanout: Payload.Header: X: not UTF-8"},
		"a target given in the call":    {"entry", []fanout.SubmitOption{fanout.ToTargets(sender.Target("stranger"))}, `fanout: target "stranger": ToTargets: a durable queue finds targets by name`},
		"order among dependent targets": {"entry", []fanout.SubmitOption{durable.InOrder("k")}, "fanout: InOrder: is not for targets that depend on each other"},
		"order without a key":           {"entry", []fanout.SubmitOption{durable.InOrder("")}, "fanout: InOrder: without a key"},
		"order by a long key":           {"entry", []fanout.SubmitOption{durable.InOrder(strings.Repeat("k", 257))}, "fanout: InOrder: longer than 256 bytes"},
		"two orders":                    {"entry", []fanout.SubmitOption{durable.InOrder("k"), durable.InOrder("l")}, "fanout: InOrder: given twice"},
		"no transaction":                {"entry", []fanout.SubmitOption{durable.InTx(nil)}, "fanout: InTx: is nil"},
		"two transactions":              {"entry", []fanout.SubmitOption{durable.InTx(new(sql.Tx)), durable.InTx(new(sql.Tx))}, "fanout: InTx: given twice"},
		"an option made by hand":        {"entry", []fanout.SubmitOption{fanout.ForQueue(fanout.QueueOption{Name: "InOrder", Value: "k"})}, "fanout: InOrder: is not made by a function of package durable"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.Submit(t.Context(), c.payload, c.options...)
			require.ErrorIs(t, err, fanout.ErrInvalid)
			require.ErrorContains(t, err, c.want)
		})
	}
	assert.Zero(t, sender.Count())
	submit(t, d, fanout.Payload{Body: make([]byte, 93), ContentType: "text/plain", Header: http.Header{"X": {"123", "456"}}}, fanout.To("ledger"))
	eventually(t, func() bool { return sender.Count() == 1 }, "what is just small enough")
}

func TestEncryption_KeepsPayloadsAndAnswersUnreadableAndKeysRotate(t *testing.T) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	require.NoError(t, err)
	cipher, err := aead.New(handle)
	require.NoError(t, err)
	const secret = "4111-1111-1111-1111"
	path := filepath.Join(t.TempDir(), "q.db")
	q, err := durable.Open(path, durable.Config{Encryption: cipher})
	require.NoError(t, err)
	api := fanouttest.NewTarget(t, fanouttest.Reply(410, "no card "+secret))
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{{Name: "pay", URL: api.URL()}}})
	submit(t, d, fanout.Payload{Value: map[string]string{"card": secret}, Header: http.Header{"X-Card": {secret}}})
	eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")
	closeNow(t, d)
	files, err := filepath.Glob(path + "*")
	require.NoError(t, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.NotContains(t, string(content), secret)
	}

	manager := keyset.NewManagerFromHandle(handle)
	id, err := manager.Add(aead.XChaCha20Poly1305KeyTemplate())
	require.NoError(t, err)
	require.NoError(t, manager.SetPrimary(id))
	handle, err = manager.Handle()
	require.NoError(t, err)
	rotated, err := aead.New(handle)
	require.NoError(t, err)
	q, err = durable.Open(path, durable.Config{Encryption: rotated})
	require.NoError(t, err)
	dead := deadLetters(t, q, durable.Filter{})
	require.Len(t, dead, 1)
	one, err := q.Inspect(t.Context(), dead[0].ID)
	require.NoError(t, err)
	assert.JSONEq(t, `{"card":"`+secret+`"}`, string(one.Payload.Body))
	assert.Contains(t, string(one.History[0].Response.Body), secret)
	require.NoError(t, q.Close(t.Context()))

	q, err = durable.Open(path, durable.Config{})
	require.NoError(t, err)
	_, err = q.Inspect(t.Context(), dead[0].ID)
	require.ErrorContains(t, err, "encrypted, and no Config.Encryption is given")
	require.NoError(t, q.Close(t.Context()))
}

// marking is a fake cipher: it puts a mark before the plain text.
type marking struct{}

func (marking) Encrypt(plain, _ []byte) ([]byte, error) { return append([]byte("~"), plain...), nil }

func (marking) Decrypt(sealed, _ []byte) ([]byte, error) {
	if sealed[0] != '~' {
		return nil, errors.New("not mine")
	}
	return sealed[1:], nil
}

func TestEncryption_WhatCannotBeReadIsKeptUntilItCan(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		sealed, plain := durable.Config{Encryption: marking{}, Schedule: []time.Duration{}}, durable.Config{Schedule: []time.Duration{}}
		accepting := sealed
		accepting.AcceptPlaintext = true
		for name, c := range map[string]struct{ accept, without, with durable.Config }{
			"the key is missing": {sealed, plain, sealed},
			"it is not sealed":   {plain, sealed, accepting},
		} {
			t.Run(name, func(t *testing.T) {
				q, again := open(t, c.accept)
				require.NoError(t, q.Hold(t.Context(), "ledger"))
				sender := fanouttest.NewSender()
				config := fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}}
				d := dispatcher(t, q, config)
				submit(t, d, "entry")
				closeNow(t, d)

				var log safeBuffer
				c.without.Logger = log.logger()
				q = again(t, c.without)
				require.NoError(t, q.Resume(t.Context(), "ledger"))
				d = dispatcher(t, q, config)
				eventually(t, func() bool { return strings.Contains(log.String(), "cannot be read; it is kept and tried again") }, "an error in the log")
				closeNow(t, d)
				assert.Empty(t, sender.Requests())

				q = again(t, c.with)
				require.Empty(t, deadLetters(t, q, durable.Filter{}), "no round was used")
				_, err := q.DB().Exec("UPDATE " + jobs(q) + " SET scheduled_at = created_at") // instead of waiting for a minute
				require.NoError(t, err)
				d = dispatcher(t, q, config)
				eventually(t, func() bool { return sender.Count() == 1 }, "it to arrive")
				closeNow(t, d)
			})
		}
	})
}

func TestEncryption_APayloadMovedToAnotherDispatchIsNotDelivered(t *testing.T) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	require.NoError(t, err)
	cipher, err := aead.New(handle)
	require.NoError(t, err)
	var log safeBuffer
	q, _ := inFile(t, durable.Config{Encryption: cipher, Logger: log.logger()})
	require.NoError(t, q.Hold(t.Context(), "bank"))
	bank := fanouttest.NewSender()
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{bank.Target("bank")}})
	submit(t, d, fanout.Payload{ID: "a", Value: "1 cent"})
	submit(t, d, fanout.Payload{ID: "b", Value: "a million"})
	_, err = q.DB().Exec(`UPDATE river_job SET args = jsonb_set(args, '$.sealed',
		(SELECT args->>'sealed' FROM river_job WHERE args->>'dispatch' = 'b')) WHERE args->>'dispatch' = 'a'`)
	require.NoError(t, err)
	require.NoError(t, q.Resume(t.Context(), "bank"))
	eventually(t, func() bool { return strings.Contains(log.String(), "dispatch_id=a") && bank.Count() == 1 }, "one to be told of, one to arrive")
	assert.Equal(t, "b:bank", bank.Requests()[0].Key)
}

func TestRecord_KeepsEnumsAsText(t *testing.T) {
	q, _ := inFile(t, durable.Config{Schedule: []time.Duration{}})
	refuse := func(*fanout.Request) error { return fanout.Permanent(errDown) }
	crm, standIn := sending("crm", refuse), sending("stand-in", refuse)
	crm.Fallback = []fanout.Target{standIn}
	submit(t, dispatcher(t, q, fanout.Config{Targets: []fanout.Target{crm}}), "entry")
	eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")
	var record string
	require.NoError(t, q.DB().QueryRow("SELECT CAST(record AS text) FROM fanout_journal").Scan(&record))
	assert.Contains(t, record, `"outcome":"failed"`)
	assert.Contains(t, record, `"kind":"fallback"`)
	one, err := q.Inspect(t.Context(), deadLetters(t, q, durable.Filter{})[0].ID)
	require.NoError(t, err)
	attempts := one.History[0].Attempts
	require.Len(t, attempts, 2)
	assert.Equal(t, []fanout.AttemptKind{0, fanout.FallbackAttempt}, []fanout.AttemptKind{attempts[0].Kind, attempts[1].Kind})
}

func TestRecord_KeepsTheBeginningOfAnAnswer(t *testing.T) {
	q, _ := inFile(t, durable.Config{})
	api := fanouttest.NewTarget(t, fanouttest.Reply(410, strings.Repeat("x", 20_000)))
	submit(t, dispatcher(t, q, fanout.Config{Targets: []fanout.Target{api.Target("crm")}}), "entry")
	eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")
	one, err := q.Inspect(t.Context(), deadLetters(t, q, durable.Filter{})[0].ID)
	require.NoError(t, err)
	assert.Equal(t, 410, one.History[0].Response.StatusCode)
	assert.Len(t, one.History[0].Response.Body, 16<<10)
}

// refuseWrites makes the journal of a queue in a file unwritable, until the trigger
// "refuse" is dropped.
func refuseWrites(t *testing.T, q *durable.Queue) {
	t.Helper()
	_, err := q.DB().Exec("CREATE TRIGGER refuse BEFORE INSERT ON fanout_journal BEGIN SELECT RAISE(ABORT, 'no space'); END")
	require.NoError(t, err)
}

func TestRecord_ThatCannotBeKeptStopsNoDelivery(t *testing.T) {
	var log safeBuffer
	q, _ := inFile(t, durable.Config{Schedule: fast(1), Logger: log.logger()})
	refuseWrites(t, q)
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{sending("crm", func(*fanout.Request) error { return errDown })}})
	submit(t, d, "entry")
	eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")
	assert.Equal(t, 2, deadLetters(t, q, durable.Filter{})[0].Rounds)
	assert.Contains(t, log.String(), "the result of a round could not be stored")
	assert.Contains(t, log.String(), "no space")
}
