package fanout_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

// line is a queue in memory without a limit, which makes one delivery after the other.
type line struct {
	worker *fanout.Worker
	work   sync.WaitGroup
	cut    context.Context // ends when Close has waited long enough
	hurry  context.CancelFunc

	mu     sync.Mutex
	last   chan struct{} // closed when what was submitted last is done
	closed bool
	left   []fanout.Result
}

func (l *line) Start(w *fanout.Worker) error {
	l.worker, l.last = w, make(chan struct{})
	close(l.last)
	l.cut, l.hurry = context.WithCancel(context.Background())
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
	ctx = context.WithoutCancel(ctx) // the submitter's values, not its end
	for i := range deliveries {
		before, done := l.last, make(chan struct{})
		l.last = done
		l.work.Go(func() {
			defer close(done)
			<-before
			l.deliver(ctx, &deliveries[i])
		})
	}
	return nil
}

func (l *line) deliver(ctx context.Context, d *fanout.Delivery) {
	if l.cut.Err() != nil {
		l.leave(d.Results(fanout.Rejected, fanout.ErrClosed)...)
		return
	}
	bounded, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.cut, cancel)()
	results, _ := l.worker.Deliver(bounded, d, fanout.Round{})
	for _, r := range results { // each is told once: here, or by Close
		if l.cut.Err() != nil && r.Outcome != fanout.Delivered {
			l.leave(r)
		} else {
			l.worker.Done(ctx, r)
		}
	}
}

func (l *line) leave(results ...fanout.Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = append(l.left, results...)
}

// Close drains. When ctx ends, it cuts the rest short and names what is left.
func (l *line) Close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	defer context.AfterFunc(ctx, l.hurry)()
	l.work.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.left) == 0 {
		return nil
	}
	return &fanout.UndeliveredError{Left: l.left, Err: context.Cause(ctx)}
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

// The example keeps the whole contract.
func TestQueue_OfTheExampleKeepsTheContract(t *testing.T) {
	fanouttest.TestQueue(t, func(*testing.T) fanout.Queue { return &line{} })
}
