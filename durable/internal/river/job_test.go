package river_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/fanout-go/fanout/durable/internal/river"
)

// The names stand in databases: a change would leave what waits there behind.
func TestSetOf_NamesALaneReadably(t *testing.T) {
	for want, names := range map[string][]string{
		"fanout_email_":         {"email"},
		"fanout_payment_stock_": {"payment", "stock"},
		"fanout_api_v2_eu_":     {"API/v2", "eu!"},
		"fanout_x_":             {"x"},
		"fanout_":               {"ü"},
		"fanout_" + strings.Repeat("n", 32) + "_": {strings.Repeat("n", 33)},
		"fanout_" + strings.Repeat("m", 31) + "_": {strings.Repeat("m", 31), "x"},
	} {
		assert.Regexp(t, "^"+want+"[0-9a-f]{12}$", river.SetOf(names))
	}
	assert.Equal(t, "fanout_email_82244417f956", river.SetOf([]string{"email"}))
	assert.Equal(t, "fanout_payment_stock_4071571c5e05", river.SetOf([]string{"payment", "stock"}))
	assert.NotEqual(t, river.SetOf([]string{"a", "b"}), river.SetOf([]string{"a_b"}))
}
