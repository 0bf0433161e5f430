package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/schollz/progressbar/v3"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
)

// call is one command and what it needs.
type call struct {
	queue     *durable.Queue
	out, bars io.Writer
	flags     *flag.FlagSet
}

var commands = map[string]func(context.Context, *call, []string) error{
	"status":  status,
	"dead":    dead,
	"inspect": inspect,
	"replay":  func(ctx context.Context, c *call, args []string) error { return c.each(ctx, args, replaying) },
	"discard": func(ctx context.Context, c *call, args []string) error { return c.each(ctx, args, discarding) },
	"hold":    hold,
	"resume":  resume,
	"migrate": migrate,
}

func status(ctx context.Context, c *call, args []string) error {
	if err := c.parse(args, 0); err != nil {
		return err
	}
	backlog, err := c.queue.Backlog(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(backlog, func(a, b fanout.Backlog) int { return strings.Compare(a.Target, b.Target) })
	table := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TARGET\tWAITING\tOLDEST\tDEAD\tHELD")
	for _, b := range backlog {
		oldest, held := "-", "-"
		if b.Deliveries > 0 {
			oldest = time.Since(b.Oldest).Round(time.Second).String()
		}
		if b.Held {
			held = "held"
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%d\t%s\n", plain(b.Target), b.Deliveries, oldest, b.DeadLetters, held)
	}
	return table.Flush()
}

func dead(ctx context.Context, c *call, args []string) error {
	filter := c.filter()
	asJSON := c.flags.Bool("json", false, "")
	if err := c.parse(args, 0); err != nil {
		return err
	}
	table := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	if !*asJSON {
		fmt.Fprintln(table, "ID\tDIED\tTARGET\tCLASS\tROUNDS\tDISPATCH\tERROR")
	}
	for d, err := range c.queue.DeadLetters(ctx, filter.Filter) {
		if err != nil {
			return err
		}
		if *asJSON {
			err = json.NewEncoder(c.out).Encode(d)
		} else {
			_, err = fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%d\t%s\t%s\n", d.ID, d.Died.UTC().Format(time.RFC3339), plain(d.Target), d.Class, d.Rounds, plain(d.DispatchID), plain(d.Error))
		}
		if err != nil {
			return err
		}
	}
	return table.Flush()
}

// shown is an inspection as JSON.
type shown struct {
	*durable.Inspection
	ContentType string              `json:"content_type,omitempty"`
	Header      map[string][]string `json:"header,omitempty"`
	shownBody
	PayloadKey string       `json:"payload_key"` // of which targets' keys are made
	Rounds     []shownRound `json:"history"`
}

// shownBody is text if it can be.
type shownBody struct {
	Text  string `json:"body,omitempty"`
	Bytes []byte `json:"body_base64,omitempty"`
}

func showBody(body []byte) shownBody {
	if utf8.Valid(body) {
		return shownBody{Text: string(body)}
	}
	return shownBody{Bytes: body}
}

type shownRound struct {
	Target         string         `json:"target"`
	IdempotencyKey string         `json:"idempotency_key,omitempty"`
	Outcome        fanout.Outcome `json:"outcome"`
	Error          string         `json:"error,omitempty"`
	Status         int            `json:"status,omitempty"`
	Answer         *shownBody     `json:"answer,omitempty"`
	Attempts       []shownAttempt `json:"attempts"`
}

type shownAttempt struct {
	Start     time.Time `json:"start"`
	Duration  string    `json:"duration"`
	RequestID string    `json:"request_id"`
	Status    int       `json:"status,omitempty"`
	Error     string    `json:"error,omitempty"`
}

func inspect(ctx context.Context, c *call, args []string) error {
	asJSON := c.flags.Bool("json", false, "")
	if err := c.parse(args, 1); err != nil {
		return err
	}
	ids, err := numbers(c.flags.Args())
	if err != nil {
		return err
	}
	found, err := c.queue.Inspect(ctx, ids[0])
	if err != nil {
		return err
	}
	s := show(found)
	if *asJSON {
		encoder := json.NewEncoder(c.out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(s)
	}
	return s.print(c.out)
}

func show(one *durable.Inspection) *shown {
	p := one.Payload
	s := &shown{Inspection: one, ContentType: p.ContentType, Header: p.Header, shownBody: showBody(p.Body), PayloadKey: p.IdempotencyKey}
	for _, r := range one.History {
		round := shownRound{Target: r.Target, IdempotencyKey: r.IdempotencyKey, Outcome: r.Outcome, Error: text(r.Err)}
		if r.Response != nil {
			answer := showBody(r.Response.Body)
			round.Status, round.Answer = r.Response.StatusCode, &answer
		}
		for _, a := range r.Attempts {
			round.Attempts = append(round.Attempts, shownAttempt{a.Start, a.Duration.Round(time.Microsecond).String(), a.RequestID, a.StatusCode, text(a.Err)})
		}
		s.Rounds = append(s.Rounds, round)
	}
	return s
}

func (s *shown) print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, line := range [][2]string{
		{"dead letter", strconv.FormatInt(s.ID, 10)}, {"target", s.Target}, {"dispatch", s.DispatchID}, {"correlation", s.CorrelationID},
		{"submitted", s.Submitted.UTC().Format(time.RFC3339)}, {"died", s.Died.UTC().Format(time.RFC3339)},
		{"error", s.Error}, {"payload key", s.PayloadKey}, {"content type", s.ContentType}, {"payload", s.Text + string(s.Bytes)},
	} {
		fmt.Fprintf(table, "%s\t%s\n", line[0], plain(line[1]))
	}
	for _, round := range s.Rounds {
		fmt.Fprintf(table, "\n%s\t%s\n", plain(round.Target), plain(round.Outcome.String()+": "+round.Error))
		for _, a := range round.Attempts {
			fmt.Fprintf(table, "  attempt\t%s  %s  %s  %s\n", a.Start.UTC().Format(time.RFC3339Nano), a.Duration, plain(a.RequestID), plain(a.Error))
		}
		if round.IdempotencyKey != "" {
			fmt.Fprintf(table, "  key\t%s\n", plain(round.IdempotencyKey))
		}
		if a := round.Answer; a != nil {
			fmt.Fprintf(table, "  answer\t%d %s\n", round.Status, plain(a.Text+string(a.Bytes)))
		}
	}
	return table.Flush()
}

// deed is what is done to dead letters, one by one or in bulk.
type deed struct {
	doing string
	one   func(*durable.Queue, context.Context, int64) error
	all   func(*durable.Queue, context.Context, durable.Filter, durable.Bulk) (int, error)
}

var (
	replaying  = deed{"replaying", (*durable.Queue).Replay, (*durable.Queue).ReplayAll}
	discarding = deed{"discarding", (*durable.Queue).Discard, (*durable.Queue).DiscardAll}
)

func (c *call) each(ctx context.Context, args []string, d deed) error {
	filter := c.filter()
	all := c.flags.Bool("all", false, "")
	perSecond := c.flags.Float64("rate", 0, "")
	if err := c.parse(args, -1); err != nil {
		return err
	}
	ids, err := numbers(c.flags.Args())
	bulk := *all || filter.Filter != (durable.Filter{})
	switch {
	case err != nil:
		return err
	case bulk == (len(ids) > 0):
		return fmt.Errorf("give either IDs, or a filter or -all: %w", errUsage)
	case !bulk:
		return c.eachOf(ctx, ids, d)
	}
	var bar *progressbar.ProgressBar
	n, err := d.all(c.queue, ctx, filter.Filter, durable.Bulk{PerSecond: *perSecond, Progress: func(done, total int) {
		if bar == nil {
			bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(c.bars), progressbar.OptionSetDescription(d.doing),
				progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetWidth(30), progressbar.OptionOnCompletion(func() { fmt.Fprintln(c.bars) }))
		}
		_ = bar.Set(done)
	}})
	return errors.Join(err, c.done(d, n))
}

// eachOf goes on with the others if one cannot be done.
func (c *call) eachOf(ctx context.Context, ids []int64, d deed) error {
	var errs []error
	for _, id := range ids {
		if err := d.one(c.queue, ctx, id); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, c.done(d, len(ids)-len(errs)))...)
}

func (c *call) done(d deed, n int) error {
	_, err := fmt.Fprintf(c.out, "%s: %d done\n", d.doing, n)
	return err
}

func hold(ctx context.Context, c *call, args []string) error {
	if err := c.parse(args, 1); err != nil {
		return err
	}
	target := c.flags.Arg(0)
	if err := c.queue.Hold(ctx, target); err != nil {
		return err
	}
	backlog, err := c.queue.Backlog(ctx)
	if err != nil {
		return err
	}
	for _, b := range backlog {
		if b.Target == target && b.Deliveries+b.DeadLetters > 0 {
			_, err := fmt.Fprintf(c.out, "%s: held, %d waiting\n", plain(target), b.Deliveries)
			return err
		}
	}
	_, err = fmt.Fprintf(c.out, "%s: held; nothing is known of a target of this name: is it spelt right?\n", plain(target))
	return err
}

func resume(ctx context.Context, c *call, args []string) error {
	if err := c.parse(args, 1); err != nil {
		return err
	}
	target := c.flags.Arg(0)
	held, err := c.queue.Held(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(held, target) {
		return fmt.Errorf("%s is not held", plain(target))
	}
	if err := c.queue.Resume(ctx, target); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "%s: resumed\n", plain(target))
	return err
}

func migrate(ctx context.Context, c *call, args []string) error {
	onlyShow := c.flags.Bool("show", false, "")
	if err := c.parse(args, 0); err != nil {
		return err
	}
	if *onlyShow {
		_, err := io.WriteString(c.out, c.queue.Migrations())
		return err
	}
	return c.queue.Migrate(ctx)
}

// parse takes flags before and after arguments; want is how many arguments there
// must be, -1 any number.
func (c *call) parse(args []string, want int) error {
	var rest []string
	for {
		if err := c.flags.Parse(args); err != nil {
			return fmt.Errorf("%w: %w", err, errUsage)
		}
		if c.flags.NArg() == 0 {
			break
		}
		rest = append(rest, c.flags.Arg(0))
		args = c.flags.Args()[1:]
	}
	if want >= 0 && len(rest) != want {
		return fmt.Errorf("takes %d arguments, and %d are given: %w", want, len(rest), errUsage)
	}
	return c.flags.Parse(append([]string{"--"}, rest...))
}

// filterFlags are a filter that is being given.
type filterFlags struct{ durable.Filter }

func (c *call) filter() *filterFlags {
	f := &filterFlags{}
	c.flags.StringVar(&f.Target, "target", "", "")
	c.flags.StringVar(&f.Class, "class", "", "")
	c.flags.Func("since", "", func(s string) (err error) { f.Since, err = moment(s); return err })
	c.flags.Func("until", "", func(s string) (err error) { f.Until, err = moment(s); return err })
	return f
}

func moment(s string) (time.Time, error) {
	if ago, err := time.ParseDuration(s); err == nil && ago >= 0 {
		return time.Now().Add(-ago), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, errors.New("neither a time as 2006-01-02T15:04:05Z nor a duration as 90m")
	}
	return t, nil
}

func numbers(args []string) ([]int64, error) {
	var ids []int64
	for _, arg := range args {
		id, err := strconv.ParseInt(arg, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is not the ID of a dead letter: %w", arg, errUsage)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// plain keeps what strangers wrote from steering a terminal.
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
