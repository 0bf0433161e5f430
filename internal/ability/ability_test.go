package ability_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/fanout-go/fanout/internal/ability"
)

type animal interface{ Name() string }

type singer interface{ Song() string }

type dog struct{}

func (dog) Name() string { return "dog" }

type bird struct{ song string }

func (bird) Name() string   { return "bird" }
func (b bird) Song() string { return b.song }

// cage wraps an animal, as a decorator does.
type cage struct{ animal }

func (c cage) Unwrap() animal { return c.animal }

// singingCage has the ability that the animal in it may have too.
type singingCage struct{ cage }

func (singingCage) Song() string { return "creak" }

// sack has a method Unwrap that returns something else than an animal.
type sack struct{ bird bird }

func (sack) Name() string   { return "sack" }
func (s sack) Unwrap() bird { return s.bird }

func TestOf_LooksThroughWhatWraps(t *testing.T) {
	for name, test := range map[string]struct {
		part animal
		song string // empty if it must not be found
	}{
		"has it":                    {bird{"tweet"}, "tweet"},
		"does not":                  {dog{}, ""},
		"wrapped twice":             {cage{cage{bird{"tweet"}}}, "tweet"},
		"wrapped without it":        {cage{dog{}}, ""},
		"the outermost comes first": {cage{singingCage{cage{bird{"tweet"}}}}, "creak"},
		"wraps another type":        {sack{bird{"tweet"}}, ""},
		"wraps nothing":             {cage{}, ""},
		"nil":                       {nil, ""},
	} {
		found, ok := ability.Of[singer](test.part)
		assert.Equal(t, test.song != "", ok, name)
		if ok {
			assert.Equal(t, test.song, found.Song(), name)
		} else {
			assert.Nil(t, found, name)
		}
	}
}
