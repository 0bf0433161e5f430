package fanout

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
)

// What is told to [Config.SecurityLogger], as the attribute "event".
const (
	eventAuthFailed     = "auth_failed"         // credentials could not be had, or were refused
	eventCertificate    = "certificate_refused" // the target's by us, or ours by the target
	eventAddressBlocked = "address_blocked"     // by a [Guard]
	eventInputRefused   = "input_refused"       // a payload or a target that cannot be used
	eventRateLimited    = "rate_limited"        // a delivery was rejected by [RateLimit]
	eventTargetsSet     = "targets_set"
	eventTargetsRemoved = "targets_removed"
)

func (t *telemetry) security(ctx context.Context, level slog.Level, event string, attributes ...slog.Attr) {
	if t.securityLogger == nil {
		return
	}
	attributes = append([]slog.Attr{slog.String("event", event), slog.String(CorrelationKey, CorrelationID(ctx))}, attributes...)
	t.securityLogger.LogAttrs(ctx, level, "fanout: security", attributes...)
}

func (dl *delivery) securityAttempt(ctx context.Context, a *Attempt) {
	t := dl.telemetry()
	switch {
	case a.StatusCode == http.StatusUnauthorized && dl.verdict.expired && !dl.refreshed: // a token's renewal
		t.security(ctx, slog.LevelInfo, eventAuthFailed, dl.securityAttributes(strconv.Itoa(a.StatusCode))...)
	case a.StatusCode == http.StatusUnauthorized, a.StatusCode == http.StatusForbidden, a.StatusCode == http.StatusProxyAuthRequired:
		t.security(ctx, slog.LevelWarn, eventAuthFailed, dl.securityAttributes(strconv.Itoa(a.StatusCode))...)
	case errors.Is(a.Err, ErrAddressBlocked):
		t.security(ctx, slog.LevelWarn, eventAddressBlocked, append(dl.securityAttributes(ErrorClass(a.Err)), slog.String("error", shown(a.Err)))...)
	case ErrorClass(a.Err) == "certificate":
		t.security(ctx, slog.LevelWarn, eventCertificate, append(dl.securityAttributes("certificate"), slog.String("error", shown(a.Err)))...)
	}
}

func (dl *delivery) securityEnd(ctx context.Context) {
	t := dl.telemetry()
	switch {
	case dl.err == nil:
	case errors.Is(dl.err, ErrAuth):
		t.security(ctx, slog.LevelWarn, eventAuthFailed, append(dl.securityAttributes("auth"), slog.String("error", shown(dl.err)))...)
	case errors.Is(dl.err, ErrRateLimited):
		t.security(ctx, slog.LevelWarn, eventRateLimited, dl.securityAttributes(ErrorClass(dl.err))...)
	}
}

func (dl *delivery) securityAttributes(class string) []slog.Attr {
	return []slog.Attr{slog.String("target", dl.target.Name), slog.String("dispatch_id", dl.request.DispatchID), slog.String("class", class)}
}

func (t *telemetry) securityInput(ctx context.Context, err error) {
	if ctx == nil || !errors.Is(err, ErrInvalid) {
		return
	}
	t.security(ctx, slog.LevelWarn, eventInputRefused, slog.String("error", shown(err)))
}
