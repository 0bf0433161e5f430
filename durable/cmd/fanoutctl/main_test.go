package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
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
	"github.com/fanout-go/fanout/durable/internal/pgtest"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// service has six dead letters, three for each target, and goes on running.
func service(t *testing.T) (database string, crm *fanouttest.Target) {
	t.Helper()
	database = filepath.Join(t.TempDir(), "deliveries.db")
	q, err := durable.Open(database, durable.Config{})
	require.NoError(t, err)
	crm = fanouttest.NewTarget(t, fanouttest.Reply(422, "no \x1b[31mcolour"), fanouttest.Status(422), fanouttest.Status(422), fanouttest.Status(200))
	gone := fanouttest.NewTarget(t, fanouttest.Status(410))
	d, err := fanout.New(fanout.Config{Queue: q, Targets: []fanout.Target{{Name: "crm", URL: crm.URL()}, {Name: "gone", URL: gone.URL()}}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, d.Close(context.Background())) })
	for i := range 3 {
		_, err := d.Submit(t.Context(), map[string]int{"n": i})
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return len(lines(ctl(t, database, "dead"))) == 7 }, 10*time.Second, 20*time.Millisecond)
	return database, crm
}

func ctl(t *testing.T, database string, args ...string) string {
	t.Helper()
	var out, bars bytes.Buffer
	require.NoError(t, run(t.Context(), append([]string{"-db", database}, args...), &out, io.Discard, &bars))
	return out.String()
}

func lines(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }

func TestDeadLettersAreListedInspectedAndReplayedWhileTheServiceRuns(t *testing.T) {
	database, crm := service(t)
	status := lines(ctl(t, database, "status"))
	assert.Equal(t, []string{"crm", "0", "-", "3", "-"}, strings.Fields(status[1]))

	var first durable.DeadLetter
	listed := lines(ctl(t, database, "dead", "-target", "crm", "-since", "1h", "-json"))
	require.Len(t, listed, 3)
	require.NoError(t, json.Unmarshal([]byte(listed[0]), &first))
	assert.Equal(t, []string{"crm", "422"}, []string{first.Target, first.Class})
	id := strconv.FormatInt(first.ID, 10)

	shown := ctl(t, database, "inspect", id)
	assert.Contains(t, shown, `payload       {"n":`)
	assert.NotContains(t, shown, "\x1b", "a target's words do not steer the terminal")
	assert.Contains(t, shown, "key      "+first.DispatchID+":crm")
	inspected := ctl(t, database, "inspect", "-json", id)
	assert.Contains(t, inspected, `"payload_key": "`+first.DispatchID+`"`)
	assert.Contains(t, inspected, `"idempotency_key": "`+first.DispatchID+`:crm"`)

	assert.Equal(t, "replaying: 1 done\n", ctl(t, database, "replay", id))
	var out, bars bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-db", database, "replay", "-class", "422", "-rate", "1000"}, &out, io.Discard, &bars))
	assert.Equal(t, "replaying: 2 done\n", out.String())
	assert.Contains(t, bars.String(), "2/2", "a progress bar")
	require.Eventually(t, func() bool { return crm.Count() == 6 }, 10*time.Second, 20*time.Millisecond)

	assert.Equal(t, "discarding: 3 done\n", ctl(t, database, "discard", "-all"))
	assert.Len(t, lines(ctl(t, database, "dead")), 1)
}

func TestTargetsAreHeldAndResumed(t *testing.T) {
	database, _ := service(t)
	assert.Equal(t, "crm: held, 0 waiting\n", ctl(t, database, "hold", "crm"))
	assert.Contains(t, ctl(t, database, "status"), "held")
	assert.Equal(t, "crm: resumed\n", ctl(t, database, "resume", "crm"))
	assert.NotContains(t, ctl(t, database, "status"), "held\n")
	assert.Equal(t, "cmr: held; nothing is known of a target of this name: is it spelt right?\n", ctl(t, database, "hold", "cmr"))
}

func TestHelpNeedsNoDatabase(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"status", "-h"}} {
		var said bytes.Buffer
		require.NoError(t, run(t.Context(), args, io.Discard, &said, io.Discard))
		assert.Contains(t, said.String(), "Usage: fanoutctl")
	}
}

func TestWhatCanBeReplayedIsThoughOneCannot(t *testing.T) {
	database, _ := service(t)
	var out bytes.Buffer
	err := run(t.Context(), []string{"-db", database, "discard", "1", "999", "2"}, &out, io.Discard, io.Discard)
	require.ErrorContains(t, err, "999: no such dead letter")
	assert.Equal(t, "discarding: 2 done\n", out.String())
}

func TestADatabaseThatIsNotMigratedIsMigratedOnPurpose(t *testing.T) {
	_, url := pgtest.Pool(t)
	err := run(t.Context(), []string{"-db", url, "status"}, io.Discard, io.Discard, io.Discard)
	require.ErrorContains(t, err, "the database is not migrated")
	require.ErrorContains(t, err, "fanoutctl migrate does it")
	err = run(t.Context(), []string{"-db", "postgres://127.0.0.1:1/away", "status"}, io.Discard, io.Discard, io.Discard)
	require.ErrorContains(t, err, "connect")
	assert.NotContains(t, err.Error(), "migrate", "which would not help")
	ctl(t, url, "migrate")
	assert.Equal(t, "TARGET  WAITING  OLDEST  DEAD  HELD\n", ctl(t, url, "status"))
}

func TestBytesThatAreNoTextAreShownWhole(t *testing.T) {
	assert.Equal(t, shownBody{Bytes: []byte{0xff, 0}}, showBody([]byte{0xff, 0}))
	assert.Equal(t, shownBody{Text: "text"}, showBody([]byte("text")))
}

func TestMigrationsAreShown(t *testing.T) {
	database, _ := service(t)
	ctl(t, database, "migrate")
	assert.Contains(t, ctl(t, database, "migrate", "-show"), "CREATE TABLE IF NOT EXISTS fanout_journal")
}

func TestACommandLineThatMakesNoSenseChangesNothing(t *testing.T) {
	database, _ := service(t)
	for want, args := range map[string][]string{
		`no command "explode"`:                              {"explode"},
		"see fanoutctl -h":                                  {},
		"takes 1 arguments, and 0 are given":                {"inspect"},
		"crm is not held":                                   {"resume", "crm"},
		`"seven" is not the ID of a dead letter`:            {"replay", "seven"},
		"give either IDs, or a filter or -all":              {"replay"},
		"give either IDs, or a filter or -all: see":         {"discard", "-all", "7"},
		"neither a time as 2006-01-02T15:04:05Z nor a":      {"dead", "-since", "yesterday"},
		"neither a time as 2006-01-02T15:04:05Z nor":        {"dead", "-since", "-2h"},
		"dead letter 999: no such dead letter":              {"inspect", "999"},
		"replay: durable: replaying 999: no such dead lett": {"replay", "999"},
		"flag provided but not defined: -nope":              {"dead", "-nope"},
	} {
		err := run(t.Context(), append([]string{"-db", database}, args...), io.Discard, io.Discard, io.Discard)
		require.ErrorContains(t, err, want)
	}
	require.ErrorContains(t, run(t.Context(), []string{"-db", filepath.Join(t.TempDir(), "none.db"), "status"}, io.Discard, io.Discard, io.Discard), "no such file")
	require.ErrorContains(t, run(t.Context(), []string{"-db", "", "status"}, io.Discard, io.Discard, io.Discard), "no database given")
	assert.Len(t, lines(ctl(t, database, "dead")), 7)
}
