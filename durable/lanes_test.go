package durable_test

import (
	"testing"
	"time"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestALaneIsShutWhenItIsIdleAndOpenedAgainForWhatComes(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		q.ShutIdleLanesAfter(100 * time.Millisecond)
		ledger := fanouttest.NewSender()
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{ledger.Target("ledger")}})
		for n := range 3 {
			submit(t, d, "entry")
			eventually(t, func() bool { return ledger.Count() == n+1 }, "it to arrive")
			eventually(t, func() bool { return q.OpenLanes() == 0 }, "the lane to be shut")
		}
		for n := range 100 { // while it is shut, and opened, and shut
			submit(t, d, n)
			time.Sleep(time.Duration(n%7) * 5 * time.Millisecond)
		}
		eventually(t, func() bool { return ledger.Count() == 103 }, "all to arrive")
	})
}
