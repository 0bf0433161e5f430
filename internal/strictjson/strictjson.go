// Package strictjson decodes configuration that people write. It refuses fields that are
// unknown, given twice, or of the wrong type, and says where in the document they are.
package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Error says what is wrong with a document, and where.
type Error struct {
	Line, Column int    // both count from 1; columns count bytes
	Path         string // such as targets[1].retry.max_attempts; empty for the document
	Err          error
}

func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%d:%d: %v", e.Line, e.Column, e.Err)
	}
	return fmt.Sprintf("%d:%d: %s: %v", e.Line, e.Column, e.Path, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Decode reads a document, which must be a single object, into the struct that v points
// to.
//
// The name of a field is its Go name in snake case. For example, MaxAttempts is
// max_attempts. The fields of embedded structs are on the same level as the others. A
// [time.Duration] is a string such as "2s". A list of strings can also be a single
// string. Fields that do not hold data, such as functions, are refused.
//
// Every string, except the keys of maps, is passed to expand together with its path, and
// replaced by the result. A byte order mark is ignored (RFC 8259, section 8.1). The error
// is an [*Error].
func Decode(document []byte, v any, expand func(path, s string) (string, error)) error {
	document = bytes.TrimPrefix(document, []byte("\ufeff"))
	d := &decoder{document: document, json: json.NewDecoder(bytes.NewReader(document)), expand: expand}
	d.json.UseNumber()
	return d.run(reflect.ValueOf(v).Elem())
}

type decoder struct {
	document []byte
	json     *json.Decoder
	expand   func(path, s string) (string, error)
}

func (d *decoder) run(v reflect.Value) error {
	if i := invalidUTF8(d.document); i >= 0 {
		return d.errorAt(int64(i), "", errors.New("not UTF-8"))
	}
	if err := d.value("", v); err != nil {
		return err
	}
	at := d.next()
	if _, err := d.json.Token(); !errors.Is(err, io.EOF) {
		return d.errorAt(at, "", errors.New("something follows the document"))
	}
	return nil
}

func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// token reads the next token and returns its offset.
func (d *decoder) token(path string) (json.Token, int64, error) {
	at := d.next()
	token, err := d.json.Token()
	switch {
	case err == nil:
		return token, at, nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, at, d.errorAt(int64(len(d.document)), path, errors.New("the document ends too early"))
	}
	// The offset in a json.SyntaxError is of no use: the decoder does not count all that
	// comes before, so the offset can lie anywhere within the token.
	return nil, at, d.errorAt(at, path, err)
}

// next returns the offset of the next token.
func (d *decoder) next() int64 {
	at := int(d.json.InputOffset())
	rest := bytes.TrimLeft(d.document[at:], " \t\r\n,:")
	return int64(len(d.document) - len(rest))
}

func (d *decoder) errorAt(offset int64, path string, err error) error {
	before := d.document[:min(offset, int64(len(d.document)))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := len(before) - (bytes.LastIndexByte(before, '\n') + 1) + 1
	return &Error{Line: line, Column: column, Path: path, Err: err}
}

var durationType = reflect.TypeFor[time.Duration]()

func (d *decoder) value(path string, v reflect.Value) error {
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	token, at, err := d.token(path)
	if err != nil {
		return err
	}
	switch {
	case token == nil:
		err = errors.New("null: leave it out instead")
	case token == json.Delim('{') && v.Kind() == reflect.Struct:
		return d.object(path, v)
	case token == json.Delim('{') && v.Kind() == reflect.Map:
		return d.mapping(path, v)
	case token == json.Delim('[') && v.Kind() == reflect.Slice:
		return d.list(path, v)
	default:
		err = d.scalar(path, token, v)
	}
	if err != nil {
		return d.errorAt(at, path, err)
	}
	return nil
}

func (d *decoder) scalar(path string, token json.Token, v reflect.Value) error {
	switch token := token.(type) {
	case string:
		return d.text(path, token, v)
	case bool:
		if v.Kind() == reflect.Bool {
			v.SetBool(token)
			return nil
		}
	case json.Number:
		return number(token, v)
	}
	return fmt.Errorf("must be %s", wanted(v))
}

func (d *decoder) text(path, s string, v reflect.Value) error {
	name, isName := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr())
	if !isName && v.Kind() != reflect.String && v.Type() != durationType && !isStrings(v.Type()) {
		return fmt.Errorf("must be %s", wanted(v))
	}
	if strings.ContainsRune(s, utf8.RuneError) {
		return errors.New("has U+FFFD, which stands for a character that was lost, or half of a \\u pair")
	}
	expanded, err := d.expand(path, s)
	if err != nil {
		return err
	}
	switch {
	case isName:
		return name.UnmarshalText([]byte(expanded))
	case v.Kind() == reflect.String:
		v.SetString(expanded)
		return nil
	case isStrings(v.Type()):
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		v.Index(0).SetString(expanded)
		return nil
	}
	duration, err := time.ParseDuration(expanded)
	if err != nil {
		return fmt.Errorf("%.40q is not %s", s, wanted(v))
	}
	v.SetInt(int64(duration))
	return nil
}

func number(n json.Number, v reflect.Value) error {
	switch {
	case v.Type() == durationType:
	case v.CanInt():
		if i, err := strconv.ParseInt(n.String(), 10, v.Type().Bits()); err == nil {
			v.SetInt(i)
			return nil
		}
	case v.CanUint():
		if u, err := strconv.ParseUint(n.String(), 10, v.Type().Bits()); err == nil {
			v.SetUint(u)
			return nil
		}
	case v.CanFloat():
		if f, err := n.Float64(); err == nil {
			v.SetFloat(f)
			return nil
		}
	}
	return fmt.Errorf("%.40s: must be %s", n, wanted(v))
}

func wanted(v reflect.Value) string {
	switch {
	case v.Type() == durationType:
		return `a duration such as "2s" or "1m30s"`
	case v.CanInt(), v.CanUint():
		return "a whole number"
	case v.CanFloat():
		return "a number"
	case isStrings(v.Type()):
		return "a string or a list of strings"
	}
	switch v.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list"
	default:
		return "an object"
	}
}

func (d *decoder) list(path string, v reflect.Value) error {
	list := reflect.MakeSlice(v.Type(), 0, 0)
	for d.json.More() {
		item := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(fmt.Sprintf("%s[%d]", path, list.Len()), item); err != nil {
			return err
		}
		list = reflect.Append(list, item)
	}
	v.Set(list)
	_, _, err := d.token(path)
	return err
}

func (d *decoder) mapping(path string, v reflect.Value) error {
	v.Set(reflect.MakeMap(v.Type()))
	return d.members(path, func(name, path string, _ int64) error {
		item := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(path, item); err != nil {
			return err
		}
		v.SetMapIndex(reflect.ValueOf(name), item)
		return nil
	})
}

func (d *decoder) object(path string, v reflect.Value) error {
	fields := fieldsOf(v.Type())
	return d.members(path, func(name, path string, at int64) error {
		index, ok := fields[name]
		if !ok {
			return d.errorAt(at, path, unknown(name, fields, v.Type()))
		}
		return d.value(path, v.FieldByIndex(index))
	})
}

// members calls decode for every member of an object. decode must read the member's
// value.
func (d *decoder) members(path string, decode func(name, path string, at int64) error) error {
	seen := map[string]bool{}
	for d.json.More() {
		token, at, err := d.token(path)
		if err != nil {
			return err
		}
		name, _ := token.(string)
		inner := join(path, name)
		if seen[name] {
			return d.errorAt(at, inner, errors.New("given twice"))
		}
		seen[name] = true
		if err := decode(name, inner, at); err != nil {
			return err
		}
	}
	_, _, err := d.token(path)
	return err
}
