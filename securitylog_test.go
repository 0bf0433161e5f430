package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
)

func TestWhatASecurityTeamWantsToKnowIsOneStream(t *testing.T) {
	var log records
	refused := via("refused", answering(403))
	unsigned := via("unsigned", answering(200))
	unsigned.Auth = fanout.AuthenticatorFunc(func(context.Context, *http.Request) error { return errors.New("no token") })
	limited := with(via("limited", answering(200)), fanout.Policy{RateLimit: fanout.RateLimit{PerSecond: 0.001, Burst: 1, MaxWait: -1}})
	d := newWith(t, fanout.Config{SecurityLogger: log.logger(slog.LevelInfo), Targets: []fanout.Target{refused, unsigned, limited, {Name: "hook", URL: "http://10.0.0.1", Guard: fanout.PublicOnly()}}})
	ctx := fanout.WithCorrelationID(t.Context(), "visit-7")
	for _, names := range []string{"refused", "unsigned", "hook", "limited", "limited"} {
		dispatch(ctx, d, fanout.To(names))
	}
	_, err := d.Dispatch(ctx, []byte("no content type"))
	require.Error(t, err)
	_, err = d.Submit(ctx, nil)
	require.Error(t, err)
	require.Error(t, d.SetTargets(fanout.Target{Name: "new"}))
	require.NoError(t, d.SetTargets(via("new", answering(200))))
	d.RemoveTargets("nobody")
	d.RemoveTargets("new", "nobody")

	var told []string
	for _, record := range log.all(t) {
		assert.Equal(t, "fanout: security", record["msg"])
		told = append(told, fmt.Sprintf("%v %v %v%v %v %v", record["level"], record["event"], record["target"], record["targets"], record["class"], record["correlation_id"]))
	}
	assert.Equal(t, []string{
		"WARN auth_failed refused<nil> 403 visit-7",
		"WARN auth_failed unsigned<nil> auth visit-7",
		"WARN address_blocked hook<nil> address_blocked visit-7",
		"WARN rate_limited limited<nil> rate_limited visit-7",
		"WARN input_refused <nil><nil> <nil> visit-7",
		"WARN input_refused <nil><nil> <nil> visit-7",
		"WARN input_refused <nil><nil> <nil> ",
		"INFO targets_set <nil>[new] <nil> ",
		"INFO targets_removed <nil>[new] <nil> ",
	}, told)
}
