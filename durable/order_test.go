package durable_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
)

func TestManyDeliveriesOfOneKeyDoNotWaitForRiversNotes(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{})
		var mu sync.Mutex
		var got, want []string
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{sending("crm", func(r *fanout.Request) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, string(r.Body))
			return nil
		})}})
		for i := range 500 { // which River notes every quarter of a second
			want = append(want, fmt.Sprint(i))
			submit(t, d, i, fanout.InOrder("customer 7"))
		}
		eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got) >= len(want)
		}, "all to arrive")
		closeNow(t, d)
		assert.Equal(t, want, got)
	})
}
