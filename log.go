package fanout

import (
	"context"
	"errors"
	"log/slog"

	"github.com/fanout-go/fanout/internal/redact"
)

// log writes to the configured logger. If there is none, it writes to the process's
// default logger of the moment at which a record is written.
type log struct{ configured *slog.Logger }

func (l log) logger() *slog.Logger {
	if l.configured != nil {
		return l.configured
	}
	return slog.Default()
}

func (l log) enabled(ctx context.Context, level slog.Level) bool {
	return l.logger().Enabled(ctx, level)
}

// failure describes one target in the log record of a dispatch that failed.
type failure struct {
	Target   string  `json:"target"`
	Outcome  Outcome `json:"outcome"`
	Attempts int     `json:"attempts"`
	Class    Class   `json:"class"`
	Optional bool    `json:"optional,omitempty"`
	Error    string  `json:"error"`
}

// dispatch writes nothing if all targets succeeded. If only optional targets failed, or a
// fallback answered, it writes a warning. Otherwise it writes an error.
func (l log) dispatch(ctx context.Context, p *Payload, results Results, err error) {
	level, message := slog.LevelError, "fanout: dispatch failed"
	if err == nil {
		level, message = slog.LevelWarn, "fanout: dispatch partly failed"
	}
	failed := false
	for _, r := range results {
		failed = failed || r.worthTelling()
	}
	if !failed || !l.enabled(ctx, level) {
		return
	}
	var failures []failure
	for _, r := range results.Sorted() {
		if r.worthTelling() {
			failures = append(failures, failure{r.Target, r.Outcome, len(r.Attempts), ClassOf(r.err), r.Optional, redact.Shown(r.err)})
		}
	}
	l.write(ctx, level, message, p, slog.Int("targets", len(results)), slog.Any("failures", failures))
}

// worthTelling leaves out targets whose result nobody needed any more.
func (r *Result) worthTelling() bool {
	return r.err != nil && !errors.Is(r.err, ErrNotNeeded) && !errors.Is(r.err, ErrUnderWay)
}

func (l log) deadLetter(ctx context.Context, r Result) {
	level := slog.LevelError
	if r.Optional {
		level = slog.LevelWarn
	}
	err := r.Err()
	l.write(ctx, level, "fanout: dead letter", r.Payload,
		slog.String("target", r.Target), slog.String("outcome", r.Outcome.String()), slog.Int("attempts", len(r.Attempts)),
		slog.String("class", string(ClassOf(err))), slog.String("error", redact.Shown(err)))
}

func (l log) attempt(ctx context.Context, target string, p *Payload, a *Attempt, made int) {
	if !l.enabled(ctx, slog.LevelDebug) {
		return
	}
	attributes := []slog.Attr{
		slog.String("target", target), slog.Int("attempt", made), slog.String("request_id", a.RequestID),
		slog.Duration("duration", a.Duration), slog.Int("status", a.StatusCode),
	}
	if a.Err != nil {
		attributes = append(attributes, slog.String("class", string(ClassOf(a.Err))), slog.String("error", redact.Shown(a.Err)))
	}
	l.write(ctx, slog.LevelDebug, "fanout: attempt", p, attributes...)
}

func (l log) breaker(ctx context.Context, level slog.Level, target, from, to string) {
	l.logger().LogAttrs(ctx, level, "fanout: breaker "+to, slog.String("target", target), slog.String("from", from), slog.String("to", to))
}

func (l log) panicked(ctx context.Context, hook string, err *PanicError) {
	l.logger().LogAttrs(ctx, slog.LevelError, "fanout: hook failed", slog.String("hook", hook), slog.String("error", redact.Shown(err)), slog.String("stack", string(err.Stack)))
}

func (l log) backlogUnknown(ctx context.Context, err error) {
	l.logger().LogAttrs(ctx, slog.LevelWarn, "fanout: backlog unknown", slog.String("error", redact.Shown(err)))
}

func (l log) write(ctx context.Context, level slog.Level, message string, p *Payload, attributes ...slog.Attr) {
	ids := []slog.Attr{slog.String("dispatch_id", p.ID), slog.String(CorrelationKey, p.CorrelationID)}
	l.logger().LogAttrs(ctx, level, message, append(ids, attributes...)...)
}

// securityLog writes to [Config.SecurityLogger]. If that is nil, nothing is written.
type securityLog struct{ logger *slog.Logger }

func (l securityLog) on() bool { return l.logger != nil }

func (l securityLog) tell(ctx context.Context, level slog.Level, event string, attributes ...slog.Attr) {
	if !l.on() {
		return
	}
	attributes = append([]slog.Attr{slog.String("event", event), slog.String(CorrelationKey, CorrelationID(ctx))}, attributes...)
	l.logger.LogAttrs(ctx, level, "fanout: security", attributes...)
}
