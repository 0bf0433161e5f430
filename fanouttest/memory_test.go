package fanouttest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestMemoryTarget_HoursOfRetriesTakeNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fanouttest.NewMemoryTarget(t, fanouttest.RetryAfter(503, "3600"), fanouttest.Hang(), fanouttest.Status(200))
		target := f.Target("crm")
		target.Policy = fanout.Policy{Timeout: 24 * time.Hour, AttemptTimeout: time.Hour}
		d, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
		require.NoError(t, err)
		began := time.Now()
		_, err = d.Dispatch(t.Context(), "hello")
		require.NoError(t, err)
		assert.Greater(t, time.Since(began), 2*time.Hour)
	})
}
