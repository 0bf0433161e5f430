// Command fanoutctl looks into a durable queue and mends what failed: dead letters
// are listed, inspected, replayed and discarded, and targets held and resumed. It
// may be used while services deliver from the same database.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fanout-go/fanout/durable"
)

const usage = `Usage: fanoutctl -db DATABASE COMMAND [FLAGS] [ARGUMENTS]

DATABASE is an SQLite file or a postgres:// URL; FANOUT_DATABASE by default, which
keeps a password out of the list of processes.

Commands:
  status                 what waits for each target, what is dead, what is held
  dead     [FILTER]      list dead letters
  inspect  ID            show one: payload, attempts, errors and answers
  replay   ID... | FILTER or -all    deliver again, with the same idempotency keys
  discard  ID... | FILTER or -all    remove for good
  hold     TARGET        stop deliveries to a target, keep what arrives
  resume   TARGET        go on with them
  migrate  [-show]       make or update the tables, or show the SQL

FILTER:
  -target NAME  -class CLASS (such as 503 or timeout)  -since T  -until T
  T is a time as 2006-01-02T15:04:05Z, or how long ago, such as 90m
Bulk replay and discard: -rate N a second, 50 by default; negative is as fast as can be.
dead and inspect: -json.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr, bars()); err != nil {
		fmt.Fprintln(os.Stderr, "fanoutctl:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be done
	}
}

// bars shows progress to people alone.
func bars() io.Writer {
	if info, err := os.Stderr.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return io.Discard
	}
	return os.Stderr
}

// errUsage is that the command line cannot be understood.
var errUsage = errors.New("see fanoutctl -h")

func run(ctx context.Context, args []string, out, said, bars io.Writer) error {
	flags := flag.NewFlagSet("fanoutctl", flag.ContinueOnError)
	flags.SetOutput(said)
	flags.Usage = func() { fmt.Fprint(said, usage) }
	database := flags.String("db", os.Getenv("FANOUT_DATABASE"), "")
	schema := flags.String("schema", "", "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return errUsage
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return errUsage
	}
	command, known := commands[flags.Arg(0)]
	if !known {
		return fmt.Errorf("no command %q: %w", flags.Arg(0), errUsage)
	}
	if rest := flags.Args()[1:]; len(rest) > 0 && (rest[0] == "-h" || rest[0] == "-help" || rest[0] == "--help") {
		flags.Usage()
		return nil
	}
	queue, done, err := open(ctx, *database, *schema)
	if err != nil {
		return err
	}
	defer done()
	if flags.Arg(0) != "migrate" {
		switch err := queue.Ready(ctx); {
		case errors.Is(err, durable.ErrNotMigrated):
			return fmt.Errorf("%w; fanoutctl migrate does it", err)
		case err != nil:
			return err
		}
	}
	c := &call{queue: queue, out: out, bars: bars, flags: flag.NewFlagSet(flags.Arg(0), flag.ContinueOnError)}
	c.flags.SetOutput(io.Discard)
	if err := command(ctx, c, flags.Args()[1:]); err != nil {
		return fmt.Errorf("%s: %w", flags.Arg(0), err)
	}
	return nil
}

func open(ctx context.Context, database, schema string) (*durable.Queue, func(), error) {
	switch {
	case database == "":
		return nil, nil, fmt.Errorf("no database given: %w", errUsage)
	case strings.HasPrefix(database, "postgres://"), strings.HasPrefix(database, "postgresql://"):
		return openPostgres(ctx, database, schema)
	}
	if _, err := os.Stat(database); err != nil {
		return nil, nil, err // and make no new one
	}
	queue, err := durable.Open(database, durable.Config{})
	if err != nil {
		return nil, nil, err
	}
	return queue, func() { _ = queue.Close(ctx) }, nil
}

func openPostgres(ctx context.Context, url, schema string) (*durable.Queue, func(), error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, nil, err
	}
	queue, err := durable.OpenPostgres(pool, durable.Config{Schema: schema})
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	return queue, func() {
		_ = queue.Close(ctx)
		pool.Close()
	}, nil
}
