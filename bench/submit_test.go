package main

import (
	"context"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

// BenchmarkSubmit is what the caller pays, beside a goroutine started by hand.
func BenchmarkSubmit(b *testing.B) {
	body := []byte(`{"id":"o-1"}`)
	b.Run("fanout", func(b *testing.B) {
		nothing := fanout.SenderFunc(func(context.Context, *fanout.Request) (*fanout.Response, error) { return nil, nil })
		d, err := fanout.New(fanout.Config{
			Targets: []fanout.Target{{Name: "ledger", Sender: nothing}},
			Queue:   fanout.NewMemoryQueue(fanout.MemoryLimits{MaxDispatches: b.N + 1, MaxPerTarget: b.N + 1, Workers: 1}),
		})
		require.NoError(b, err)
		payload := fanout.Payload{Body: body, ContentType: "application/json"}
		b.ReportAllocs()
		b.ResetTimer()
		for range b.N {
			if _, err := d.Submit(context.Background(), &payload); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		require.NoError(b, d.Close(context.Background()))
	})
	b.Run("go func", func(b *testing.B) {
		done := make(chan struct{}, b.N)
		b.ReportAllocs()
		for range b.N {
			go func() {
				_ = http.StatusOK
				done <- struct{}{}
			}()
		}
		b.StopTimer()
		for range b.N {
			<-done
		}
	})
}
