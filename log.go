package fanout

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"unicode"
)

// failure is one target's part in the record of a dispatch that failed.
type failure struct {
	Target   string  `json:"target"`
	Outcome  Outcome `json:"outcome"`
	Attempts int     `json:"attempts"`
	Class    string  `json:"class"`
	Optional bool    `json:"optional,omitempty"`
	Error    string  `json:"error"`
}

// logDispatch writes nothing if all went well, and a warning if it went well
// enough: only optional targets failed, or a fallback answered.
func (t *telemetry) logDispatch(ctx context.Context, s *Submission, results Results, err error) {
	level, message := slog.LevelError, "fanout: dispatch failed"
	if err == nil {
		level, message = slog.LevelWarn, "fanout: dispatch partly failed"
	}
	failed := false
	for _, r := range results {
		failed = failed || r.failed()
	}
	if !failed || !t.logger.Enabled(ctx, level) {
		return
	}
	var failures []failure
	for _, r := range results.Sorted() {
		if r.failed() {
			failures = append(failures, failure{r.Target, r.Outcome, len(r.Attempts), ErrorClass(r.Err), r.Optional, shown(r.Err)})
		}
	}
	t.log(ctx, level, message, s.DispatchID, s.CorrelationID,
		slog.Int("targets", len(results)), slog.Any("failures", failures))
}

// failed leaves out what nobody waited for any more.
func (r *Result) failed() bool {
	return r.Err != nil && !errors.Is(r.Err, ErrNotNeeded) && !errors.Is(r.Err, ErrUnderWay)
}

func (t *telemetry) logDeadLetter(ctx context.Context, s *Submission, r Result) {
	level := slog.LevelError
	if r.Optional {
		level = slog.LevelWarn
	}
	t.log(ctx, level, "fanout: dead letter", s.DispatchID, s.CorrelationID,
		slog.String("target", r.Target), slog.String("outcome", r.Outcome.String()), slog.Int("attempts", len(r.Attempts)),
		slog.String("class", ErrorClass(r.Err)), slog.String("error", shown(r.Err)))
}

func (t *telemetry) logAttempt(ctx context.Context, dl *delivery, a *Attempt) {
	if !t.logger.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attributes := []slog.Attr{
		slog.String("target", dl.target.Name), slog.Int("attempt", len(dl.attempts)), slog.String("request_id", a.RequestID),
		slog.Duration("duration", a.Duration), slog.Int("status", a.StatusCode),
	}
	if a.Err != nil {
		attributes = append(attributes, slog.String("class", ErrorClass(a.Err)), slog.String("error", shown(a.Err)))
	}
	t.log(ctx, slog.LevelDebug, "fanout: attempt", dl.request.DispatchID, dl.request.CorrelationID, attributes...)
}

func (t *telemetry) logBreaker(ctx context.Context, target string, c breakerChange) {
	level := slog.LevelInfo
	if c.to == BreakerOpen {
		level = slog.LevelWarn
	}
	t.logger.LogAttrs(ctx, level, "fanout: breaker "+string(c.to), slog.String("target", target), slog.String("from", string(c.from)), slog.String("to", string(c.to)))
}

func (t *telemetry) logPanic(ctx context.Context, hook string, err *PanicError) {
	t.logger.LogAttrs(ctx, slog.LevelError, "fanout: hook failed", slog.String("hook", hook), slog.String("error", shown(err)), slog.String("stack", string(err.Stack)))
}

func (t *telemetry) log(ctx context.Context, level slog.Level, message, dispatchID, correlationID string, attributes ...slog.Attr) {
	ids := []slog.Attr{slog.String("dispatch_id", dispatchID), slog.String(CorrelationKey, correlationID)}
	t.logger.LogAttrs(ctx, level, message, append(ids, attributes...)...)
}

const mostShown = 1024

// shown bounds what a Sender, a classifier or a panic may have taken from an answer,
// and leaves it no control characters.
func shown(err error) string {
	text := strings.ToValidUTF8(err.Error(), "\uFFFD")
	if len(text) > mostShown {
		text = strings.ToValidUTF8(text[:mostShown], "") + "\u2026"
	}
	return strings.Map(func(r rune) rune {
		if misleading(r) {
			return ' '
		}
		return r
	}, text)
}

// misleading runes end lines, or turn the order of what follows around.
func misleading(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}
