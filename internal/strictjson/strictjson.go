// Package strictjson decodes JSON that people write. Unlike encoding/json it
// refuses unknown and repeated fields, null, and names in the wrong case; reads
// durations as "2s"; and reports every problem with its place in the text.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxProblems is as many as one reads at once.
const maxProblems = 10

// Problem is one thing wrong with a document.
type Problem struct {
	Line, Column int    // from 1; columns count characters
	Path         string // such as "targets[1].retry"; empty for the document itself
	Err          error
}

// An Expander turns a string in the document into the one that is decoded. Its
// error is reported with the string's place.
type Expander func(path, s string) (string, error)

// Decode reads a document into the struct that v points to, and returns the
// first ten problems, in the order of the text. If there are any, v is of no use.
//
// A field's name is the Go field's in snake_case; the fields of an embedded
// struct stand beside those of the one around it. Fields may be structs,
// booleans, ints, int64s, float64s, strings, [time.Duration], and slices and
// maps of these. One string may stand for a list of strings. Fields of other
// types are refused in a document: they are set in code.
func Decode(data []byte, v any, expand Expander) []Problem {
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // a byte order mark, see RFC 8259, section 8.1
	d := &decoder{text: data, tokens: json.NewDecoder(bytes.NewReader(data)), expand: expand}
	d.tokens.UseNumber()
	if at, err := check(data); err != nil {
		d.refuse(at, "", err)
	} else {
		d.value("", reflect.ValueOf(v).Elem())
	}
	return d.problems
}

// check looks for what makes a text no JSON document at all. What follows can
// then rely on every token, and on a bounded depth.
func check(data []byte) (at int64, err error) {
	if at := bytes.IndexRune(data, utf8.RuneError); at >= 0 {
		return int64(at), errors.New("not UTF-8, or the replacement character U+FFFD")
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return 0, errors.New("empty document")
	}
	var raw json.RawMessage
	err = json.Unmarshal(data, &raw)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at = max(0, syntax.Offset-1) // Offset is behind the byte at fault
	}
	return at, err
}

type decoder struct {
	text     []byte
	tokens   *json.Decoder
	expand   Expander
	problems []Problem
}

func (d *decoder) refuse(at int64, path string, err error) {
	if len(d.problems) < maxProblems {
		line, column := d.place(at)
		d.problems = append(d.problems, Problem{line, column, path, err})
	}
}

func (d *decoder) refusef(at int64, path, format string, args ...any) {
	d.refuse(at, path, fmt.Errorf(format, args...))
}

func (d *decoder) place(at int64) (line, column int) {
	before := d.text[:at]
	return bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
}

// next returns the next token and where it starts.
func (d *decoder) next() (json.Token, int64) {
	at := d.tokens.InputOffset() // the end of the last token
	for strings.IndexByte(" \t\r\n,:", d.text[at]) >= 0 {
		at++
	}
	token, _ := d.tokens.Token() // the text has been checked
	return token, at
}

// skip passes over the rest of the value that token begins.
func (d *decoder) skip(token json.Token) {
	for depth := 0; ; token, _ = d.next() {
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return
		}
	}
}

var durationType = reflect.TypeFor[time.Duration]()

func (d *decoder) value(path string, v reflect.Value) {
	token, at := d.next()
	kind, done := v.Kind(), false
	switch token := token.(type) {
	case nil:
		d.refusef(at, path, "null is no value: leave it out")
		done = true
	case bool:
		if done = kind == reflect.Bool; done {
			v.SetBool(token)
		}
	case json.Number:
		done = d.number(at, path, v, token.String())
	case string:
		done = d.string(at, path, v, token)
	case json.Delim:
		switch {
		case token == '{' && kind == reflect.Struct:
			d.fields(path, v)
			done = true
		case token == '{' && kind == reflect.Map:
			d.entries(path, v)
			done = true
		case token == '[' && kind == reflect.Slice:
			d.elements(path, v)
			done = true
		}
	}
	if !done {
		d.refusef(at, path, "must be %s, not %s", describeType(v.Type()), describeToken(token))
		d.skip(token)
	}
}

func (d *decoder) number(at int64, path string, v reflect.Value, number string) bool {
	var err error
	switch {
	case v.Type() == durationType:
		if _, err := time.ParseDuration(number + "s"); err != nil {
			return false
		}
		d.refusef(at, path, `%.40s has no unit: write "%[1]ss" for seconds, "%[1]sms" for milliseconds`, number)
		return true
	case v.CanInt():
		var i int64
		i, err = strconv.ParseInt(number, 10, v.Type().Bits())
		v.SetInt(i)
	case v.CanFloat():
		var f float64
		f, err = strconv.ParseFloat(number, 64)
		v.SetFloat(f)
	default:
		return false
	}
	switch {
	case errors.Is(err, strconv.ErrRange):
		d.refusef(at, path, "%.40s is out of range", number)
	case err != nil:
		d.refusef(at, path, "%.40s is not a whole number in digits", number)
	}
	return true
}

func (d *decoder) string(at int64, path string, v reflect.Value, s string) bool {
	if v.Type() == durationType {
		duration, err := time.ParseDuration(s)
		if err != nil {
			d.refusef(at, path, `%.40q is not a duration, such as "2s" or "1m30s"`, s)
		}
		v.SetInt(int64(duration))
		return true
	}
	if v.Kind() != reflect.String && !isStrings(v.Type()) {
		return false
	}
	if strings.ContainsRune(s, utf8.RuneError) {
		d.refusef(at, path, `a \u escape in it is no character`)
		return true
	}
	s, err := d.expand(path, s)
	if err != nil {
		d.refuse(at, path, err)
		return true
	}
	if isStrings(v.Type()) {
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		v = v.Index(0)
	}
	v.SetString(s)
	return true
}

func (d *decoder) elements(path string, v reflect.Value) {
	v.Set(reflect.MakeSlice(v.Type(), 0, 0)) // [] is not nil
	for i := 0; d.tokens.More(); i++ {
		element := reflect.New(v.Type().Elem()).Elem()
		d.value(fmt.Sprintf("%s[%d]", path, i), element)
		v.Set(reflect.Append(v, element))
	}
	d.next()
}

func (d *decoder) entries(path string, v reflect.Value) {
	v.Set(reflect.MakeMap(v.Type()))
	d.members(path, func(_ int64, path, name string) {
		element := reflect.New(v.Type().Elem()).Elem()
		d.value(path, element)
		v.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), element)
	})
}

func (d *decoder) fields(path string, v reflect.Value) {
	fields := fieldsOf(v.Type())
	d.members(path, func(at int64, path, name string) {
		field, known := fields[name]
		if known && decodable(field.Type) {
			d.value(path, v.FieldByIndex(field.Index))
			return
		}
		if known {
			d.refusef(at, path, "is set in code, not in a file")
		} else {
			d.refusef(at, path, "unknown field%s", suggest(name, fields))
		}
		d.skip(nil)
	})
}

// members calls member for each name in an object, which must pass over the
// name's value.
func (d *decoder) members(path string, member func(at int64, path, name string)) {
	seen := make(map[string]int64)
	for d.tokens.More() {
		token, at := d.next()
		name, _ := token.(string)
		memberPath := join(path, name)
		if first, again := seen[name]; again {
			line, column := d.place(first)
			d.refusef(at, memberPath, "is given twice, first at %d:%d", line, column)
			d.skip(nil)
			continue
		}
		seen[name] = at
		member(at, memberPath, name)
	}
	d.next()
}
