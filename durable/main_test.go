package durable_test

import (
	"os"
	"testing"

	"github.com/fanout-go/fanout/durable/internal/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv("FANOUT_AUDIT_DATABASE") != "" {
		runAuditedProcess()
	}
	os.Exit(pgtest.Main(m))
}
