package fanouttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fanout-go/fanout"
)

// TestQueue checks that a [fanout.Queue] fulfils its contract. newQueue must return a
// new, empty queue with room for a hundred dispatches. A queue that hangs is given up after
// 40 s.
//
// It cannot see whether a queue that keeps deliveries elsewhere makes them later, so it
// believes a Close without an error. It also allows a queue to lose the values of a
// submitter's context, as one on disk must.
func TestQueue(t *testing.T, newQueue func(*testing.T) fanout.Queue) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(*testing.T, fanout.Queue)
	}{
		{"every accepted delivery is made and reported once", everyDeliveryOnce},
		{"what is submitted arrives unchanged", arrivesUnchanged},
		{"an option that it does not know is refused", refusesOptions},
		{"a saga keeps its order and is undone", sagas},
		{"failures are reported as dead letters", deadLetters},
		{"the submitter's context may end", outlivesItsContext},
		{"no delivery gets another submitter's values", ownValues},
		{"close drains, then refuses", closeDrains},
		{"close returns when its context ends", closeIsBounded},
		{"each delivery is named, kept or reported once", nothingIsLost},
		{"a closed queue refuses deliveries", refusesWhenClosed},
		{"close may be called from several goroutines", closeTogether},
	} {
		began := time.Now()
		if !t.Run(test.name, func(t *testing.T) { test.run(t, newQueue(t)) }) && time.Since(began) >= patience {
			t.Fatal("a queue that hangs fails all: further tests are left out")
		}
	}
}

// Deliveries and calls of the queue may take as long as patience; a Close may take grace
// more to return.
const (
	patience = 30 * time.Second
	grace    = 10 * time.Second
)

// open makes a dispatcher with the queue. It is closed at the end of the test.
func open(t *testing.T, q fanout.Queue, config fanout.Config) *fanout.Dispatcher {
	t.Helper()
	config.Queue = q
	d, err := fanout.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() { // otherwise it may hang
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_ = closed(t, ctx, d)
		}
	})
	return d
}

// closed closes a dispatcher. If its queue hangs, it gives up and fails the test.
func closed(t *testing.T, ctx context.Context, d *fanout.Dispatcher) error { //nolint:revive // t comes first here
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- d.Close(ctx) }()
	return errorOf(t, ended)
}

// errorOf returns the error of a Close that runs on another goroutine.
func errorOf(t *testing.T, ended chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(patience + grace):
		t.Fatalf("Close has not returned %v after its context ended", grace)
		return nil
	}
}

func submit(t *testing.T, d *fanout.Dispatcher, payload any) string {
	t.Helper()
	type answer struct {
		id  string
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		id, err := d.Submit(context.Background(), payload)
		answered <- answer{id, err}
	}()
	select {
	case a := <-answered:
		if a.err != nil {
			t.Fatalf("Submit: %v", a.err)
		}
		return a.id
	case <-time.After(patience):
		t.Fatalf("Submit has not returned after %v: a queue accepts, and delivers later", patience)
		return ""
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func everyDeliveryOnce(t *testing.T, q fanout.Queue) {
	t.Helper()
	var mu sync.Mutex
	done := map[string]int{}
	var results Results
	first, second := NewSender(), NewSender()
	d := open(t, q, fanout.Config{
		Targets: []fanout.Target{first.Target("first"), second.Target("second")},
		OnResult: func(ctx context.Context, r fanout.Result) {
			results.OnResult(ctx, r)
			mu.Lock()
			defer mu.Unlock()
			done[r.Payload.ID+" "+r.Target]++
		},
	})
	var ids, want []string
	for i := range 50 {
		id := submit(t, d, i)
		ids, want = append(ids, id), append(want, id+" first", id+" second")
	}
	for _, id := range ids {
		if _, err := results.Wait(within(t), id, "first", "second"); err != nil {
			t.Fatal(err)
		}
	}
	if err := closed(t, within(t), d); err != nil {
		t.Fatal(err)
	}
	for _, delivery := range want {
		if done[delivery] != 1 {
			t.Errorf("%s reported %d times", delivery, done[delivery])
		}
	}
	if first.Count() != 50 || second.Count() != 50 {
		t.Errorf("%d and %d deliveries made of 50", first.Count(), second.Count())
	}
}

func arrivesUnchanged(t *testing.T, q fanout.Queue) {
	t.Helper()
	sender := NewSender()
	var results Results
	d := open(t, q, fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}, OnResult: results.OnResult})
	id := submit(t, d, fanout.Payload{
		Body: []byte("\x00raw\xff"), ContentType: "application/octet-stream", Header: map[string][]string{"X-Tenant": {"acme"}},
		Key: "order-7", CorrelationID: "visit-7",
	})
	got, err := results.Wait(within(t), id)
	if err != nil {
		t.Fatal(err)
	}
	r := sender.Requests()[0]
	seen := fmt.Sprintf("%q %s %v %s %s %s", r.Body, r.ContentType, r.Header, r.Key, r.Payload.CorrelationID, r.Payload.ID)
	want := fmt.Sprintf("%q application/octet-stream map[X-Tenant:[acme]] order-7:ledger visit-7 %s", "\x00raw\xff", id)
	if seen != want {
		t.Errorf("got  %s\nwant %s", seen, want)
	}
	if got["ledger"].Outcome != fanout.Delivered {
		t.Error(got["ledger"].Err())
	}
}

func refusesOptions(t *testing.T, q fanout.Queue) {
	t.Helper()
	d := open(t, q, fanout.Config{Targets: []fanout.Target{NewSender().Target("ledger")}})
	unknown := fanout.QueueOption{Name: "NobodyKnowsThis", Value: 1}
	if _, err := d.Submit(context.Background(), "entry", fanout.ForQueue(unknown)); !errors.Is(err, fanout.ErrInvalid) {
		t.Errorf("Submit with an option that no queue knows returned %v, and not an error that wraps ErrInvalid", err)
	}
}

func deadLetters(t *testing.T, q fanout.Queue) {
	t.Helper()
	refused := errors.New("no such account")
	dead := make(chan fanout.Result, 1)
	d := open(t, q, fanout.Config{
		Targets:      []fanout.Target{NewSender(fanout.Permanent(refused)).Target("ledger")},
		OnDeadLetter: func(_ context.Context, r fanout.Result) { dead <- r },
	})
	submit(t, d, "entry")
	select {
	case r := <-dead:
		if r.Outcome != fanout.Failed || r.Err() == nil {
			t.Errorf("%v: %v", r.Outcome, r.Err())
		}
	case <-within(t).Done():
		t.Error("no dead letter")
	}
}

func sagas(t *testing.T, q fanout.Queue) {
	var mu sync.Mutex
	var calls []string
	step := func(name string, err error) fanout.Sender {
		return fanout.SenderFunc(func(context.Context, *fanout.Request) (*fanout.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, name)
			return nil, err
		})
	}
	var results Results
	d := open(t, q, fanout.Config{OnResult: results.OnResult, Targets: []fanout.Target{
		{Name: "ship", Sender: step("ship", fanout.Permanent(errors.New("no"))), After: []string{"pay"}},
		{Name: "pay", Sender: step("pay", nil), Compensate: &fanout.Target{Sender: step("refund", nil)}},
	}})
	got, err := results.Wait(within(t), submit(t, d, "entry"), "ship", "pay")
	if err != nil || got["ship"].Outcome != fanout.Failed || got["pay"].Outcome != fanout.Compensated {
		t.Error(got["ship"].Outcome, got["pay"].Outcome, err)
	}
	if want := []string{"pay", "ship", "refund"}; !slices.Equal(calls, want) {
		t.Errorf("called %v, want %v", calls, want)
	}
}

func outlivesItsContext(t *testing.T, q fanout.Queue) {
	t.Helper()
	var results Results
	d := open(t, q, fanout.Config{Targets: []fanout.Target{NewSender().Target("ledger")}, OnResult: results.OnResult})
	ctx, cancel := context.WithCancel(context.Background())
	id, err := d.Submit(ctx, "entry")
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	got, err := results.Wait(within(t), id)
	if err != nil || got["ledger"].Outcome != fanout.Delivered {
		t.Error(got["ledger"].Outcome, got["ledger"].Err(), err)
	}
}

type visit struct{}

// ownValues checks that the context values of one delivery do not get into another one. A
// queue that stores deliveries outside of memory may lose the values.
func ownValues(t *testing.T, q fanout.Queue) {
	t.Helper()
	var results Results
	ledger := fanout.SenderFunc(func(ctx context.Context, r *fanout.Request) (*fanout.Response, error) {
		if got := ctx.Value(visit{}); got != nil && got != r.Payload.Key {
			t.Errorf("%s was delivered with the values of %v", r.Payload.Key, got)
		}
		return nil, nil
	})
	d := open(t, q, fanout.Config{Targets: []fanout.Target{{Name: "ledger", Sender: ledger}}, OnResult: results.OnResult})
	var ids []string
	for _, key := range []string{"visit-1", "visit-2", "visit-3"} {
		id, err := d.Submit(context.WithValue(context.Background(), visit{}, key), fanout.Payload{Key: key, Value: "entry"})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for _, id := range ids {
		if _, err := results.Wait(within(t), id); err != nil {
			t.Fatal(err)
		}
	}
}

func closeDrains(t *testing.T, q fanout.Queue) {
	t.Helper()
	begun, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once // a late delivery may still be accepted
	target := fanout.Target{Name: "ledger", Sender: fanout.SenderFunc(func(context.Context, *fanout.Request) (*fanout.Response, error) {
		once.Do(func() { close(begun) })
		<-proceed
		return nil, nil
	})}
	var results Results
	d := open(t, q, fanout.Config{Targets: []fanout.Target{target}, OnResult: results.OnResult})
	id := submit(t, d, "entry")
	<-begun
	ended := make(chan error, 1)
	go func() { ended <- d.Close(within(t)) }()
	for {
		if _, err := d.Submit(context.Background(), "late"); errors.Is(err, fanout.ErrClosed) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(proceed)
	if err := errorOf(t, ended); err != nil {
		t.Error(err)
	}
	got, err := results.Wait(within(t), id)
	if err != nil || got["ledger"].Outcome != fanout.Delivered {
		t.Error(got["ledger"].Outcome, got["ledger"].Err(), err)
	}
}

func closeIsBounded(t *testing.T, q fanout.Queue) {
	t.Helper()
	target := fanout.Target{Name: "ledger", Sender: fanout.SenderFunc(func(ctx context.Context, _ *fanout.Request) (*fanout.Response, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})}
	d := open(t, q, fanout.Config{Targets: []fanout.Target{target}, Defaults: fanout.Policy{Timeout: -1, AttemptTimeout: -1}})
	id := submit(t, d, "entry")
	over, cancel := context.WithCancel(context.Background())
	cancel()
	err := closed(t, over, d)
	var left *fanout.UndeliveredError
	if !errors.As(err, &left) {
		return // the queue has kept the delivery
	}
	if !slices.ContainsFunc(left.Left, func(r fanout.Result) bool { return r.Payload.ID == id }) {
		t.Errorf("%s is not in %v", id, err)
	}
}

// nothingIsLost submits more deliveries to a target that hangs than are made at the same
// time.
func nothingIsLost(t *testing.T, q fanout.Queue) {
	t.Helper()
	var mu sync.Mutex
	told := map[string]int{}
	target := fanout.Target{Name: "ledger", Sender: fanout.SenderFunc(func(ctx context.Context, r *fanout.Request) (*fanout.Response, error) {
		if r.Payload.Value == "no" || string(r.Body) == `"no"` {
			return nil, fanout.Permanent(errors.New("no"))
		}
		<-ctx.Done()
		return nil, ctx.Err()
	})}
	d := open(t, q, fanout.Config{
		Targets: []fanout.Target{target}, Defaults: fanout.Policy{Timeout: -1, AttemptTimeout: -1, Bulkhead: fanout.Bulkhead{MaxConcurrent: -1}},
		OnResult: func(_ context.Context, r fanout.Result) {
			mu.Lock()
			defer mu.Unlock()
			told[r.Payload.ID]++
		},
	})
	failing := submit(t, d, "no")
	ids := []string{failing}
	for i := range 99 {
		ids = append(ids, submit(t, d, i))
	}
	over, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	err := closed(t, over, d)
	var left *fanout.UndeliveredError
	kept := !errors.As(err, &left)
	if !kept {
		for _, r := range left.Left {
			told[r.Payload.ID]++
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, id := range ids {
		if n := told[id]; n > 1 || (n == 0 && !kept) {
			t.Errorf("%s was reported or named %d times", id, n)
		}
	}
	if told[failing] != 1 && !kept {
		t.Error("a failure was not reported")
	}
}

func refusesWhenClosed(t *testing.T, q fanout.Queue) {
	t.Helper()
	seen := make(chan *fanout.Payload, 1)
	d := open(t, q, fanout.Config{
		Targets:  []fanout.Target{NewSender().Target("ledger")},
		OnResult: func(_ context.Context, r fanout.Result) { seen <- r.Payload },
	})
	submit(t, d, "entry")
	again := *<-seen
	if err := closed(t, within(t), d); err != nil {
		t.Fatal(err)
	}
	again.ID += "-again"
	if err := q.Submit(context.Background(), []fanout.Delivery{{Payload: &again, Targets: []string{"ledger"}, Submitted: time.Now()}}); !errors.Is(err, fanout.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func closeTogether(t *testing.T, q fanout.Queue) {
	t.Helper()
	d := open(t, q, fanout.Config{Targets: []fanout.Target{NewSender().Target("ledger")}})
	for i := range 20 {
		submit(t, d, i)
	}
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() { errs <- d.Close(within(t)) }()
	}
	for range cap(errs) {
		if err := errorOf(t, errs); err != nil {
			t.Error(err)
		}
	}
}
