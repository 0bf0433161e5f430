package jsonschema

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	mostDigits = 400    // a float64 needs fewer
	mostValues = 10_000 // the library may keep several errors for each value
)

var errNotJSON = errors.New("not JSON") // the error of a decoder would quote the payload

// scan refuses a payload that would take long or much memory to validate. It also refuses
// duplicate names: a target may use one of the values, while the schema has checked the
// other one.
func scan(body []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var s scanner
	for values := 0; ; values++ {
		token, err := decoder.Token()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return errNotJSON
		case values > mostValues:
			return fmt.Errorf("has more than %d values", mostValues)
		}
		if err := s.take(token); err != nil {
			return err
		}
	}
}

// scanner knows which tokens are names and which are values.
type scanner struct {
	open   []map[string]bool // for each open object, the names it has so far; nil for an array
	isName bool              // the next token is a name, or ends the object
}

func (s *scanner) take(token json.Token) error {
	wasName := s.isName
	s.isName = s.inObject() && !wasName
	switch v := token.(type) {
	case json.Delim:
		s.delim(v)
	case json.Number:
		return reasonable(v)
	case string:
		if wasName {
			return s.name(v)
		}
	}
	return nil
}

func (s *scanner) delim(d json.Delim) {
	switch d {
	case '{':
		s.open = append(s.open, map[string]bool{})
	case '[':
		s.open = append(s.open, nil)
	default:
		s.open = s.open[:len(s.open)-1]
	}
	s.isName = s.inObject()
}

func (s *scanner) inObject() bool { return len(s.open) > 0 && s.open[len(s.open)-1] != nil }

func (s *scanner) name(name string) error {
	names := s.open[len(s.open)-1]
	if names[name] {
		return errors.New("has the same name twice in one object")
	}
	names[name] = true
	return nil
}

// reasonable refuses numbers such as 1e999999, which take long to convert exactly.
func reasonable(number json.Number) error {
	digits, exponent, _ := strings.Cut(strings.ToLower(number.String()), "e")
	n, err := strconv.Atoi(cmp.Or(exponent, "0"))
	if len(digits) > mostDigits || err != nil || n < -mostDigits || n > mostDigits {
		return errors.New("has a number that is too large, or written with too many digits")
	}
	return nil
}
