package strictjson

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// fieldsOf returns the fields of a struct that hold data, by their names in snake case.
// The values are indices for [reflect.Value.FieldByIndex].
func fieldsOf(t reflect.Type) map[string][]int {
	fields := map[string][]int{}
	for _, f := range reflect.VisibleFields(t) {
		if f.IsExported() && !f.Anonymous && holdsData(f.Type) {
			fields[snakeCase(f.Name)] = f.Index
		}
	}
	return fields
}

func holdsData(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Func, reflect.Interface, reflect.Chan:
		return false
	case reflect.Pointer: // to a struct, which may have pointers to its own type
		return slices.ContainsFunc(reflect.VisibleFields(t.Elem()), func(f reflect.StructField) bool {
			return f.Type.Kind() != reflect.Pointer && holdsData(f.Type)
		})
	default:
		return true
	}
}

func snakeCase(name string) string {
	var b strings.Builder
	lower := false // whether the letter before is in lower case
	for _, r := range name {
		if unicode.IsUpper(r) && lower {
			b.WriteByte('_')
		}
		lower = unicode.IsLower(r)
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func isStrings(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String
}

var plain = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// join adds a name to a path. The path stays one short line.
func join(path, name string) string {
	if !plain.MatchString(name) {
		return fmt.Sprintf("%s[%.40q]", path, name)
	}
	return strings.TrimPrefix(path+"."+name, ".")
}

func unknown(name string, fields map[string][]int, t reflect.Type) error {
	for _, f := range reflect.VisibleFields(t) {
		if f.IsExported() && !holdsData(f.Type) && snakeCase(f.Name) == name {
			return errors.New("is set in code, not in a file")
		}
	}
	known := slices.Sorted(maps.Keys(fields))
	for _, k := range known {
		if alike(name, k) {
			return fmt.Errorf("unknown field; did you mean %q?", k)
		}
	}
	return fmt.Errorf("unknown field; known are %s", strings.Join(known, ", "))
}

// alike reports whether two names differ only in case, in separators, or in their end.
func alike(a, b string) bool {
	plain := func(s string) string {
		return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(s))
	}
	a, b = plain(a), plain(b)
	return len(a) > 2 && (strings.HasPrefix(a, b) || strings.HasPrefix(b, a))
}
