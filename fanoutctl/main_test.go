package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/durable"
	"github.com/fanout-go/fanout/fanouttest"
	"github.com/fanout-go/fanout/internal/pgtest"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(pgtest.Main(m, func() error { return goleak.Find() }))
}

// service has six dead letters, three for each target, and keeps running.
func service(t *testing.T) (database string, crm *fanouttest.Target) {
	t.Helper()
	database = filepath.Join(t.TempDir(), "deliveries.db")
	q, err := durable.Open(database, durable.Config{Schedule: []time.Duration{}})
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
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), append([]string{"--db", database}, args...), &out, io.Discard))
	return out.String()
}

func lines(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }

func TestDeadLetters_AreListedInspectedAndReplayedWhileTheServiceRuns(t *testing.T) {
	database, crm := service(t)
	status := lines(ctl(t, database, "status"))
	assert.Equal(t, []string{"crm", "0", "-", "3", "-"}, strings.Fields(status[1]))

	var first durable.DeadLetter
	listed := lines(ctl(t, database, "dead", "--target", "crm", "--since", "1h", "--json"))
	require.Len(t, listed, 3)
	require.NoError(t, json.Unmarshal([]byte(listed[0]), &first))
	assert.Equal(t, []string{"crm", "422"}, []string{first.Target, string(first.Class)})
	id := strconv.FormatInt(first.ID, 10)

	shown := ctl(t, database, "inspect", id)
	assert.Contains(t, shown, `payload       {"n":`)
	assert.NotContains(t, shown, "\x1b", "a target's words do not steer the terminal")
	assert.Contains(t, shown, "key      "+first.DispatchID+":crm")
	inspected := ctl(t, database, "inspect", "--json", id)
	assert.Contains(t, inspected, `"payload_key": "`+first.DispatchID+`"`)
	assert.Contains(t, inspected, `"idempotency_key": "`+first.DispatchID+`:crm"`)

	assert.Equal(t, "replaying: 1 done\n", ctl(t, database, "replay", id))
	var out, bars bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"--db", database, "replay", "--class", "422", "--rate", "1000"}, &out, &bars))
	assert.Equal(t, "replaying: 2 done\n", out.String())
	assert.Contains(t, bars.String(), "2/2", "a progress bar")
	require.Eventually(t, func() bool { return crm.Count() == 6 }, 10*time.Second, 20*time.Millisecond)

	assert.Equal(t, "discarding: 3 done\n", ctl(t, database, "discard", "--all"))
	assert.Len(t, lines(ctl(t, database, "dead")), 1)
}

func TestHold_StopsATargetUntilItIsResumed(t *testing.T) {
	database, _ := service(t)
	assert.Equal(t, "crm: held, 0 waiting\n", ctl(t, database, "hold", "crm"))
	assert.Contains(t, ctl(t, database, "status"), "held")
	assert.Equal(t, "crm: resumed\n", ctl(t, database, "resume", "crm"))
	assert.NotContains(t, ctl(t, database, "status"), "held\n")
	assert.Equal(t, "cmr: held; nothing is known of a target of this name: is it spelt right?\n", ctl(t, database, "hold", "cmr"))
}

func TestStatus_IsSortedByName(t *testing.T) {
	database, _ := service(t)
	for name := range strings.SplitSeq("hgfedcba", "") { // so many that no other order is sorted by chance
		ctl(t, database, "hold", name)
	}
	var names []string
	for _, line := range lines(ctl(t, database, "status")) {
		names = append(names, strings.Fields(line)[0])
	}
	assert.Equal(t, []string{"TARGET", "a", "b", "c", "crm", "d", "e", "f", "g", "gone", "h"}, names)
}

func TestHelp_NeedsNoDatabase(t *testing.T) {
	for want, args := range map[string][]string{
		"fanoutctl [command]":                  {"-h"},
		"fanoutctl status":                     {"status", "-h"},
		"fanoutctl replay ID... | FILTER":      {"help", "replay"},
		"how long ago, such as 90m":            {"dead", "--help"},
		"negative means no limit (default 50)": {"replay", "--help"},
		"fanoutctl replay --target crm":        {"replay", "--help"},
		"default $FANOUT_DATABASE, which ke":   {"--help"},
	} {
		var out bytes.Buffer
		require.NoError(t, run(t.Context(), args, &out, io.Discard))
		assert.Contains(t, out.String(), want)
	}
}

func TestVersion_IsThatOfTheModule(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"--version"}, &out, io.Discard))
	assert.Regexp(t, `^fanoutctl \S+\n$`, out.String())
}

func TestDiscard_GoesOnWithTheOthersIfOneCannotBe(t *testing.T) {
	database, _ := service(t)
	var out bytes.Buffer
	err := run(t.Context(), []string{"--db", database, "discard", "1", "999", "2"}, &out, io.Discard)
	require.ErrorContains(t, err, "999: no such dead letter")
	assert.Equal(t, "discarding: 2 done\n", out.String())
}

func TestMigrate_IsDoneOnPurpose(t *testing.T) {
	url := pgtest.Database(t)
	err := run(t.Context(), []string{"--db", url, "status"}, io.Discard, io.Discard)
	require.ErrorContains(t, err, "the database is not migrated")
	require.ErrorContains(t, err, "run fanoutctl migrate")
	err = run(t.Context(), []string{"--db", "postgres://127.0.0.1:1/away", "status"}, io.Discard, io.Discard)
	require.ErrorContains(t, err, "connect")
	assert.NotContains(t, err.Error(), "migrate", "which would not help")
	ctl(t, url, "migrate")
	assert.Equal(t, "TARGET  WAITING  OLDEST  DEAD  HELD\n", ctl(t, url, "status"))
}

func TestInspect_ShowsAllThatIsKnown(t *testing.T) {
	at := time.Date(2026, time.January, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	answered := fanout.Result{
		Target: "crm", Key: "k:crm", Outcome: fanout.Failed, Response: &fanout.Response{StatusCode: 422, Body: []byte("no\nsuch \"account\"")},
		Attempts: []fanout.Attempt{{Start: at, Duration: 1234567 * time.Nanosecond, RequestID: "r-1", StatusCode: 422, Err: errors.New("422")}},
	}
	silent := fanout.Result{Target: "crm", Outcome: fanout.Unknown}
	inspection := show(&durable.Inspection{
		DeadLetter:    durable.DeadLetter{ID: 1234567890, DispatchID: "d-1", Target: "crm", Submitted: at, Died: at.Add(time.Hour), Error: "gone"},
		CorrelationID: "visit-7",
		Payload:       fanout.Payload{Key: "k", ContentType: "text/plain", Header: http.Header{"X-Tenant": {"acme"}}, Body: []byte("hello")},
		History:       []fanout.Result{silent.WithErr(errors.New("timeout")), answered.WithErr(errors.New("422"))},
	})
	var text bytes.Buffer
	require.NoError(t, inspection.print(&text))
	assert.Equal(t, `dead letter   1234567890
target        crm
dispatch      d-1
correlation   visit-7
submitted     2026-01-02T02:04:05Z
died          2026-01-02T03:04:05Z
error         gone
payload key   k
content type  text/plain
payload       hello

crm  unknown: timeout

crm        failed: 422
  attempt  2026-01-02T02:04:05Z  1.235ms  r-1  422
  key      k:crm
  answer   422 no\nsuch "account"
`, text.String())
	encoded, err := json.Marshal(inspection)
	require.NoError(t, err)
	for _, member := range []string{
		`"content_type":"text/plain","header":{"X-Tenant":["acme"]},"body":"hello","payload_key":"k"`,
		`{"target":"crm","outcome":"unknown","error":"timeout","attempts":null}`,
		`"idempotency_key":"k:crm","outcome":"failed","error":"422","status":422,"answer":{"body":"no\nsuch \"account\""}`,
		`"duration":"1.235ms","request_id":"r-1","status":422,"error":"422"`,
	} {
		assert.Contains(t, string(encoded), member)
	}
}

func TestInspect_ShowsBytesThatAreNoTextWhole(t *testing.T) {
	assert.Equal(t, content{Bytes: []byte{0xff, 0}}, contentOf([]byte{0xff, 0}))
	assert.Equal(t, content{Text: "text"}, contentOf([]byte("text")))
}

func TestMigrate_ShowsItsSQL(t *testing.T) {
	database, _ := service(t)
	ctl(t, database, "migrate")
	assert.Contains(t, ctl(t, database, "migrate", "--show"), "CREATE TABLE IF NOT EXISTS fanout_journal")
}

func TestCommandLine_ThatMakesNoSenseChangesNothing(t *testing.T) {
	database, _ := service(t)
	for _, c := range []struct {
		want   string
		status int
		args   []string
	}{
		{`no command "explode"; see fanoutctl --help`, 2, []string{"explode"}},
		{`no command "stat", is it status?; see fanoutctl --help`, 2, []string{"stat"}},
		{"no command is given; see fanoutctl --help", 2, []string{}},
		{"inspect takes 1 arguments, and 0 are given; see fanoutctl inspect --help", 2, []string{"inspect"}},
		{"status takes 0 arguments, and 1 are given; see fanoutctl status --help", 2, []string{"status", "crm"}},
		{"resume: crm is not held", 1, []string{"resume", "crm"}},
		{`"seven" is not the ID of a dead letter; see fanoutctl replay --help`, 2, []string{"replay", "seven"}},
		{`"seven" is not the ID of a dead letter; see fanoutctl inspect --help`, 2, []string{"inspect", "seven"}},
		{`"seven" is not the ID of a dead letter; see fanoutctl discard --help`, 2, []string{"discard", "1", "seven"}},
		{"give either IDs, or a filter or --all", 2, []string{"replay"}},
		{"give either IDs, or a filter or --all; see fanoutctl discard", 2, []string{"discard", "--all", "7"}},
		{"neither a time such as 2006-01-02T15:04:05Z nor a", 2, []string{"dead", "--since", "yesterday"}},
		{"neither a time such as 2006-01-02T15:04:05Z nor", 2, []string{"dead", "--since", "-2h"}},
		{"dead letter 999: no such dead letter", 1, []string{"inspect", "999"}},
		{"replay: durable: replaying 999: no such dead lett", 1, []string{"replay", "999"}},
		{"dead letter 9223372036854775807: no such dead letter", 1, []string{"inspect", "9223372036854775807"}},
		{"unknown flag: --nope; see fanoutctl dead --help", 2, []string{"dead", "--nope"}},
		{"Schema: is for Postgres", 1, []string{"status", "--schema", "fanout"}},
	} {
		err := run(t.Context(), append([]string{"--db", database}, c.args...), io.Discard, io.Discard)
		require.ErrorContains(t, err, c.want)
		assert.Equal(t, c.status, status(err), c.want)
	}
	err := run(t.Context(), []string{"--db", filepath.Join(t.TempDir(), "none.db"), "status"}, io.Discard, io.Discard)
	require.ErrorContains(t, err, "no such file")
	assert.Equal(t, 1, status(err))
	err = run(t.Context(), []string{"--db", "", "status"}, io.Discard, io.Discard)
	require.ErrorContains(t, err, "no database given")
	assert.Equal(t, 2, status(err))
	assert.Len(t, lines(ctl(t, database, "dead")), 7)
}

func TestDatabase_IsTakenFromTheEnvironmentAndFlagsStandAnywhere(t *testing.T) {
	database, _ := service(t)
	t.Setenv("FANOUT_DATABASE", database)
	for _, args := range [][]string{{"dead", "--target", "crm"}, {"--db", database, "dead", "--target=crm"}, {"dead", "--target", "crm", "--db", database}} {
		var out bytes.Buffer
		require.NoError(t, run(t.Context(), args, &out, io.Discard))
		assert.Len(t, lines(out.String()), 4)
	}
	assert.Equal(t, "discarding: 1 done\n", ctl(t, "no.db", "discard", "1", "--db", database))
}
