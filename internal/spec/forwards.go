package spec

import (
	"encoding/json"
	"iter"
	"slices"
	"sort"
)

// Forwards is a list of forwards in the order of Forward.Compare. It is a value:
// With and Without return a list that shares with this one all that did not
// change, so that one of thirty thousand forwards is changed, and seen to have
// changed, without a look at the others. The zero value is the empty list.
type Forwards struct {
	// runs are consecutive parts of the list, none of them empty. Their contents
	// are shared and never changed in place.
	runs   [][]Forward
	length int
}

// longestRun is how many forwards are copied at most when one changes.
const longestRun = 256

// MakeForwards makes a list of forwards in any order.
func MakeForwards(list ...Forward) Forwards {
	list = slices.Clone(list)
	slices.SortStableFunc(list, Forward.Compare)
	out := Forwards{length: len(list)}
	for run := range slices.Chunk(list, longestRun) {
		out.runs = append(out.runs, slices.Clip(run))
	}
	return out
}

// Len is how many there are.
func (l Forwards) Len() int { return l.length }

// All yields them in order.
func (l Forwards) All() iter.Seq[Forward] {
	return func(yield func(Forward) bool) {
		for _, run := range l.runs {
			for i := range run {
				if !yield(run[i]) {
					return
				}
			}
		}
	}
}

// List returns them as a slice of its own.
func (l Forwards) List() []Forward { return slices.Concat(l.runs...) }

// place finds where the forward of f's key is, or would be: the run, and the place
// in it, which may be its end.
func (l Forwards) place(f Forward) (run, at int, found bool) {
	run = sort.Search(len(l.runs), func(i int) bool { return l.runs[i][len(l.runs[i])-1].Compare(f) >= 0 })
	if run == len(l.runs) {
		if run == 0 {
			return 0, 0, false
		}
		return run - 1, len(l.runs[run-1]), false
	}
	at, found = slices.BinarySearchFunc(l.runs[run], f, Forward.Compare)
	return run, at, found
}

// Find finds the forward of f's key.
func (l Forwards) Find(f Forward) (Forward, bool) {
	run, at, found := l.place(f)
	if !found {
		return Forward{}, false
	}
	return l.runs[run][at], true
}

// With returns the list with f, in place of one of the same key.
func (l Forwards) With(f Forward) Forwards {
	run, at, found := l.place(f)
	if len(l.runs) == 0 {
		return MakeForwards(f)
	}
	old := l.runs[run]
	fresh := append(make([]Forward, 0, len(old)+1), old[:at]...)
	fresh = append(fresh, f)
	length := l.length + 1
	if found {
		at, length = at+1, l.length
	}
	fresh = append(fresh, old[at:]...)
	parts := [][]Forward{fresh}
	if half := len(fresh) / 2; len(fresh) > longestRun {
		parts = [][]Forward{slices.Clip(fresh[:half]), fresh[half:]}
	}
	return Forwards{l.replaced(run, parts...), length}
}

// Without returns the list without the forward of f's key.
func (l Forwards) Without(f Forward) Forwards {
	run, at, found := l.place(f)
	if !found {
		return l
	}
	old := l.runs[run]
	if len(old) == 1 {
		return Forwards{l.replaced(run), l.length - 1}
	}
	return Forwards{l.replaced(run, slices.Concat(old[:at], old[at+1:])), l.length - 1}
}

func (l Forwards) replaced(run int, by ...[]Forward) [][]Forward {
	return slices.Concat(l.runs[:run], by, l.runs[run+1:])
}

// cursor walks a list.
type cursor struct {
	runs [][]Forward
	at   int
}

func (c *cursor) next() *Forward {
	if len(c.runs) == 0 {
		return nil
	}
	return &c.runs[0][c.at]
}

func (c *cursor) step() {
	if c.at++; c.at == len(c.runs[0]) {
		c.runs, c.at = c.runs[1:], 0
	}
}

// skipShared moves both behind the runs that they share.
func skipShared(a, b *cursor) {
	for a.at == 0 && b.at == 0 && len(a.runs) > 0 && len(b.runs) > 0 &&
		&a.runs[0][0] == &b.runs[0][0] && len(a.runs[0]) == len(b.runs[0]) {
		a.runs, b.runs = a.runs[1:], b.runs[1:]
	}
}

// Changes yields what differs between l and a later list: old is nil for a
// forward that is new, now for one that is gone. They must not be written to.
func (l Forwards) Changes(later Forwards) iter.Seq2[*Forward, *Forward] {
	return func(yield func(old, now *Forward) bool) {
		a, b := &cursor{runs: l.runs}, &cursor{runs: later.runs}
		for {
			skipShared(a, b)
			old, now := a.next(), b.next()
			if old == nil && now == nil {
				return
			}
			if old != nil && now != nil {
				switch order := old.Compare(*now); {
				case order < 0:
					now = nil
				case order > 0:
					old = nil
				}
			}
			if old != nil {
				a.step()
			}
			if now != nil {
				b.step()
			}
			if old != nil && now != nil && old.Equal(*now) {
				continue
			}
			if !yield(old, now) {
				return
			}
		}
	}
}

// Equal compares by value.
func (l Forwards) Equal(o Forwards) bool {
	if l.length != o.length {
		return false
	}
	for range l.Changes(o) {
		return false
	}
	return true
}

// MarshalJSON writes a list; null if it is empty.
func (l Forwards) MarshalJSON() ([]byte, error) { return json.Marshal(l.List()) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (l *Forwards) UnmarshalJSON(b []byte) error {
	var list []Forward
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	*l = MakeForwards(list...)
	return nil
}
