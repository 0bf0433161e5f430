package durable

import (
	"context"
	"errors"

	"github.com/fanout-go/fanout"
)

// InTx makes Submit accept the payload within a transaction of the caller. If the
// transaction is committed, the payload will be delivered. If it is rolled back, nothing
// was submitted. For SQLite, tx is a *sql.Tx of [Queue.DB]. For Postgres, it is a pgx.Tx.
// A [fanout.Config.Lookup] gets it from [TxFromContext]. If tx is nil, or belongs to
// another kind of database, Submit returns a [*fanout.InvalidError].
func InTx(tx any) fanout.SubmitOption {
	return fanout.ForQueue(fanout.QueueOption{Name: optionInTx, Value: transaction{tx}})
}

// InOrder keeps deliveries with the same key in order: each target gets them one after
// the other, in the order in which they were submitted. If they were submitted in
// transactions, the order of the commits counts. For example, with the key "customer-7" a
// target gets "created" before "renamed", while the deliveries of customer-8 go on
// independently.
//
// A delivery that is retried delays only those of its own key. When it fails for good,
// the next one begins. The key has 1 to 256 bytes. Submit returns a
// [*fanout.InvalidError] for any other key, and for targets that depend on each other.
func InOrder(key string) fanout.SubmitOption {
	return fanout.ForQueue(fanout.QueueOption{Name: optionInOrder, Value: orderKey(key)})
}

// TxFromContext returns the transaction that was given to [InTx], from the context of a
// [fanout.Config.Lookup]. It returns nil if there is none. On SQLite a look-up must use
// it: the file has only one connection, which the transaction occupies, so a query
// outside it would wait until the look-up times out.
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

// asked holds the options of one Submit.
type asked struct {
	tx    any // nil if InTx was not given
	order orderKey
}

// askedOf reads the options of a delivery.
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
