// Package usage is the command line that all programs of this repository have in common:
// -h prints what there is and ends with status 0; a wrong flag or an argument that is no
// flag is named on standard error, with the usage, and ends with status 2.
package usage

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// errWrong is that the program was called wrongly, and that the user has been told.
var errWrong = errors.New("wrong usage")

// Flags returns a flag set of the program name, to be read by [Parse]. Does is one line
// or several that say what the program does.
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

// Parse sets the flags by args. After an error the program should end, by [Status].
func Parse(flags *flag.FlagSet, args []string) error {
	err := flags.Parse(args) // which has told the user
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

// Status is what the program name ends with, for what it came to. It writes err to
// stderr, unless the user has been told already.
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
