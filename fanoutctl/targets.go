package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
)

func statusCommand(d *database) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show for each target what is waiting, what is dead, and whether it is held",
		Args:  exactly(0),
		RunE:  d.on(showStatus),
	}
}

func showStatus(c *cobra.Command, q *durable.Queue, _ []string) error {
	backlog, err := q.Backlog(c.Context())
	if err != nil {
		return err
	}
	slices.SortFunc(backlog, func(a, b fanout.Backlog) int { return strings.Compare(a.Target, b.Target) })
	table := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
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

func holdCommand(d *database) *cobra.Command {
	return &cobra.Command{
		Use:   "hold TARGET",
		Short: "Stop deliveries to a target, and keep what arrives",
		Args:  exactly(1),
		RunE:  d.on(hold),
	}
}

func hold(c *cobra.Command, q *durable.Queue, args []string) error {
	target := args[0]
	if err := q.Hold(c.Context(), target); err != nil {
		return err
	}
	backlog, err := q.Backlog(c.Context())
	if err != nil {
		return err
	}
	for _, b := range backlog {
		if b.Target == target && b.Deliveries+b.DeadLetters > 0 {
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s: held, %d waiting\n", plain(target), b.Deliveries)
			return err
		}
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s: held; nothing is known of a target of this name: is it spelt right?\n", plain(target))
	return err
}

func resumeCommand(d *database) *cobra.Command {
	return &cobra.Command{
		Use:   "resume TARGET",
		Short: "Resume deliveries to a target that is held",
		Args:  exactly(1),
		RunE:  d.on(resume),
	}
}

func resume(c *cobra.Command, q *durable.Queue, args []string) error {
	target := args[0]
	held, err := q.Held(c.Context())
	if err != nil {
		return err
	}
	if !slices.Contains(held, target) {
		return fmt.Errorf("%s is not held", plain(target))
	}
	if err := q.Resume(c.Context(), target); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s: resumed\n", plain(target))
	return err
}
