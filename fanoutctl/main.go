// Command fanoutctl shows a durable queue and repairs what failed. It lists, inspects,
// replays and discards dead letters, and holds and resumes targets. It can be used while
// services deliver from the same database.
//
//	go install . # in this directory of a checkout; there is no release yet
//	export FANOUT_DATABASE=deliveries.db    # or postgres://…
//	fanoutctl status
//
// Its exit code is 2 if the command line is wrong, and 1 if anything else failed.
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

// usageError is the error of a command line that is wrong.
type usageError struct {
	err  error
	help string // the command whose --help is recommended
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

// run runs the command once. Results go to out. Progress, and help that was not asked
// for, go to said.
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
		Short: "Show a durable queue of fanout, and repair what failed",
		Long: `Show a durable queue of fanout, and repair what failed. It can be used while
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

// known refuses an unknown command, and suggests similar ones.
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

// exactly requires this number of arguments.
func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return misused(c, "%s takes %d arguments, and %d are given", c.Name(), n, len(args))
		}
		return nil
	}
}

// version returns the version of the module. In a build from its repository, that is the
// commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
