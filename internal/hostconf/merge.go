package hostconf

import (
	"cmp"
	"slices"
)

// takeOut returns edited without what turned before into ours: the file as it
// was before us, with what others changed since. It is a three-way merge by lines.
// Where others changed lines of ours, theirs cannot be told from ours: there the
// old lines stand, and clean is false.
func takeOut(before, ours, edited []byte) (merged []byte, clean bool) {
	base := lines(ours)
	back, theirs := hunks(base, lines(before)), hunks(base, lines(edited))
	clean = true
	all := back
	for _, h := range theirs {
		switch {
		case slices.ContainsFunc(back, h.equal):
		case slices.ContainsFunc(back, h.overlaps):
			clean = false
		default:
			all = append(all, h)
		}
	}
	// What was put above ours comes before it, what was put below it behind; our own
	// hunks are first in all, and stay first among equals.
	slices.SortStableFunc(all, func(a, b hunk) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	var text []string
	at := 0
	for _, h := range all {
		text = append(append(text, base[at:h.from]...), h.text...)
		at = h.to
	}
	text = append(text, base[at:]...)
	for _, line := range text {
		if len(merged) > 0 && merged[len(merged)-1] != '\n' {
			merged = append(merged, '\n') // it was the last line of one, and is none any more
		}
		merged = append(merged, line...)
	}
	return merged, clean
}

// hunk says that the lines from up to to become others.
type hunk struct {
	from, to int
	text     []string
}

func (h hunk) equal(o hunk) bool {
	return h.from == o.from && h.to == o.to && slices.Equal(h.text, o.text)
}

// overlaps says whether two hunks are about the same lines; to touch is not that.
func (h hunk) overlaps(o hunk) bool { return h.from < o.to && o.from < h.to }

// hunks is what turns a into b.
func hunks(a, b []string) []hunk {
	to := match(a, b)
	var out []hunk
	for i, j := 0, 0; i < len(a) || j < len(b); {
		ni := i
		for ni < len(a) && to[ni] < 0 {
			ni++
		}
		nj := len(b)
		if ni < len(a) {
			nj = to[ni]
		}
		if ni > i || nj > j {
			out = append(out, hunk{i, ni, b[j:nj]})
		}
		i, j = ni+1, nj+1
	}
	return out
}

// lines splits a text; each line keeps its end.
func lines(b []byte) []string {
	var out []string
	for start, i := 0, 0; i < len(b); i++ {
		if b[i] == '\n' || i == len(b)-1 {
			out = append(out, string(b[start:i+1]))
			start = i + 1
		}
	}
	return out
}

// match says for each line of a which line of b it is, -1 if none: a longest
// common subsequence. Files of network configuration are short; what is longer
// than a thousand lines between the first and the last difference counts as
// changed as a whole.
func match(a, b []string) []int {
	to := make([]int, len(a))
	for i := range to {
		to[i] = -1
	}
	first := 0
	for first < len(a) && first < len(b) && a[first] == b[first] {
		to[first] = first
		first++
	}
	ea, eb := len(a), len(b)
	for ea > first && eb > first && a[ea-1] == b[eb-1] {
		ea, eb = ea-1, eb-1
		to[ea] = eb
	}
	n, m := ea-first, eb-first
	if n > 1000 || m > 1000 {
		return to
	}
	length := make([][]int, n+1)
	for i := range length {
		length[i] = make([]int, m+1)
	}
	for i := n - 1; i >= 0; i-- {
		for j := m - 1; j >= 0; j-- {
			if a[first+i] == b[first+j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	for i, j := 0, 0; i < n && j < m; {
		switch {
		case a[first+i] == b[first+j]:
			to[first+i] = first + j
			i, j = i+1, j+1
		case length[i+1][j] >= length[i][j+1]:
			i++
		default:
			j++
		}
	}
	return to
}
