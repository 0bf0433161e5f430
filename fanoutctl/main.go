// Command fanoutctl looks into a durable queue and mends what failed: it lists, inspects,
// replays and discards dead letters, and holds and resumes targets. It may be used while
// services deliver from the same database.
//
//	go install github.com/fanout-go/fanout/fanoutctl@latest
//	export FANOUT_DATABASE=deliveries.db    # or postgres://…
//	fanoutctl status
//
// It exits with 2 if the command line is wrong, and with 1 if anything else failed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fanoutctl:", err)
	}
	os.Exit(status(err))
}

// usageError is a command line that cannot be understood.
type usageError struct {
	err  error
	help string // the command whose help tells more
}

func (e *usageError) Error() string { return fmt.Sprintf("%v; see %s --help", e.err, e.help) }
func (e *usageError) Unwrap() error { return e.err }

func misused(c *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), c.CommandPath()}
}

func status(err error) int {
	if err == nil {
		return 0
	}
	if _, misused := errors.AsType[*usageError](err); misused {
		return 2
	}
	return 1
}

// run is one call of the command. Answers go to out; help that nobody asked for, and
// progress, to said.
func run(ctx context.Context, args []string, out, said io.Writer) error {
	root := command()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(said)
	return root.ExecuteContext(ctx)
}

func command() *cobra.Command {
	d := &database{}
	root := &cobra.Command{
		Use:   "fanoutctl",
		Short: "Look into a durable queue of fanout, and mend what failed",
		Long: `Look into a durable queue of fanout, and mend what failed. It may be used while
services deliver from the same database.`,
		Version:       version(),
		SilenceErrors: true, // main prints them
		SilenceUsage:  true,
		Args:          known,
		RunE: func(c *cobra.Command, _ []string) error {
			return errors.Join(c.Usage(), misused(c, "no command is given"))
		},
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return misused(c, "%w", err) })
	d.flags(root)
	root.AddCommand(
		statusCommand(d), holdCommand(d), resumeCommand(d),
		deadCommand(d), inspectCommand(d), replayCommand(d), discardCommand(d),
		migrateCommand(d),
	)
	return root
}

// known tells a command that there is not, and what may have been meant.
func known(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	meant := ""
	if similar := c.SuggestionsFor(args[0]); len(similar) > 0 {
		meant = ", is it " + strings.Join(similar, " or ") + "?"
	}
	return misused(c, "no command %q%s", args[0], meant)
}

// exactly is for a command that takes so many arguments.
func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return misused(c, "%s takes %d arguments, and %d are given", c.Name(), n, len(args))
		}
		return nil
	}
}

// version is the module's, or of a build from its repository the commit's.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
