package rest

import (
	"fmt"
	"reflect"
	"strings"

	"drawbridge/internal/host"
)

// describe says what a resource is like, or what of it changes, in one line:
// "mtu 1500, up" or "mtu 1500 -> 1400". What is named by the key already, and
// what is zero, is left out. It works for every kind, by the names of fields.
func describe(before, after host.Resource) string {
	if before != nil && after != nil {
		return differences(reflect.ValueOf(before), reflect.ValueOf(after))
	}
	r, key := after, ""
	if r == nil {
		return ""
	}
	key = " " + strings.ReplaceAll(r.Key().Name, "/", " ") + " "
	var parts []string
	v := reflect.ValueOf(r)
	for i := range v.NumField() {
		f := v.Field(i)
		text := fieldText(f)
		if f.IsZero() || text == "" || strings.Contains(key, " "+text+" ") {
			continue
		}
		parts = append(parts, attribute(v.Type().Field(i).Name, f, text))
	}
	return strings.Join(parts, ", ")
}

func attribute(name string, f reflect.Value, text string) string {
	if f.Kind() == reflect.Bool {
		return word(name)
	}
	return word(name) + " " + text
}

func differences(a, b reflect.Value) string {
	var parts []string
	for i := range a.NumField() {
		was, is := a.Field(i), b.Field(i)
		if was.Equal(is) {
			continue
		}
		parts = append(parts, fmt.Sprintf("%s %s -> %s", word(a.Type().Field(i).Name), orNone(fieldText(was)), orNone(fieldText(is))))
	}
	return strings.Join(parts, ", ")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// fieldText writes a value; text of several lines is counted.
func fieldText(f reflect.Value) string {
	text := fmt.Sprint(f.Interface())
	if strings.HasPrefix(text, "invalid ") { // a netip value that is unset
		return ""
	}
	if lines := strings.Count(strings.TrimSpace(text), "\n"); lines > 0 {
		return fmt.Sprintf("%d lines", lines+1)
	}
	return text
}

// word turns the name of a field into words: LeaseSeconds is "lease seconds",
// MTU is "mtu", NoDAD is "no dad".
func word(name string) string {
	var b strings.Builder
	for i, r := range name {
		upper := r >= 'A' && r <= 'Z'
		if upper && i > 0 && name[i-1] >= 'a' && name[i-1] <= 'z' {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}
