package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
)

// inspection is a dead letter as it is printed, as text or as JSON.
type inspection struct {
	*durable.Inspection
	ContentType string              `json:"content_type,omitempty"`
	Header      map[string][]string `json:"header,omitempty"`
	content
	PayloadKey string  `json:"payload_key"` // the key from which each target's idempotency key is made
	Rounds     []round `json:"history"`
}

// content is a body: as text if it is UTF-8, otherwise as bytes.
type content struct {
	Text  string `json:"body,omitempty"`
	Bytes []byte `json:"body_base64,omitempty"`
}

func contentOf(body []byte) content {
	if utf8.Valid(body) {
		return content{Text: string(body)}
	}
	return content{Bytes: body}
}

type round struct {
	Target         string         `json:"target"`
	IdempotencyKey string         `json:"idempotency_key,omitempty"`
	Outcome        fanout.Outcome `json:"outcome"`
	Error          string         `json:"error,omitempty"`
	Status         int            `json:"status,omitempty"`
	Answer         *content       `json:"answer,omitempty"`
	Attempts       []attempt      `json:"attempts"`
}

type attempt struct {
	Start     time.Time `json:"start"`
	Duration  string    `json:"duration"`
	RequestID string    `json:"request_id"`
	Status    int       `json:"status,omitempty"`
	Error     string    `json:"error,omitempty"`
}

func show(one *durable.Inspection) *inspection {
	p := one.Payload
	s := &inspection{Inspection: one, ContentType: p.ContentType, Header: p.Header, content: contentOf(p.Body), PayloadKey: p.Key}
	for _, r := range one.History {
		shown := round{Target: r.Target, IdempotencyKey: r.Key, Outcome: r.Outcome, Error: text(r.Err())}
		if r.Response != nil {
			answer := contentOf(r.Response.Body)
			shown.Status, shown.Answer = r.Response.StatusCode, &answer
		}
		for _, a := range r.Attempts {
			shown.Attempts = append(shown.Attempts, attempt{a.Start, a.Duration.Round(time.Microsecond).String(), a.RequestID, a.StatusCode, text(a.Err)})
		}
		s.Rounds = append(s.Rounds, shown)
	}
	return s
}

func (s *inspection) print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, line := range [][2]string{
		{"dead letter", strconv.FormatInt(s.ID, 10)}, {"target", s.Target}, {"dispatch", s.DispatchID}, {"correlation", s.CorrelationID},
		{"submitted", s.Submitted.UTC().Format(time.RFC3339)}, {"died", s.Died.UTC().Format(time.RFC3339)},
		{"error", s.Error}, {"payload key", s.PayloadKey}, {"content type", s.ContentType}, {"payload", s.Text + string(s.Bytes)},
	} {
		fmt.Fprintf(table, "%s\t%s\n", line[0], plain(line[1]))
	}
	for _, r := range s.Rounds {
		r.print(table)
	}
	return table.Flush()
}

func (r *round) print(table io.Writer) {
	fmt.Fprintf(table, "\n%s\t%s\n", plain(r.Target), plain(r.Outcome.String()+": "+r.Error))
	for _, a := range r.Attempts {
		fmt.Fprintf(table, "  attempt\t%s  %s  %s  %s\n", a.Start.UTC().Format(time.RFC3339Nano), a.Duration, plain(a.RequestID), plain(a.Error))
	}
	if r.IdempotencyKey != "" {
		fmt.Fprintf(table, "  key\t%s\n", plain(r.IdempotencyKey))
	}
	if a := r.Answer; a != nil {
		fmt.Fprintf(table, "  answer\t%d %s\n", r.Status, plain(a.Text+string(a.Bytes)))
	}
}

// plain quotes control characters. The text comes from other people, and must not be able
// to control the terminal.
func plain(s string) string {
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
