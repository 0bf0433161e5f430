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

// Config configures a [Queue]. The zero value is usable: every field has a default.
type Config struct {
	// Schedule lists the waits between the rounds of a delivery. In a round the delivery is
	// tried as its [fanout.Policy] allows: a few attempts within Policy.Timeout. If the
	// round fails, the queue waits and starts the next one. With {time.Minute, time.Hour},
	// for example, there are three rounds. If the last round fails too, the delivery becomes
	// a dead letter.
	//
	// Up to a fifth is added to each wait at random. If a target asks for a longer wait by
	// Retry-After, the queue waits that long, up to 24 h. Nil means the default,
	// [StandardSchedule]. An empty list means a single round. A zero wait is replaced by 50
	// ms. Negative waits, waits under 1 ms, waits over a year and more than 1,000 waits are
	// refused.
	Schedule []time.Duration
	// Concurrency is how many deliveries to one target run at the same time in this process.
	// Zero means the default, 64, as in [fanout.Bulkhead]. A negative value and more than
	// 10,000 are refused.
	Concurrency int
	// Targets overrides Schedule and Concurrency for single targets, by name. Default none.
	Targets map[string]TargetConfig
	// Final reports whether a round that failed is the last one, however many rounds
	// Schedule has left. Default [Final].
	Final func(fanout.Result) bool

	// MaxPayloadBytes limits the size of a payload's body and header together. They are
	// stored once for each target. Zero means the default, 1 MiB; negative means no limit.
	// Submit refuses a larger payload with [fanout.ErrPayloadTooLarge].
	MaxPayloadBytes int
	// Encryption encrypts payloads and answers in the database. Names of targets, IDs,
	// ordering keys and errors stay readable. The implementation is responsible for key
	// rotation; a keyset of Tink supports it. A delivery that cannot be decrypted stays in
	// the database, is logged, and is tried again every minute. Default none.
	Encryption AEAD
	// AcceptPlaintext also delivers payloads that are stored unencrypted although Encryption
	// is set. It is for payloads that were submitted before Encryption was set. While it is
	// on, anybody who can write to the database can insert a forged payload. Default false.
	AcceptPlaintext bool
	// SubmitOnly makes this process submit without delivering: other processes deliver.
	// Default false.
	SubmitOnly bool
	// Retention is how long a delivery is remembered after it was made. During that time,
	// submitting a payload with the same [fanout.Payload] ID again changes nothing. Zero
	// means the default, 24 h; negative means forever; a positive value under 1 s is
	// refused. Dead letters are kept until they are replayed or discarded, whatever
	// Retention is.
	Retention time.Duration
	// TakeOver is how long a process must be silent before others take over its deliveries,
	// on Postgres. Zero means the default, 10 s. Less than 2 s, and so every negative value,
	// is refused.
	//
	// A process that is cut off from the database for longer than that may still be sending.
	// Its deliveries may then be made a second time. The clocks of the processes and of the
	// database should differ by less than a second: if the clock of a process is five
	// seconds ahead, what it submits begins five seconds late.
	TakeOver time.Duration
	// Schema is the Postgres schema that holds the tables: lower-case letters, digits and
	// underscores, at most 46 characters, and no digit first. Default "fanout". On SQLite it
	// must be empty.
	Schema string
	// Logger gets problems with the database, and deliveries that have to wait because they
	// cannot be read or their target is not known. Default [log/slog.Default].
	Logger *slog.Logger
}

// TargetConfig overrides parts of [Config] for one target. The limits are the same as
// there.
type TargetConfig struct {
	// Schedule replaces [Config.Schedule]. Default nil: that one applies.
	Schedule []time.Duration
	// Concurrency replaces [Config.Concurrency]. Default zero: that one applies. A
	// negative value is refused.
	Concurrency int
}

// AEAD encrypts data, and authenticates the associated data with it. Tink's tink.AEAD has
// these methods.
type AEAD interface {
	Encrypt(plaintext, associatedData []byte) ([]byte, error)
	Decrypt(ciphertext, associatedData []byte) ([]byte, error)
}

// StandardSchedule returns the schedule that the Standard Webhooks specification gives as
// an example. It has nine waits, which take a little over three days together.
func StandardSchedule() []time.Duration {
	return []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour}
}

// Final is the default of [Config.Final]. It ends a delivery at once in these cases:
//
//   - The answer was 410 Gone: the receiver wants no more. The Standard Webhooks
//     specification says so. It treats every other status but 2xx as a failure that is
//     tried again, and so do Svix and Recurly, by their documentation. A 401 or a 404, for
//     example, is often a mistake of the receiver, which it corrects within the days of a
//     schedule. Others give up on some of them, as Ashby does on 401, 403, 404 and 405.
//   - The address is blocked, see [fanout.ErrAddressBlocked].
//   - The target does not exist any more, see [fanout.ErrTargetGone].
//   - The delivery may have taken effect and must not be repeated, see
//     [fanout.ErrNotIdempotent].
//   - Your own [fanout.Sender] returned [fanout.Permanent], with an error that is no
//     [fanout.StatusError].
//
// Everything else is tried again by the schedule, for example a 422, an expired
// certificate, or invalid credentials.
func Final(r fanout.Result) bool {
	if errors.Is(r.Err(), fanout.ErrAddressBlocked) || errors.Is(r.Err(), fanout.ErrNotIdempotent) || errors.Is(r.Err(), fanout.ErrTargetGone) {
		return true
	}
	if status, ok := errors.AsType[*fanout.StatusError](r.Err()); ok {
		return status.StatusCode == http.StatusGone
	}
	switch fanout.ClassOf(r.Err()) { // not retried within a round, but the next one may succeed
	case fanout.ClassCertificate, fanout.ClassAuth:
		return false
	case fanout.ClassResponseTooLarge, fanout.ClassPanic, fanout.ClassGoexit:
		return r.Outcome == fanout.Unknown && r.Key == "" // it may take effect a second time
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

// engine returns the part of the configuration that River's engine needs.
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
