package fanout_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/fanout-go/fanout"
)

// line is a queue in memory that makes one delivery after the other. It shows what every
// queue must do; fanouttest.TestQueue holds one to all of it.
type line struct {
	worker *fanout.Worker
	work   sync.WaitGroup

	mu      sync.Mutex
	waiting []fanout.Delivery
	running bool
	closed  bool
}

func (l *line) Start(w *fanout.Worker) error {
	l.worker = w
	return nil
}

func (l *line) Submit(ctx context.Context, deliveries []fanout.Delivery) error {
	for i := range deliveries {
		if err := deliveries[i].Check(); err != nil { // it knows no options
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fanout.ErrClosed
	}
	l.waiting = append(l.waiting, deliveries...)
	if !l.running {
		l.running = true
		l.work.Go(func() { l.run(context.WithoutCancel(ctx)) }) // the submitter's values, not its end
	}
	return nil
}

func (l *line) run(ctx context.Context) {
	for {
		d, ok := l.next()
		if !ok {
			return
		}
		results, _ := l.worker.Deliver(ctx, &d, fanout.Round{})
		for _, r := range results {
			l.worker.Done(ctx, r) // each target's result once
		}
	}
}

func (l *line) next() (d fanout.Delivery, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running = len(l.waiting) > 0; !l.running {
		return d, false
	}
	d, l.waiting = l.waiting[0], l.waiting[1:]
	return d, true
}

// Close drains. A real queue stops when ctx ends, and returns an UndeliveredError.
func (l *line) Close(context.Context) error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.work.Wait()
	return nil
}

func ExampleQueue() {
	crm := serve(http.StatusOK)
	defer crm.Close()
	d, _ := fanout.New(fanout.Config{
		Queue:    &line{},
		Targets:  []fanout.Target{{Name: "crm", URL: crm.URL}},
		OnResult: func(_ context.Context, r fanout.Result) { fmt.Println(r.Payload.ID, r.Target, r.Outcome) },
	})
	for _, id := range []string{"order-1", "order-2"} {
		if _, err := d.Submit(context.Background(), fanout.Payload{ID: id, Value: ada}); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(d.Close(context.Background()))
	// Output:
	// order-1 crm delivered
	// order-2 crm delivered
	// <nil>
}
