package durable_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
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

func TestAnErrorThatADatabaseCannotWriteIsWrittenAllTheSame(t *testing.T) {
	long := "\x00\xff" + strings.Repeat("\u00fc", 600) + "x"
	onBoth(t, func(t *testing.T, open opener) {
		for name, failing := range map[string]func(*fanout.Request) error{
			"final":     func(*fanout.Request) error { return fanout.Permanent(errors.New(long)) },
			"not final": func(*fanout.Request) error { return errors.New(long) },
			"panic":     func(*fanout.Request) error { panic(long) },
			"cancelled": func(*fanout.Request) error { return fmt.Errorf("%s: %w", long, context.Canceled) },
			"final, cancelled": func(*fanout.Request) error {
				return fanout.Permanent(fmt.Errorf("%s: %w", long, context.Canceled))
			},
		} {
			t.Run(name, func(t *testing.T) {
				q, _ := open(t, durable.Config{Schedule: fast(1)})
				var results fanouttest.Results
				d := dispatcher(t, q, fanout.Config{OnResult: results.OnResult, Targets: []fanout.Target{
					sending("bad", failing), fanouttest.NewSender().Target("good"),
				}})
				got := wait(t, &results, submit(t, d, "entry"))
				assert.Equal(t, fanout.Delivered, got["good"].Outcome)
				eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")
				dead := deadLetters(t, q, durable.Filter{})[0]
				assert.Contains(t, dead.Error, "??\u00fc\u00fc")
				closeNow(t, d)
			})
		}
	})
}

func TestASagaIsUndoneWhateverTheErrorSays(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		var c calls
		var results fanouttest.Results
		refuse := func() (*fanout.Response, error) {
			return nil, fanout.Permanent(errors.New("x\x00" + strings.Repeat("\u00fc", 600)))
		}
		d := dispatcher(t, q, fanout.Config{Targets: order(&c, refuse, ok), OnResult: results.OnResult})
		got := wait(t, &results, submit(t, d, "order"))
		assert.Equal(t, map[string]string{"stock": "compensated", "payment": "failed", "shipping": "skipped"}, outcomes(got))
	})
}

// reversing is a cipher for those who have it.
type reversing struct{}

func (reversing) Encrypt(plain, _ []byte) ([]byte, error) { return append([]byte("~"), plain...), nil }
func (reversing) Decrypt(sealed, _ []byte) ([]byte, error) {
	if sealed[0] != '~' {
		return nil, errors.New("not mine")
	}
	return sealed[1:], nil
}

func TestWhatCannotBeReadIsKeptUntilItCan(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		sealed, plain := durable.Config{Encryption: reversing{}, Schedule: []time.Duration{}}, durable.Config{Schedule: []time.Duration{}}
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
				eventually(t, func() bool { return strings.Contains(log.String(), "cannot be read, and is kept until it can") }, "an error in the log")
				closeNow(t, d)
				assert.Empty(t, sender.Requests())

				q = again(t, c.with)
				require.Empty(t, deadLetters(t, q, durable.Filter{}), "no round was used")
				_, err := q.DB().Exec("UPDATE " + jobs(q) + " SET scheduled_at = created_at") // rather than wait for a minute
				require.NoError(t, err)
				d = dispatcher(t, q, config)
				eventually(t, func() bool { return sender.Count() == 1 }, "it to arrive")
				closeNow(t, d)
			})
		}
	})
}

func TestAPayloadMovedToAnotherDispatchIsNotDelivered(t *testing.T) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	require.NoError(t, err)
	cipher, err := aead.New(handle)
	require.NoError(t, err)
	var log safeBuffer
	q, _ := inFile(t, durable.Config{Encryption: cipher, Logger: log.logger()})
	require.NoError(t, q.Hold(t.Context(), "bank"))
	bank := fanouttest.NewSender()
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{bank.Target("bank")}})
	submit(t, d, "1 cent", fanout.ID("a"))
	submit(t, d, "a million", fanout.ID("b"))
	_, err = q.DB().Exec(`UPDATE river_job SET args = jsonb_set(args, '$.sealed',
		(SELECT args->>'sealed' FROM river_job WHERE args->>'dispatch' = 'b')) WHERE args->>'dispatch' = 'a'`)
	require.NoError(t, err)
	require.NoError(t, q.Resume(t.Context(), "bank"))
	eventually(t, func() bool { return strings.Contains(log.String(), "dispatch_id=a") && bank.Count() == 1 }, "one to be told of, one to arrive")
	assert.Equal(t, "b:bank", bank.Requests()[0].IdempotencyKey)
}

func TestAFinalThatPanicsIsNotFinal(t *testing.T) {
	q, _ := inFile(t, durable.Config{Schedule: fast(1), Final: func(fanout.Result) bool { panic("oops") }})
	var told atomic.Int32
	d := dispatcher(t, q, fanout.Config{
		Targets:      []fanout.Target{sending("crm", func(*fanout.Request) error { return fanout.Permanent(errDown) })},
		OnDeadLetter: func(context.Context, *fanout.Submission, fanout.Result) { told.Add(1) },
	})
	submit(t, d, "entry")
	eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")
	assert.EqualValues(t, 1, told.Load())
	assert.Equal(t, 2, deadLetters(t, q, durable.Filter{})[0].Rounds)
}

func TestAProcessThatDrainsForLongIsNotTakenOverFrom(t *testing.T) {
	q, again := inPostgres(t, durable.Config{TakeOver: 2 * time.Second})
	var made atomic.Int32
	begun := make(chan struct{})
	config := fanout.Config{Targets: []fanout.Target{sending("slow", func(*fanout.Request) error {
		if made.Add(1) == 1 {
			close(begun)
		}
		time.Sleep(6 * time.Second)
		return nil
	})}}
	d := dispatcher(t, q, config)
	submit(t, d, "entry")
	<-begun
	dispatcher(t, again(t, durable.Config{TakeOver: 2 * time.Second}), config)
	closeNow(t, d)
	assert.EqualValues(t, 1, made.Load())
}

func TestALaneThatCouldNotBeOpenedIsOpenedLater(t *testing.T) {
	q, _ := inPostgres(t, durable.Config{})
	ledger := fanouttest.NewSender()
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{ledger.Target("ledger")}})
	_, err := q.DB().Exec("ALTER TABLE fanout.river_queue RENAME TO away")
	require.NoError(t, err)
	submit(t, d, "entry")
	time.Sleep(500 * time.Millisecond) // until it has been tried
	assert.Zero(t, ledger.Count())
	_, err = q.DB().Exec("ALTER TABLE fanout.away RENAME TO river_queue")
	require.NoError(t, err)
	eventually(t, func() bool { return ledger.Count() == 1 }, "it to arrive")
}

func TestARetryAfterOfYearsIsWaitedForOneDay(t *testing.T) {
	q, _ := inFile(t, durable.Config{Schedule: []time.Duration{time.Hour}})
	api := fanouttest.NewTarget(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "9223372036")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{api.Target("crm")}})
	submit(t, d, "entry")
	eventually(t, func() bool {
		var waits int
		row := q.DB().QueryRow("SELECT count(*) FROM river_job WHERE state = 'retryable' AND scheduled_at BETWEEN datetime('now', '+23 hours') AND datetime('now', '+30 hours')")
		return row.Scan(&waits) == nil && waits == 1
	}, "it to be put off for a day")
	assert.Equal(t, 1, api.Count())
}

func TestASubmitThatWaitsForPostgresEndsWithItsContext(t *testing.T) {
	q, _ := inPostgres(t, durable.Config{})
	ledger := fanouttest.NewSender()
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{ledger.Target("ledger")}})
	tx, err := q.DB().Begin()
	require.NoError(t, err)
	_, err = tx.Exec("LOCK TABLE fanout.river_job IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = d.Submit(ctx, "entry")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(began), 5*time.Second, "less than a Submit without an end would take")
	require.NoError(t, tx.Rollback())
	submit(t, d, "later")
	eventually(t, func() bool { return ledger.Count() == 1 }, "what was accepted, and nothing else")
}

func TestATargetThatIsNoneAnyMoreIsToldBeforeItsDeliveryDies(t *testing.T) {
	var log safeBuffer
	q, _ := inFile(t, durable.Config{Logger: log.logger(), Schedule: []time.Duration{time.Hour}})
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("crm")}})
	require.NoError(t, q.Hold(t.Context(), "crm"))
	submit(t, d, "entry")
	d.RemoveTargets("crm")
	require.NoError(t, q.Resume(t.Context(), "crm"))
	eventually(t, func() bool { return strings.Contains(log.String(), "no target of this name is configured") }, "a warning")
}
