package topology

import (
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// clean keeps names that guests chose from steering a terminal or breaking a
// file: whatever is no printable character becomes '?', those that turn the
// direction of writing among them.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}

// cells is how much of a terminal's line a text takes: two for East Asian wide
// characters and pictures (UAX 11), none for combining marks.
func cells(s string) int {
	n := 0
	for _, r := range s {
		n += cellsOf(r)
	}
	return n
}

func cellsOf(r rune) int {
	if r < 0x300 {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	if k := width.LookupRune(r).Kind(); k == width.EastAsianWide || k == width.EastAsianFullwidth {
		return 2
	}
	return 1
}

// cut shortens a text to so many cells, with dots for what is missing. A wide
// character is kept whole or left out.
func cut(s string, most int, dots string) string {
	if cells(s) <= most {
		return s
	}
	if most < cells(dots) {
		return strings.Repeat(".", max(0, most))
	}
	left := most - cells(dots)
	for i, r := range s {
		if left -= cellsOf(r); left < 0 {
			return s[:i] + dots
		}
	}
	return s
}

// ascii puts '?' for every cell of what is no character of ASCII.
func ascii(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r < 0x80 {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Repeat("?", cellsOf(r)))
		}
	}
	return b.String()
}
