package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fanout-go/fanout/durable"
)

func deadCommand(d *database) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "dead",
		Short: "List dead letters, the oldest first",
		Args:  exactly(0),
	}
	filter := filterFlags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON, one to a line")
	c.RunE = d.on(func(c *cobra.Command, q *durable.Queue, _ []string) error {
		if asJSON {
			return listAsJSON(c, q, *filter)
		}
		return list(c, q, *filter)
	})
	return c
}

func listAsJSON(c *cobra.Command, q *durable.Queue, filter durable.Filter) error {
	encoder := json.NewEncoder(c.OutOrStdout())
	for dead, err := range q.DeadLetters(c.Context(), filter) {
		if err != nil {
			return err
		}
		if err := encoder.Encode(dead); err != nil {
			return err
		}
	}
	return nil
}

func list(c *cobra.Command, q *durable.Queue, filter durable.Filter) error {
	table := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tDIED\tTARGET\tCLASS\tROUNDS\tDISPATCH\tERROR")
	for dead, err := range q.DeadLetters(c.Context(), filter) {
		if err != nil {
			return err
		}
		_, err := fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%d\t%s\t%s\n", dead.ID, dead.Died.UTC().Format(time.RFC3339),
			plain(dead.Target), dead.Class, dead.Rounds, plain(dead.DispatchID), plain(dead.Error))
		if err != nil {
			return err
		}
	}
	return table.Flush()
}

func inspectCommand(d *database) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "inspect ID",
		Short: "Show a dead letter: its payload, attempts, errors and answers",
		Args:  exactly(1),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	c.RunE = d.on(func(c *cobra.Command, q *durable.Queue, args []string) error {
		id, err := deadLetterID(c, args[0])
		if err != nil {
			return err
		}
		found, err := q.Inspect(c.Context(), id)
		if err != nil {
			return err
		}
		if asJSON {
			encoder := json.NewEncoder(c.OutOrStdout())
			encoder.SetIndent("", "  ")
			return encoder.Encode(show(found))
		}
		return show(found).print(c.OutOrStdout())
	})
	return c
}

func deadLetterID(c *cobra.Command, arg string) (int64, error) {
	id, err := strconv.ParseInt(arg, 10, 64)
	if err != nil {
		return 0, misused(c, "%q is not the ID of a dead letter", arg)
	}
	return id, nil
}

// filterFlags adds the flags that select dead letters to a command.
func filterFlags(c *cobra.Command) *durable.Filter {
	f := &durable.Filter{}
	c.Flags().StringVar(&f.Target, "target", "", "dead letters of the target with this `name`")
	c.Flags().StringVar((*string)(&f.Class), "class", "", "dead letters with this `class` of error, such as 503 or timeout")
	c.Flags().Var((*moment)(&f.Since), "since", "dead letters that died at this `time` or later: 2006-01-02T15:04:05Z, or how long ago, such as 90m")
	c.Flags().Var((*moment)(&f.Until), "until", "dead letters that died before this `time`")
	return f
}

// moment is the value of a flag: a time, or how long ago it was.
type moment time.Time

// Set implements pflag.Value.
func (m *moment) Set(s string) error {
	if ago, err := time.ParseDuration(s); err == nil && ago >= 0 {
		*m = moment(time.Now().Add(-ago))
		return nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return errors.New("neither a time such as 2006-01-02T15:04:05Z nor a duration such as 90m")
	}
	*m = moment(t)
	return nil
}

// String implements pflag.Value. It would print a default, and there is none.
func (m *moment) String() string { return "" }

// Type implements pflag.Value.
func (m *moment) Type() string { return "time" }
