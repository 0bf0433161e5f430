package durable

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"time"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable/internal/river"
)

// Config is how a [Queue] works. Its zero value is ready.
type Config struct {
	// Schedule is how long to wait after each round that failed. A round is what
	// [fanout.Policy] allows: a few attempts within its Timeout. After the last one
	// the delivery is a dead letter. Up to a fifth is added to each wait at random,
	// and a target's Retry-After, up to 24 h, is waited for if that is longer. No wait
	// is longer than a year. Default
	// [StandardSchedule].
	Schedule []time.Duration
	// Concurrency is how many deliveries to one target are under way at once in this
	// process. Default 64, as [fanout.Bulkhead]. More than 10,000 is refused.
	Concurrency int
	// Targets says otherwise for some, by name.
	Targets map[string]TargetConfig
	// Final reports whether a failed round is the last one, whatever Schedule says.
	// Default [Final]: a 410, a blocked address, and what must not be repeated.
	Final func(fanout.Result) bool

	// MaxPayloadBytes bounds body and header together, which are stored once for each
	// target. Default 1 MiB; negative means no bound.
	MaxPayloadBytes int
	// Encryption keeps payloads and answers unreadable in the database; names, IDs,
	// ordering keys and errors stay readable. Keys are rotated by whoever implements it:
	// a keyset of Tink does. What cannot be decrypted waits, and is logged. Default none.
	Encryption AEAD
	// AcceptPlaintext has what was accepted before there was Encryption delivered, too.
	// Whoever can write to the database can then pass off a payload. Default false.
	AcceptPlaintext bool
	// SubmitOnly has this process submit and deliver nothing: others do. Default false.
	SubmitOnly bool
	// Retention is how long a delivery is remembered after it was made, and so how
	// long [fanout.ID] knows it. Default 24 h, least 1 s; negative means for ever. Dead
	// letters are kept until they are replayed or discarded.
	Retention time.Duration
	// TakeOver is how long a process must not have been heard of before others take
	// over what it was delivering, on Postgres. Default 10 s, least 2 s. A process
	// that was cut off from the database for longer may deliver some a second time. The
	// clocks of processes and database should differ by less than a second: what a
	// process submits whose clock is ahead begins that much later.
	TakeOver time.Duration
	// Schema is where the tables are, on Postgres. Default "fanout". It must not be
	// set for SQLite.
	Schema string
	// Logger gets what goes wrong with the database. Default [log/slog.Default].
	Logger *slog.Logger
}

// TargetConfig is what is different for one target. Zero fields are as in [Config].
type TargetConfig struct {
	Schedule    []time.Duration
	Concurrency int
}

// AEAD encrypts, and authenticates what belongs to it. Those of Tink are such.
type AEAD interface {
	Encrypt(plaintext, associatedData []byte) ([]byte, error)
	Decrypt(ciphertext, associatedData []byte) ([]byte, error)
}

// StandardSchedule is the one that the Standard Webhooks specification gives as an
// example: nine waits, three days in all.
func StandardSchedule() []time.Duration {
	return []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour}
}

// Final is the default of [Config.Final]. It ends a delivery at once if
//
//   - the answer was 410 Gone, by which a receiver says that it wants no more. That is how
//     the Standard Webhooks specification reads it. It counts every other status but 2xx as
//     a failure that is tried again, as Svix and Stripe do: a 401 or a 404 is often a
//     receiver's own mistake, which it mends within the days of a schedule.
//   - the address is blocked, see [fanout.ErrAddressBlocked].
//   - there is no such target any more, see [fanout.ErrTargetGone].
//   - it may have taken effect and cannot be repeated, see [fanout.ErrNotIdempotent].
//   - a [fanout.Sender] of yours said by [fanout.Permanent] that it has no use, with an
//     error that is no [fanout.StatusError].
//
// All else is tried again by the schedule, such as a 422, a certificate that has expired,
// or credentials that are not valid.
func Final(r fanout.Result) bool {
	if errors.Is(r.Err(), fanout.ErrAddressBlocked) || errors.Is(r.Err(), fanout.ErrNotIdempotent) || errors.Is(r.Err(), fanout.ErrTargetGone) {
		return true
	}
	if status, ok := errors.AsType[*fanout.StatusError](r.Err()); ok {
		return status.StatusCode == http.StatusGone
	}
	switch fanout.ClassOf(r.Err()) { // of what is not retried within a round, but may be mended
	case fanout.ClassCertificate, fanout.ClassAuth:
		return false
	case fanout.ClassResponseTooLarge, fanout.ClassPanic, fanout.ClassGoexit:
		return r.Outcome == fanout.Unknown && r.Key == "" // and would take effect twice
	}
	return errors.Is(r.Err(), fanout.ErrNotRetried)
}

func (c Config) withDefaults(sqlite bool) (Config, error) {
	if c.Schedule == nil {
		c.Schedule = StandardSchedule()
	}
	if c.Final == nil {
		c.Final = Final
	}
	c.Concurrency = cmp.Or(c.Concurrency, 64)
	c.MaxPayloadBytes = cmp.Or(c.MaxPayloadBytes, 1<<20)
	c.Retention = cmp.Or(c.Retention, 24*time.Hour)
	c.TakeOver = cmp.Or(c.TakeOver, 10*time.Second)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if !sqlite {
		c.Schema = cmp.Or(c.Schema, "fanout")
	}
	errs := []error{checkSchedule("Schedule", c.Schedule), checkConcurrency("Concurrency", c.Concurrency)}
	if c.Schema != "" && !schemaName.MatchString(c.Schema) {
		errs = append(errs, invalid("Schema", "%q is not letters, digits and underscores", c.Schema))
	}
	if c.Schema != "" && sqlite {
		errs = append(errs, invalid("Schema", "is for Postgres"))
	}
	if c.Retention > 0 && c.Retention < time.Second {
		errs = append(errs, invalid("Retention", "%v is less than 1s", c.Retention))
	}
	if c.TakeOver < 2*time.Second {
		errs = append(errs, invalid("TakeOver", "%v is less than 2s", c.TakeOver))
	}
	for name, t := range c.Targets {
		errs = append(errs, checkSchedule(fmt.Sprintf("Targets[%q].Schedule", name), t.Schedule),
			checkConcurrency(fmt.Sprintf("Targets[%q].Concurrency", name), cmp.Or(t.Concurrency, 1)))
	}
	return c, errors.Join(errs...)
}

var schemaName = regexp.MustCompile("^[a-z_][a-z0-9_]{0,45}$")

func checkSchedule(field string, schedule []time.Duration) error {
	if len(schedule) > 1000 {
		return invalid(field, "more than 1000 waits")
	}
	for i, wait := range schedule {
		field := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case wait < 0:
			return invalid(field, "%v is negative", wait)
		case wait > 0 && wait < time.Millisecond:
			return invalid(field, "%v is less than 1ms: is its unit missing?", wait)
		case wait > 365*24*time.Hour:
			return invalid(field, "%v is more than a year", wait)
		}
	}
	return nil
}

func checkConcurrency(field string, n int) error {
	if n < 1 || n > 10_000 {
		return invalid(field, "%d is not in 1 to 10,000", n)
	}
	return nil
}

func invalid(field, format string, args ...any) error {
	return &fanout.InvalidError{Where: "durable.Config", Field: field, Err: fmt.Errorf(format, args...)}
}

// engine is what River needs to know.
func (c *Config) engine() river.Config {
	return river.Config{Concurrency: c.concurrency, Retention: c.Retention, TakeOver: c.TakeOver, Logger: c.Logger}
}

func (c *Config) schedule(target string) []time.Duration {
	if s := c.Targets[target].Schedule; s != nil {
		return s
	}
	return c.Schedule
}

func (c *Config) concurrency(target string) int {
	return cmp.Or(c.Targets[target].Concurrency, c.Concurrency)
}
