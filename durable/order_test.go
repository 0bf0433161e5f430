package durable_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
)

func TestInOrder_DeliveriesOfOneKeyArriveInOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		q, _ := open(t, durable.Config{Schedule: fast(5)})
		var mu sync.Mutex
		got, failed := map[string][]string{}, false
		freely := make(chan struct{}, 10)
		target := sending("crm", func(r *fanout.Request) error {
			mu.Lock()
			defer mu.Unlock()
			var key, n string
			_, _ = fmt.Sscanf(string(r.Body), "%1s%s", &key, &n)
			if key == "a" && n == "1" && !failed {
				failed = true
				return errDown
			}
			got[key] = append(got[key], n)
			if key == "b" && !slices.Contains(got["a"], "1") {
				freely <- struct{}{}
			}
			return nil
		})
		target.Prepare = nil
		d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{target}})
		for i := range 5 {
			for _, key := range []string{"a", "b"} {
				body := fanout.Payload{Body: fmt.Appendf(nil, "%s%d", key, i), ContentType: "text/plain"}
				submit(t, d, body, durable.InOrder(key))
			}
		}
		all := []string{"0", "1", "2", "3", "4"}
		eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got["a"]) == 5 && len(got["b"]) == 5
		}, "all to arrive")
		assert.Equal(t, map[string][]string{"a": all, "b": all}, got)
		assert.NotEmpty(t, freely, "the other key waits for none")
	})
}

func TestInOrder_ManyDeliveriesOfOneKeyDoNotWaitForRiver(t *testing.T) {
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
		for i := range 500 { // River stores their ends every quarter of a second
			want = append(want, fmt.Sprint(i))
			submit(t, d, i, durable.InOrder("customer 7"))
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
