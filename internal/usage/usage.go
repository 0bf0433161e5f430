// Package usage is the command line of all programs of this repository. With -h a program
// prints its usage and exits with status 0. With a wrong flag or an argument, it prints
// the mistake and the usage on standard error, and exits with status 2.
package usage

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// errWrong says that the command line was wrong, and that the user has been told.
var errWrong = errors.New("wrong usage")

// Flags returns a flag set for the program with this name, to be read by [Parse]. does is
// a text that says what the program does.
func Flags(name, does string, stderr io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		count := 0
		flags.VisitAll(func(*flag.Flag) { count++ })
		if count == 0 {
			fmt.Fprintf(stderr, "usage: %s\n\n%s\n", name, does)
			return
		}
		fmt.Fprintf(stderr, "usage: %s [flags]\n\n%s\n\n", name, does)
		flags.PrintDefaults()
	}
	return flags
}

// Parse sets the flags from args. After an error the program should exit with [Status].
func Parse(flags *flag.FlagSet, args []string) error {
	err := flags.Parse(args) // it prints the error itself
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", errWrong, err)
	case flags.NArg() > 0:
		err := fmt.Errorf("unexpected argument %q", flags.Arg(0))
		fmt.Fprintln(flags.Output(), err)
		flags.Usage()
		return fmt.Errorf("%w: %w", errWrong, err)
	}
	return nil
}

// Status returns the exit status of the program for err. It writes err to stderr, unless
// the user has been told already.
func Status(name string, err error, stderr io.Writer) int {
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errWrong):
		return 2
	}
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	return 1
}
