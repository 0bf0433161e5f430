package durable

import (
	"context"
	"errors"

	"github.com/fanout-go/fanout"
)

// InTx has Submit accept the payload within the caller's transaction. If it is committed
// the payload will be delivered; if it is rolled back it never was there. tx is a *sql.Tx
// of [Queue.DB] for SQLite, and a pgx.Tx for Postgres.
// [fanout.Config.Lookup] finds it by [TxFromContext].
func InTx(tx any) fanout.SubmitOption {
	return fanout.ForQueue(fanout.QueueOption{Name: optionInTx, Value: transaction{tx}})
}

// InOrder has deliveries that are submitted with the same key, 1 to 256 bytes, reach
// each target one after the other, in the order in which they were submitted; of
// transactions, in the order of their commits. One that is retried holds back those of
// its own key alone; one that fails for good lets the next go on. It is not for targets
// that depend on each other.
func InOrder(key string) fanout.SubmitOption {
	return fanout.ForQueue(fanout.QueueOption{Name: optionInOrder, Value: orderKey(key)})
}

// TxFromContext is the transaction given by [InTx], in the context of
// [fanout.Config.Lookup]; nil if there is none. In an SQLite file, which has one
// connection, a look-up that does not use it would wait for it.
func TxFromContext(ctx context.Context) any {
	for _, o := range fanout.QueueOptions(ctx) {
		if t, ok := o.Value.(transaction); ok {
			return t.tx
		}
	}
	return nil
}

const optionInTx, optionInOrder = "InTx", "InOrder"

type (
	transaction struct{ tx any }
	orderKey    string
)

// asked is what a submitter asks for.
type asked struct {
	tx    any // nil if there is none
	order orderKey
}

// askedOf reads a delivery's options.
func askedOf(d *fanout.Delivery) (a asked, err error) {
	if err := d.Check(optionInTx, optionInOrder); err != nil {
		return a, err
	}
	for _, o := range d.Options {
		switch v := o.Value.(type) {
		case transaction:
			if err = a.setTx(v.tx); err != nil {
				return a, err
			}
		case orderKey:
			if err = a.setOrder(v); err != nil {
				return a, err
			}
		default:
			return a, wrong(o.Name, "is not made by a function of package durable")
		}
	}
	if a.order != "" && d.Chained {
		return a, wrong(optionInOrder, "is not for targets that depend on each other")
	}
	return a, nil
}

func (a *asked) setTx(tx any) error {
	switch {
	case tx == nil:
		return wrong(optionInTx, "is nil")
	case a.tx != nil:
		return wrong(optionInTx, "given twice")
	}
	a.tx = tx
	return nil
}

func (a *asked) setOrder(key orderKey) error {
	switch {
	case key == "":
		return wrong(optionInOrder, "without a key")
	case len(key) > 256:
		return wrong(optionInOrder, "longer than 256 bytes")
	case a.order != "":
		return wrong(optionInOrder, "given twice")
	}
	a.order = key
	return nil
}

func wrong(option, text string) error {
	return &fanout.InvalidError{Field: option, Err: errors.New(text)}
}
