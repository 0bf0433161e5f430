package fanouttest_test

import (
	"testing"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/fanouttest"
)

func TestQueue_TheOneInMemoryKeepsTheContract(t *testing.T) {
	for name, limits := range map[string]fanout.MemoryLimits{
		"default":    {},
		"one worker": {Workers: 1},
	} {
		t.Run(name, func(t *testing.T) {
			fanouttest.TestQueue(t, func(*testing.T) fanout.Queue { return fanout.NewMemoryQueue(limits) })
		})
	}
}
