package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/fanout-go/fanout"
)

// event is one line of a timeline.
type event struct {
	at   time.Time
	who  string
	what string
}

// writeTimeline prints what was sent, in order, and what became of each target.
func writeTimeline(out io.Writer, start time.Time, results fanout.Results) {
	var events []event
	for _, r := range results {
		for _, a := range r.Attempts {
			events = append(events, event{a.Start.Add(a.Duration), sentTo(r, a), answerTo(a)})
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.who, b.who)) })
	for _, e := range events {
		fmt.Fprintf(out, "   %6s  %-14s %s\n", fmt.Sprintf("%d ms", e.at.Sub(start).Milliseconds()), e.who, e.what)
	}
	for _, r := range results.Sorted() {
		fmt.Fprintf(out, "   => %-12s %s\n", r.Target, outcome(r))
	}
	fmt.Fprintln(out)
}

// sentTo returns the name in the request ID, which has the form DISPATCH:NAME.NUMBER. A
// fallback and a compensation have names of their own.
func sentTo(r fanout.Result, a fanout.Attempt) string {
	name := strings.TrimPrefix(a.RequestID, r.Payload.ID+":")
	return name[:strings.LastIndex(name, ".")]
}

func answerTo(a fanout.Attempt) string {
	if a.StatusCode == 0 {
		return "no answer: " + string(fanout.ClassOf(a.Err))
	}
	return fmt.Sprintf("%d %s", a.StatusCode, http.StatusText(a.StatusCode))
}

func outcome(r fanout.Result) string {
	if r.Err() == nil {
		return r.Outcome.String()
	}
	text := strings.TrimPrefix(r.Err().Error(), r.Target+": ")
	if named := strings.ReplaceAll(r.Outcome.String(), "_", " "); strings.HasPrefix(text, named) {
		return text
	}
	return r.Outcome.String() + ": " + text
}
