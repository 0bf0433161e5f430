package fanouthttp

import (
	"crypto/rand"
	_ "embed" // for status.html
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/fanout-go/fanout"
)

// statusPage has the word NONCE where a Content-Security-Policy needs a nonce.
//
//go:embed status.html
var statusPage string

// StatusHandler serves [fanout.Dispatcher.Snapshot]. A browser gets a page that keeps
// itself up to date. Other clients get JSON, and so does a request with ?format=json.
// With ?limit=N it shows at most N targets, and prefers those with problems.
//
//	mux.Handle("GET /debug/fanout", fanouthttp.StatusHandler(dispatcher))
//
// It shows names of targets and counts, but no addresses, no payloads, and no texts from
// targets. It changes nothing, and the page loads nothing from other servers. It does not
// authenticate its clients: mount it where operators can reach it and strangers cannot.
// It panics if the dispatcher is nil, as [http.Handle] does for a nil handler.
func StatusHandler(dispatcher *fanout.Dispatcher) http.Handler {
	if dispatcher == nil {
		panic("fanouthttp: StatusHandler: nil dispatcher")
	}
	return &statusHandler{dispatcher}
}

type statusHandler struct{ dispatcher *fanout.Dispatcher }

func (h *statusHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
		writePage(w)
		return
	}
	snapshot := shortSnapshot{Snapshot: h.dispatcher.Snapshot(r.Context())}
	if limit, err := strconv.Atoi(query.Get("limit")); err == nil && limit >= 0 {
		snapshot.cut(limit)
	}
	writeJSON(w, http.StatusOK, "application/json", snapshot)
}

// writePage allows only the page's own script and style, which carry a nonce that nobody
// can guess.
func writePage(w http.ResponseWriter) {
	nonce := rand.Text()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", fmt.Sprintf(
		"default-src 'none'; style-src 'nonce-%[1]s'; script-src 'nonce-%[1]s'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", nonce))
	_, _ = io.WriteString(w, strings.ReplaceAll(statusPage, "NONCE", nonce)) // fails only if the client has disconnected
}

func acceptsHTML(accept []string) bool {
	for mediaType := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		if name, _, err := mime.ParseMediaType(mediaType); err == nil && name == "text/html" {
			return true
		}
	}
	return false
}

// shortSnapshot is a snapshot from which some targets may be left out.
type shortSnapshot struct {
	fanout.Snapshot
	Omitted int `json:"omitted"`
}

// cut leaves out all but limit targets. It keeps those with problems first. If no target
// has to be left out, the order of the definitions is kept.
func (s *shortSnapshot) cut(limit int) {
	if len(s.Targets) <= limit {
		return
	}
	slices.SortStableFunc(s.Targets, func(a, b fanout.TargetSnapshot) int { return trouble(&b) - trouble(&a) })
	s.Omitted = len(s.Targets) - limit
	s.Targets = s.Targets[:limit]
}

// trouble returns a higher number the more a target needs attention.
func trouble(t *fanout.TargetSnapshot) int {
	switch {
	case t.Breaker == fanout.BreakerOpen:
		return 3
	case t.Breaker == fanout.BreakerHalfOpen:
		return 2
	case t.Waiting > 0 || t.LastError != "":
		return 1
	}
	return 0
}
