package durable_test

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
)

func TestOpen_ASecondProcessMayLookButNotDeliver(t *testing.T) {
	q, again := inFile(t, durable.Config{})
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{sending("crm", func(*fanout.Request) error { return fanout.Permanent(errDown) })}})
	submit(t, d, "entry")
	eventually(t, func() bool { return len(deadLetters(t, q, durable.Filter{})) == 1 }, "a dead letter")

	second := again(t, durable.Config{})
	assert.Len(t, deadLetters(t, second, durable.Filter{}), 1)
	_, err := fanout.New(fanout.Config{Queue: second})
	require.ErrorContains(t, err, "another queue, in this process or another one, already delivers from it")
	require.NoError(t, second.Close(t.Context()))
	closeNow(t, d)
	dispatcher(t, again(t, durable.Config{}), fanout.Config{})
}

func TestTakeOver_FromAProcessThatWasKilled(t *testing.T) {
	for name, database := range map[string]func(*testing.T) string{
		"SQLite, the same file by the next process": func(t *testing.T) string { return filepath.Join(t.TempDir(), "q.db") },
		"Postgres, within TakeOver":                 func(t *testing.T) string { _, url := database(t); return url },
	} {
		t.Run(name, func(t *testing.T) {
			a := newAudit(t, database(t))
			a.hang()
			first := a.start(true)
			a.until(func() bool { return a.hanging() >= 10 })
			first.kill()
			killed := time.Now()
			a.recover()
			second := a.start(false)
			a.until(func() bool { return a.hanging() == 0 })
			t.Logf("%v from the kill until what was under way then had arrived by the next process", time.Since(killed).Round(time.Millisecond))
			second.kill()
		})
	}
}

func TestTakeOver_NotFromAProcessThatDrainsForLong(t *testing.T) {
	q, again := inPostgres(t, durable.Config{TakeOver: 2 * time.Second})
	var made atomic.Int32
	begun := make(chan struct{})
	config := fanout.Config{Targets: []fanout.Target{sending("slow", func(*fanout.Request) error {
		if made.Add(1) == 1 {
			close(begun)
		}
		time.Sleep(6 * time.Second)
		return nil
	})}}
	d := dispatcher(t, q, config)
	submit(t, d, "entry")
	<-begun
	dispatcher(t, again(t, durable.Config{TakeOver: 2 * time.Second}), config)
	closeNow(t, d)
	assert.EqualValues(t, 1, made.Load())
}
