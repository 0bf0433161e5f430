package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/fanout-go/fanout/durable"
)

// database holds the flags that say where the queue is.
type database struct {
	address string
	schema  string
}

func (d *database) flags(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVar(&d.address, "db", "", "`database`: an SQLite file or a postgres:// URL (default $FANOUT_DATABASE, which keeps a password out of the list of processes)")
	flags.StringVar(&d.schema, "schema", "", "`schema` of the tables in Postgres (default fanout)")
}

// action is what a command does with an open queue.
type action func(c *cobra.Command, q *durable.Queue, args []string) error

// on opens the queue for an action, and refuses if its tables are missing or old.
func (d *database) on(do action) func(*cobra.Command, []string) error {
	return d.onAny(func(c *cobra.Command, q *durable.Queue, args []string) error {
		switch err := q.Ready(c.Context()); {
		case errors.Is(err, durable.ErrNotMigrated):
			return fmt.Errorf("%w; run fanoutctl migrate", err)
		case err != nil:
			return err
		}
		return do(c, q, args)
	})
}

// onAny opens the queue for an action without checking its tables.
func (d *database) onAny(do action) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		queue, done, err := d.open(c)
		if err != nil {
			return err
		}
		defer done()
		if err := do(c, queue, args); err != nil {
			return fmt.Errorf("%s: %w", c.Name(), err)
		}
		return nil
	}
}

func (d *database) open(c *cobra.Command) (*durable.Queue, func(), error) {
	address := d.address
	if !c.Flags().Changed("db") {
		address = os.Getenv("FANOUT_DATABASE")
	}
	switch {
	case address == "":
		return nil, nil, misused(c.Root(), "no database given")
	case strings.HasPrefix(address, "postgres://"), strings.HasPrefix(address, "postgresql://"):
		return d.openPostgres(c.Context(), address)
	}
	if _, err := os.Stat(address); err != nil {
		return nil, nil, err // do not create a new file
	}
	queue, err := durable.Open(address, durable.Config{Schema: d.schema})
	if err != nil {
		return nil, nil, err
	}
	return queue, func() { _ = queue.Close(c.Context()) }, nil
}

func (d *database) openPostgres(ctx context.Context, url string) (*durable.Queue, func(), error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, nil, err
	}
	queue, err := durable.OpenPostgres(pool, durable.Config{Schema: d.schema})
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	return queue, func() {
		_ = queue.Close(ctx)
		pool.Close()
	}, nil
}
