// Bench compares fanout with other ways to send a payload to several targets: code of
// one's own, and other libraries. It measures all contenders in turn, in several rounds,
// and writes the medians as ratios to bench/README.md.
//
//	go run -C bench .
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == serveArgument {
		serve()
		return
	}
	rounds := flag.Int("rounds", 8, "rounds to take the median of")
	slice := flag.Duration("slice", 100*time.Millisecond, "length of one measurement")
	out := flag.String("o", "README.md", "`FILE` to write")
	flag.Parse()
	if err := run(*rounds, *slice, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// park starts n goroutines that wait until the returned function is called. A real
// service has such goroutines, and they matter: the runtime chooses the stack size of new
// goroutines by the average of all.
func park(n int) (release func()) {
	wait := make(chan struct{})
	for range n {
		go func() { <-wait }()
	}
	return func() { close(wait) }
}

func run(rounds int, slice time.Duration, out string) error {
	if _, err := os.Stat(filepath.Dir(out)); err != nil {
		return err
	}
	defer park(1000)()
	servers, err := startServers(counts[len(counts)-1])
	if err != nil {
		return err
	}
	defer servers.stop()
	var tables []table
	for _, wire := range []wire{memory, servers.wire()} {
		for _, n := range counts {
			fmt.Fprintf(os.Stderr, "%s, %d targets\n", wire.name, n)
			t, err := compare(wire, n, rounds, slice)
			if err != nil {
				return err
			}
			tables = append(tables, t)
		}
	}
	return os.WriteFile(out, []byte(page(tables)), 0o644) //nolint:gosec // a page for everyone
}
