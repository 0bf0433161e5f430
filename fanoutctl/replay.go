package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/fanout-go/fanout/durable"
)

// operation is what a command does to dead letters: to single ones, or to all that a
// filter selects.
type operation struct {
	doing string
	one   func(*durable.Queue, context.Context, int64) error
	all   func(*durable.Queue, context.Context, durable.Filter, durable.Bulk) (int, error)
}

func replayCommand(d *database) *cobra.Command {
	return bulkCommand(d, operation{"replaying", (*durable.Queue).Replay, (*durable.Queue).ReplayAll}, &cobra.Command{
		Use:   "replay ID... | FILTER | --all",
		Short: "Deliver dead letters again, with the same idempotency keys",
		Example: `  fanoutctl replay 17 18
  fanoutctl replay --target crm --since 2h --rate 20`,
	})
}

func discardCommand(d *database) *cobra.Command {
	return bulkCommand(d, operation{"discarding", (*durable.Queue).Discard, (*durable.Queue).DiscardAll}, &cobra.Command{
		Use:     "discard ID... | FILTER | --all",
		Short:   "Remove dead letters for good",
		Example: `  fanoutctl discard --target gone`,
	})
}

func bulkCommand(d *database, op operation, c *cobra.Command) *cobra.Command {
	var all bool
	var rate float64
	c.DisableFlagsInUseLine = true
	filter := filterFlags(c)
	c.Flags().BoolVar(&all, "all", false, "all dead letters")
	c.Flags().Float64Var(&rate, "rate", 50, "how many per second with a filter or --all, a `number`; negative means no limit")
	c.Args = func(c *cobra.Command, args []string) error {
		if bulk := all || *filter != (durable.Filter{}); bulk == (len(args) > 0) {
			return misused(c, "give either IDs, or a filter or --all")
		}
		for _, arg := range args {
			if _, err := deadLetterID(c, arg); err != nil {
				return err
			}
		}
		return nil
	}
	c.RunE = d.on(func(c *cobra.Command, q *durable.Queue, args []string) error {
		var n int
		var err error
		if len(args) > 0 {
			n, err = op.each(c, q, args)
		} else {
			n, err = op.all(q, c.Context(), *filter, durable.Bulk{PerSecond: rate, Progress: progress(op.doing, c.ErrOrStderr())})
		}
		_, said := fmt.Fprintf(c.OutOrStdout(), "%s: %d done\n", op.doing, n)
		return errors.Join(err, said)
	})
	return c
}

// each processes the dead letters one by one. If one fails, it continues with the others.
func (op operation) each(c *cobra.Command, q *durable.Queue, args []string) (done int, err error) {
	var errs []error
	for _, arg := range args {
		id, err := deadLetterID(c, arg)
		if err == nil {
			err = op.one(q, c.Context(), id)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		done++
	}
	return done, errors.Join(errs...)
}

// progress returns a function that shows a progress bar. It returns nil if the output is
// no terminal.
func progress(doing string, to io.Writer) func(done, total int) {
	if file, ok := to.(*os.File); ok {
		if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
			return nil
		}
	}
	var bar *progressbar.ProgressBar
	return func(done, total int) {
		if bar == nil {
			bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(to), progressbar.OptionSetDescription(doing),
				progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetWidth(30), progressbar.OptionOnCompletion(func() { fmt.Fprintln(to) }))
		}
		_ = bar.Set(done)
	}
}
