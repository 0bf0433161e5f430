package ids_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/fanout-go/fanout/internal/ids"
)

func TestNew_IsDifferentEachTime(t *testing.T) {
	seen := map[string]bool{}
	for range 200 { // more than are made at a time
		id := ids.New()
		assert.Regexp(t, `^[A-Z2-7]{24}$`, id)
		assert.True(t, ids.Valid(id) && ids.ValidKey(id), id)
		assert.False(t, seen[id], id)
		seen[id] = true
	}
}

func TestHash_IsTheFirstHalfOfSHA256(t *testing.T) {
	assert.Equal(t, "ba7816bf8f01cfea414140de5dae2223", ids.Hash("abc"), "the example of FIPS 180")
}

func TestValidKey_IsVisibleASCII(t *testing.T) {
	for key, want := range map[string]bool{
		"!": true, "~": true, "a:b": true, strings.Repeat("k", 128): true,
		"": false, " ": false, "a b": false, "a\x7f": false, "ä": false, strings.Repeat("k", 129): false,
	} {
		assert.Equal(t, want, ids.ValidKey(key), "%q", key)
	}
}

func TestKeySuffix_IsTheNameIfThatIsShortAndPlain(t *testing.T) {
	short := strings.Repeat("n", 64)
	for _, name := range []string{"crm", "crm.eu", short} {
		assert.Equal(t, ":"+name, ids.KeySuffix(name))
	}
	for _, name := range []string{"", "a b", "a:b", "zürich", short + "n"} {
		assert.Equal(t, ":"+ids.Hash(name), ids.KeySuffix(name), name)
	}
}

func TestValid_HasLettersDigitsAndAFewOthers(t *testing.T) {
	const valid = "azAZ09-._~:/+=@"
	for c := range rune(256) {
		assert.Equal(t, strings.ContainsRune(valid, c) || 'a' < c && c < 'z' || 'A' < c && c < 'Z' || '0' < c && c < '9', ids.Valid("x"+string(c)), "%q", c)
	}
	assert.False(t, ids.Valid(""))
	assert.True(t, ids.Valid(strings.Repeat("x", 128)))
	assert.False(t, ids.Valid(strings.Repeat("x", 129)))
}
