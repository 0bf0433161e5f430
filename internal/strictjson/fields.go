package strictjson

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// fieldsOf are the fields of a struct that hold data, by their names in snake
// case, as indices for [reflect.Value.FieldByIndex].
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
	case reflect.Func, reflect.Interface, reflect.Pointer, reflect.Chan:
		return false
	default:
		return true
	}
}

func snakeCase(name string) string {
	var b strings.Builder
	lower := false // the letter before
	for _, r := range name {
		if unicode.IsUpper(r) && lower {
			b.WriteByte('_')
		}
		lower = unicode.IsLower(r)
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func unknown(name string, fields map[string][]int) error {
	known := slices.Sorted(maps.Keys(fields))
	for _, k := range known {
		if alike(name, k) {
			return fmt.Errorf("unknown field; did you mean %q?", k)
		}
	}
	return fmt.Errorf("unknown field; known are %s", strings.Join(known, ", "))
}

// alike forgives case, separators and a missing or superfluous end.
func alike(a, b string) bool {
	plain := func(s string) string {
		return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(s))
	}
	a, b = plain(a), plain(b)
	return len(a) > 2 && (strings.HasPrefix(a, b) || strings.HasPrefix(b, a))
}
