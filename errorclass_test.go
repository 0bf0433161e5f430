package fanout_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/fanout-go/fanout"
)

func TestClassOf_MadeUpStatusIsNoClassOfItsOwn(t *testing.T) {
	for status, want := range map[int]fanout.Class{404: "404", 599: "599", 600: "_OTHER", 999: "_OTHER", 99: "_OTHER", -1: "_OTHER"} {
		assert.Equal(t, want, fanout.ClassOf(&fanout.StatusError{StatusCode: status}))
	}
}
