// Command webhooks sends events to the endpoints of customers. The events are signed as
// the Standard Webhooks specification says. They are kept until they are delivered: in an
// SQLite file, or in Postgres with -postgres URL. The program shows that events survive a
// restart, and how a dead letter is replayed.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/internal/usage"
	"github.com/fanout-go/fanout/webhook"
)

func main() {
	os.Exit(usage.Status("webhooks", start(context.Background(), os.Args[1:]), os.Stderr))
}

func start(ctx context.Context, args []string) error {
	flags := usage.Flags("webhooks", "Sends signed webhooks that survive a restart, and replays those that were given up.", os.Stderr)
	file := flags.String("db", filepath.Join(os.TempDir(), "fanout-webhooks.db"), "keep them in the SQLite file `FILE`")
	postgres := flags.String("postgres", "", "keep them in the Postgres at `URL` (postgres://...) instead of a file")
	if err := usage.Parse(flags, args); err != nil {
		return err
	}
	slog.SetLogLoggerLevel(slog.LevelError + 1) // the program's own output is enough
	open := func() (*durable.Queue, error) { return durable.Open(*file, durable.Config{}) }
	if *postgres != "" {
		pool, err := pgxpool.New(ctx, *postgres)
		if err != nil {
			return err
		}
		defer pool.Close()
		open = func() (*durable.Queue, error) {
			queue, err := durable.OpenPostgres(pool, durable.Config{})
			if err != nil {
				return nil, err
			}
			return queue, queue.Migrate(ctx)
		}
	}
	return run(ctx, open)
}

// event is what customers receive.
type event struct {
	Type  string `json:"type"`
	Order int    `json:"order"`
}

// customers stands for a table in the service's database.
type customers map[string]*endpoint

// lookup finds the endpoint of a customer, now and after every restart. A real service
// would set Guard: fanout.PublicOnly(), because the URLs come from customers. These
// endpoints are on this machine, which the guard would block.
func (c customers) lookup(_ context.Context, name string) (fanout.Target, error) {
	e, ok := c[name]
	if !ok {
		return fanout.Target{}, fanout.ErrTargetGone
	}
	return fanout.Target{URL: e.url, Sign: webhook.Signer(e.secret)}, nil
}

func run(ctx context.Context, open func() (*durable.Queue, error)) error {
	acme, umbrella := newEndpoint(), newEndpoint()
	defer acme.close()
	defer umbrella.close()
	all := customers{"acme": acme, "umbrella": umbrella}

	fmt.Println("acme is slow today, and umbrella answers 410 Gone. Three events for each:")
	acme.slow.Store(true)
	umbrella.refuses.Store(true)
	sender, queue, err := startSender(open, all)
	if err != nil {
		return err
	}
	for order := range 3 {
		id, err := sender.Submit(ctx, event{Type: "order.paid", Order: order}, fanout.To("acme", "umbrella"))
		if err != nil {
			return err
		}
		fmt.Println("  accepted", id)
	}
	if err := until(func() (bool, error) { n, err := countDead(ctx, queue); return n >= 3, err }); err != nil {
		return err
	}

	fmt.Println("The sender is stopped before acme has answered, and started again:")
	now, cancel := context.WithCancel(ctx)
	cancel()
	if err := sender.Close(now); err != nil {
		return err
	}
	fmt.Printf("  acme has %d events\n", acme.count())
	acme.slow.Store(false)
	if sender, queue, err = startSender(open, all); err != nil {
		return err
	}
	defer func() { _ = sender.Close(ctx) }()
	if err := until(func() (bool, error) { return acme.count() >= 3, nil }); err != nil {
		return err
	}
	fmt.Printf("  acme has %d events, each with a signature that it verified\n", acme.count())

	fmt.Println("umbrella's are dead letters. It is mended, and they are replayed:")
	for dead, err := range queue.DeadLetters(ctx, durable.Filter{Target: "umbrella"}) {
		if err != nil {
			return err
		}
		fmt.Printf("  %s: %s\n", dead.DispatchID, dead.Error)
	}
	umbrella.refuses.Store(false)
	replayed, err := queue.ReplayAll(ctx, durable.Filter{Target: "umbrella"}, durable.Bulk{})
	if err != nil {
		return err
	}
	if err := until(func() (bool, error) { return umbrella.count() >= replayed, nil }); err != nil {
		return err
	}
	fmt.Printf("  umbrella has %d events\n", umbrella.count())
	return nil
}

// startSender does what the service does when it starts.
func startSender(open func() (*durable.Queue, error), all customers) (*fanout.Dispatcher, *durable.Queue, error) {
	queue, err := open()
	if err != nil {
		return nil, nil, err
	}
	sender, err := fanout.New(fanout.Config{Queue: queue, Lookup: all.lookup})
	return sender, queue, err
}

func countDead(ctx context.Context, queue *durable.Queue) (n int, err error) {
	for _, err := range queue.DeadLetters(ctx, durable.Filter{Target: "umbrella"}) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func until(done func() (bool, error)) error {
	for range 1000 {
		if ok, err := done(); ok || err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("that took too long")
}
