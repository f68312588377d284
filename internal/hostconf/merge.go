package hostconf

import "slices"

// takeOut returns edited without what turned before into ours: the file as it
// was before us, with what others changed since. It is a three-way merge by lines.
// Where others changed lines of ours, theirs cannot be told from ours: there the
// old lines stand, and clean is false.
func takeOut(before, ours, edited []byte) (merged []byte, clean bool) {
	base, left, right := lines(ours), lines(before), lines(edited)
	toLeft, toRight := match(base, left), match(base, right)
	var out []byte
	clean = true
	b, l, r := 0, 0, 0
	for {
		// The next line that all three have ends a part in which they differ.
		nb := b
		for nb < len(base) && (toLeft[nb] < l || toRight[nb] < r) {
			nb++
		}
		nl, nr := len(left), len(right)
		if nb < len(base) {
			nl, nr = toLeft[nb], toRight[nb]
		}
		was, old, now := base[b:nb], left[l:nl], right[r:nr]
		chosen := old
		switch {
		case slices.Equal(was, now), slices.Equal(old, now):
		case slices.Equal(was, old):
			chosen = now
		case len(now) > len(was) && slices.Equal(was, now[:len(was)]):
			chosen = slices.Concat(old, now[len(was):]) // something was put below ours
		case len(now) > len(was) && slices.Equal(was, now[len(now)-len(was):]):
			chosen = slices.Concat(now[:len(now)-len(was)], old)
		default:
			clean = false
		}
		for _, line := range chosen {
			out = append(out, line...)
		}
		if nb == len(base) {
			return out, clean
		}
		out = append(out, base[nb]...)
		b, l, r = nb+1, nl+1, nr+1
	}
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
