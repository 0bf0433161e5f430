package durable

import (
	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable/internal/river"
)

// entry converts a result into an entry of the journal. It keeps at most mostBody bytes
// of an answer; 0 keeps all.
func (c sealer) entry(kind, dispatch string, r fanout.Result, mostBody int) (river.Entry, error) {
	if r.Response != nil && mostBody > 0 {
		kept := *r.Response
		kept.Body = kept.Body[:min(len(kept.Body), mostBody)]
		r.Response = &kept
	}
	sealed, err := c.seal(dispatch, r)
	class, text := describe(r.Err())
	return river.Entry{Kind: kind, Target: r.Target, Class: class, Error: text, Record: sealed}, err
}

// result restores the result that was kept in an entry.
func (c sealer) result(e river.Entry, dispatch string) (r fanout.Result, err error) {
	if err := c.unseal(dispatch, e.Record, &r); err != nil {
		return fanout.Result{}, err
	}
	r.Target = e.Target
	return r, nil
}

// describe returns what is kept of an error without encryption: errors hold no secrets.
func describe(err error) (class, text string) {
	if err == nil {
		return "", ""
	}
	return string(fanout.ClassOf(err)), river.Clean(err.Error())
}
