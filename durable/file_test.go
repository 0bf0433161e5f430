package durable_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestSubmit_OnAFullDiskRefusesAndLosesNothing(t *testing.T) {
	q, _ := inFile(t, durable.Config{})
	sender := fanouttest.NewSender()
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{sender.Target("ledger")}})
	var pages int
	require.NoError(t, q.DB().QueryRow("PRAGMA page_count").Scan(&pages))
	_, err := q.DB().Exec("PRAGMA max_page_count = " + strconv.Itoa(pages+20)) // SQLite's own limit stands for a full disk
	require.NoError(t, err)
	large := fanout.Payload{Body: []byte(strings.Repeat("x", 30_000)), ContentType: "text/plain"}
	accepted := 0
	for range 10 {
		if _, err = d.Submit(t.Context(), large); err != nil {
			break
		}
		accepted++
	}
	require.ErrorContains(t, err, "durable: not accepted: ")
	require.ErrorContains(t, err, "full")
	_, err = q.DB().Exec("PRAGMA max_page_count = 1000000")
	require.NoError(t, err)
	submit(t, d, large)
	eventually(t, func() bool { return sender.Count() >= accepted+1 }, "all that was accepted")
}

func TestOpen_RefusesADamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	q, err := durable.Open(path, durable.Config{})
	require.NoError(t, err)
	require.NoError(t, q.Close(t.Context()))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	for name, damage := range map[string][]byte{
		"no database":     []byte(strings.Repeat("not a database ", 1000)),
		"a page of noise": append(append(append([]byte{}, content[:4096]...), []byte(strings.Repeat("\xa5", 8192))...), content[12288:]...),
		"half a file":     content[:len(content)/2/4096*4096],
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "q.db")
			require.NoError(t, os.WriteFile(path, damage, 0o600))
			_, err := durable.Open(path, durable.Config{})
			require.Error(t, err)
			require.ErrorContains(t, err, path)
			t.Log(err)
		})
	}
}

func TestOpen_MakesAFileForItsOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	q, err := durable.Open(path, durable.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, q.Close(context.Background())) })
	files, err := filepath.Glob(path + "*")
	require.NoError(t, err)
	for _, file := range files {
		info, err := os.Stat(file)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), file)
	}
}

func TestSubmit_InsideATransactionWithoutInTxSaysWhatIsWrong(t *testing.T) {
	q, _ := inFile(t, durable.Config{})
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("ledger")}})
	tx, err := q.DB().Begin()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = d.Submit(ctx, "entry")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "give it InTx")
	require.NoError(t, tx.Rollback())
}

func TestInTx_OfAnotherFileIsRefused(t *testing.T) {
	q, _ := inFile(t, durable.Config{})
	other, _ := inFile(t, durable.Config{})
	d := dispatcher(t, q, fanout.Config{Targets: []fanout.Target{fanouttest.NewSender().Target("ledger")}})
	tx, err := other.DB().Begin()
	require.NoError(t, err)
	_, err = d.Submit(t.Context(), "entry", durable.InTx(tx))
	require.ErrorIs(t, err, fanout.ErrInvalid)
	require.ErrorContains(t, err, "fanout: InTx: is a transaction of ")
	_, err = d.Submit(t.Context(), "entry", durable.InTx((*sql.Tx)(nil)))
	require.EqualError(t, err, "fanout: InTx: is nil")
	require.NoError(t, tx.Rollback())
	require.NoError(t, other.Close(t.Context()))
}
