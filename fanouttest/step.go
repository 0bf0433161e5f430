package fanouttest

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Step answers one request, which has been read and recorded before. A step must return
// when the request's context ends: then the client has disconnected, or the test has
// ended.
type Step func(http.ResponseWriter, *http.Request)

// Status answers with a status and no body.
func Status(code int) Step {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// Statuses returns a [Status] for each code, for example NewTarget(t, Statuses(503, 503,
// 200)...).
func Statuses(codes ...int) []Step {
	steps := make([]Step, len(codes))
	for i, code := range codes {
		steps[i] = Status(code)
	}
	return steps
}

// Reply answers with a status and a body.
func Reply(code int, body string) Step {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// JSON answers with a status and v as JSON. It panics if v cannot be encoded.
func JSON(code int, v any) Step {
	body, err := json.Marshal(v)
	if err != nil {
		panic("fanouttest: " + err.Error())
	}
	return withHeader("Content-Type", "application/json", Reply(code, string(body)))
}

// RetryAfter answers with a status and a Retry-After header. The value is not checked.
func RetryAfter(code int, value string) Step {
	return withHeader("Retry-After", value, Status(code))
}

// Redirect answers with a status and a Location.
func Redirect(code int, location string) Step {
	return withHeader("Location", location, Status(code))
}

func withHeader(name, value string, then Step) Step {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(name, value)
		then(w, r)
	}
}

// Headers answers 200 with n header lines of about 100 bytes each.
func Headers(n int) Step {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := range n {
			w.Header().Set("X-Filler-"+strconv.Itoa(i), strings.Repeat("x", 80))
		}
	}
}

// Delay waits for d before it calls then.
func Delay(d time.Duration, then Step) Step {
	return func(w http.ResponseWriter, r *http.Request) {
		if pause(r, d) {
			then(w, r)
		}
	}
}

// Hang never answers.
func Hang() Step {
	return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
}

// Reset closes the connection with a reset and without an answer.
func Reset() Step {
	return func(w http.ResponseWriter, _ *http.Request) { reset(hijack(w)) }
}

// ResetMidway closes the connection with a reset in the middle of the body of a 200.
func ResetMidway() Step {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn := hijack(w)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
		reset(conn)
	}
}

// Truncate answers 200, but sends less body than it announces, and closes the connection.
func Truncate() Step {
	return withHeader("Content-Length", "1000", Reply(http.StatusOK, "half"))
}

// Garbage answers with something that is not HTTP.
func Garbage() Step {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn := hijack(w)
		defer conn.Close()
		_, _ = io.WriteString(conn, "\x16\x03\x01 is not HTTP\r\n\r\n")
	}
}

// Drip answers 200 and then sends one byte of body per interval, forever.
func Drip(interval time.Duration) Step {
	return func(w http.ResponseWriter, r *http.Request) {
		for pause(r, interval) {
			_, _ = io.WriteString(w, ".")
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// DripHeader sends one byte of header per interval, forever.
func DripHeader(interval time.Duration) Step {
	return func(w http.ResponseWriter, r *http.Request) {
		conn := hijack(w)
		defer conn.Close()
		_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-Slow: ")
		for err == nil && pause(r, interval) {
			_, err = io.WriteString(conn, ".")
		}
	}
}

// Endless answers 200 with a body that never ends.
func Endless() Step {
	return func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, zeros{r}) }
}

// GzipBomb answers 200 with a compressed body. It has size bytes when it is decompressed,
// and about a thousandth of that on the wire.
func GzipBomb(size int64) Step {
	return withHeader("Content-Encoding", "gzip", func(w http.ResponseWriter, r *http.Request) {
		bomb := gzip.NewWriter(w)
		_, _ = io.CopyN(bomb, zeros{r}, size)
		_ = bomb.Close()
	})
}

// zeros returns zero bytes until the request's context ends.
type zeros struct{ r *http.Request }

func (z zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), z.r.Context().Err()
}

// pause waits for d. It reports false if the request's context ended before.
func pause(r *http.Request, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-r.Context().Done():
		return false
	}
}

func hijack(w http.ResponseWriter) net.Conn {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(fmt.Sprintf("fanouttest: %v", err)) // HTTP/1 always allows it
	}
	return conn
}

func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
