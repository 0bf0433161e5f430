package fanout

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/fanout-go/fanout/internal/ids"
	"github.com/fanout-go/fanout/internal/statuspage"
)

// StatusHandler serves [Dispatcher.Snapshot]: to a browser as a page that keeps
// itself up to date, to anybody else, and with ?format=json, as JSON; ?limit=N
// leaves out all but N targets, those in trouble kept first.
//
//	mux.Handle("/debug/fanout", d.StatusHandler())
//
// It shows target names and counts, no address, payload or text of a target's,
// changes nothing, and loads nothing from elsewhere. It does not ask who is asking:
// mount it where operators can reach it and strangers cannot.
func (d *Dispatcher) StatusHandler() http.Handler { return http.HandlerFunc(d.serveStatus) }

func (d *Dispatcher) serveStatus(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Vary", "Accept")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	query := r.URL.Query()
	if query.Get("format") != "json" && acceptsHTML(r.Header.Values("Accept")) {
		nonce := ids.New()
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", fmt.Sprintf(
			"default-src 'none'; style-src 'nonce-%[1]s'; script-src 'nonce-%[1]s'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", nonce))
		_, _ = io.WriteString(w, statuspage.Page(nonce)) // fails only if the client has gone
		return
	}
	snapshot := shortSnapshot{Snapshot: d.Snapshot(r.Context())}
	if limit, err := strconv.Atoi(query.Get("limit")); err == nil && limit >= 0 {
		snapshot.cut(limit)
	}
	writeJSON(w, http.StatusOK, "application/json", snapshot)
}

func acceptsHTML(accept []string) bool {
	for mediaType := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		if name, _, err := mime.ParseMediaType(mediaType); err == nil && name == "text/html" {
			return true
		}
	}
	return false
}

type shortSnapshot struct {
	Snapshot
	Omitted int `json:"omitted"`
}

// cut keeps the order of definition unless some have to be left out.
func (s *shortSnapshot) cut(limit int) {
	if len(s.Targets) <= limit {
		return
	}
	slices.SortStableFunc(s.Targets, func(a, b TargetSnapshot) int { return b.trouble() - a.trouble() })
	s.Omitted = len(s.Targets) - limit
	s.Targets = s.Targets[:limit]
}

func (t *TargetSnapshot) trouble() int {
	switch {
	case t.Breaker == BreakerOpen:
		return 3
	case t.Breaker == BreakerHalfOpen:
		return 2
	case t.Waiting > 0 || t.LastError != "":
		return 1
	}
	return 0
}
