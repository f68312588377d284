package spec

import (
	"fmt"
	"slices"
	"strings"
)

// missing is ErrNotFound for something that is called by name, with the name that may
// be meant among those that there are.
func missing(kind, name string, there []string) error {
	return fmt.Errorf("%s %q: %w%s", kind, name, ErrNotFound, Meant(name, there))
}

// Meant is what to add to the news that there is no such name: "; is it web?" if one
// or two of those that there are differ from it by a slip of the fingers, else "".
func Meant(name string, there []string) string {
	var near []string
	for _, other := range there {
		if other != name && slips(strings.ToLower(name), strings.ToLower(other)) <= min(2, len(name)/2) {
			near = append(near, other)
		}
	}
	slices.Sort(near)
	near = slices.Compact(near)
	if len(near) == 0 || len(near) > 2 {
		return ""
	}
	return "; is it " + strings.Join(near, " or ") + "?"
}

// slips counts the letters to add, leave out, change, or swap with their neighbour in
// order to make b of a.
func slips(a, b string) int {
	if len(a) > 64 || len(b) > 64 { // longer than any name
		return len(a) + len(b)
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			rows[i][j] = min(change, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
