package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/fanout-go/fanout/durable"
)

func migrateCommand(d *database) *cobra.Command {
	var show bool
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Make the tables, or bring them up to date",
		Args:  exactly(0),
	}
	c.Flags().BoolVar(&show, "show", false, "show the SQL for an empty database, and change nothing")
	c.RunE = d.onAny(func(c *cobra.Command, q *durable.Queue, _ []string) error {
		if show {
			_, err := io.WriteString(c.OutOrStdout(), q.Migrations())
			return err
		}
		return q.Migrate(c.Context())
	})
	return c
}
