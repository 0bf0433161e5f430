package fanout

import "context"

// terms is what a dispatch asks for besides where it goes.
type terms struct {
	option    string
	id, order string
	tx        any
}

// ID gives the dispatch an ID of your own, such as an order's number, instead of a
// new one: 1 to 100 characters as in [ValidCorrelationID]. Idempotency keys are
// made of it, unless the payload has one, so that doing it again repeats the keys.
// A durable queue accepts an ID once for each target, or once for each set of targets
// that depend on each other, as long as it remembers the delivery: submitting it again
// changes nothing, and is no error. So it is for a dead letter, which is for replay.
func ID(id string) Option { return Option{terms: &terms{option: "ID", id: id}} }

// InTx has Submit accept the payload within the caller's transaction, of the type
// that the queue knows: if it is committed the payload will be delivered, if it is
// rolled back it never was there. A queue without transactions, such as the one in
// memory, refuses it. [Config.Lookup] finds the transaction by [TxFromContext].
func InTx(tx any) Option { return Option{terms: &terms{option: "InTx", tx: tx}} }

// InOrder has deliveries that are submitted with the same key, 1 to 256 bytes, reach
// each target one after the other, in the order in which they were submitted; of
// transactions, in the order of their commits. One
// that is retried holds back those of its own key alone; one that fails for good
// lets the next go on. A queue that keeps no order, such as the one in memory,
// refuses it.
func InOrder(key string) Option { return Option{terms: &terms{option: "InOrder", order: key}} }

// termsOf returns nil if nothing is asked for.
func termsOf(options []Option) (*terms, error) {
	var all *terms
	for _, o := range options {
		if o.terms == nil {
			continue
		}
		if all == nil {
			all = &terms{}
		}
		if err := all.add(o.terms); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (t *terms) add(o *terms) error {
	switch {
	case o.tx != nil:
		if t.tx != nil {
			return invalid("InTx", "given twice")
		}
		t.tx = o.tx
	case o.id != "":
		if t.id != "" {
			return invalid("ID", "given twice")
		}
		if !ValidCorrelationID(o.id) || len(o.id) > 100 {
			return invalid("ID", "must be 1 to 100 letters, digits and characters of -._~:/+=@")
		}
		t.id = o.id
	case o.order != "":
		if t.order != "" {
			return invalid("InOrder", "given twice")
		}
		if len(o.order) > 256 {
			return invalid("InOrder", "longer than 256 bytes")
		}
		t.order = o.order
	default:
		return invalid(o.option, "without a value")
	}
	return nil
}

type txKey struct{}

// TxFromContext is the transaction given by [InTx], in the context of [Config.Lookup]; nil
// if there is none. Where a queue has one connection for all, as in a file, a look-up
// that does not use it would wait for it.
func TxFromContext(ctx context.Context) any { return ctx.Value(txKey{}) }

// within has the look-up of targets see the transaction.
func (t *terms) within(ctx context.Context) context.Context {
	if t == nil || t.tx == nil {
		return ctx
	}
	return context.WithValue(ctx, txKey{}, t.tx)
}

// onlySubmit refuses what has no meaning if nothing is queued.
func (t *terms) onlySubmit() error {
	switch {
	case t == nil:
		return nil
	case t.tx != nil:
		return invalid("InTx", "is for Submit")
	case t.order != "":
		return invalid("InOrder", "is for Submit")
	}
	return nil
}

// Tx is the caller's transaction, given by [InTx]; nil if there is none.
func (s *Submission) Tx() any {
	if s.terms == nil {
		return nil
	}
	return s.terms.tx
}

// OrderKey is the key given by [InOrder], empty if there is none.
func (s *Submission) OrderKey() string {
	if s.terms == nil {
		return ""
	}
	return s.terms.order
}

// Named reports whether the caller gave the dispatch its ID, by [ID].
func (s *Submission) Named() bool { return s.terms != nil && s.terms.id != "" }

// Given names the targets whose definitions were given in the call, by [ToTargets]:
// nobody finds them by name.
func (s *Submission) Given() []string {
	var names []string
	for _, t := range s.targets {
		if t.gates == nil && !t.found {
			names = append(names, t.Name)
		}
	}
	return names
}
