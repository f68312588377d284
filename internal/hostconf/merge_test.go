package hostconf

import (
	"bytes"
	"testing"
)

func TestTakeOut(t *testing.T) {
	for _, c := range []struct {
		name, before, ours, edited, want string
		unclean                          bool
	}{
		{name: "untouched", before: "a\nb\n", ours: "a\nX\nb\n", edited: "a\nX\nb\n", want: "a\nb\n"},
		{name: "line added elsewhere", before: "a\nb\nc\n", ours: "a\nX\nc\n", edited: "a\nX\nc\nd\n", want: "a\nb\nc\nd\n"},
		{name: "line changed elsewhere", before: "a\nb\nc\nd\n", ours: "X\nb\nc\nd\n", edited: "X\nb\nc\nD\n", want: "a\nb\nc\nD\n"},
		{name: "our line changed", before: "a\nb\nc\n", ours: "a\nX\nc\n", edited: "a\nXX\nc\n", want: "a\nb\nc\n", unclean: true},
		{name: "put back by hand", before: "a\nb\n", ours: "a\nX\nb\n", edited: "a\nb\n", want: "a\nb\n"},
		{name: "emptied", before: "a\nb\n", ours: "a\nX\n", edited: "", want: "a\nb\n", unclean: true},
		{name: "end of line added next to ours", before: "a\nb", ours: "X\nb", edited: "X\nb\nc", want: "a\nb\nc"},
		{name: "line put below ours, which had no end before", before: "a", ours: "X\n", edited: "X\nz\n", want: "a\nz\n"},
		{name: "line changed right below ours", before: "b\nc\n", ours: "X\nb\nc\n", edited: "X\nB\nc\n", want: "B\nc\n"},
		{name: "line put into ours", before: "c\n", ours: "X\nY\nc\n", edited: "X\nz\nY\nc\n", want: "c\n", unclean: true},
		{name: "line put above ours", before: "a\nc\n", ours: "a\nX\nc\n", edited: "a\nz\nX\nc\n", want: "a\nz\nc\n"},
		{name: "all was ours", before: "", ours: "X\nY\n", edited: "X\nY\nz\n", want: "z\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, clean := takeOut([]byte(c.before), []byte(c.ours), []byte(c.edited))
			if string(got) != c.want || clean == c.unclean {
				t.Errorf("takeOut = %q, clean %v; want %q, clean %v", got, clean, c.want, !c.unclean)
			}
		})
	}
}

// FuzzTakeOut holds it to three laws: what nobody edited becomes what it was;
// where we changed nothing, the edit stands; it never panics.
func FuzzTakeOut(f *testing.F) {
	f.Add("a\nb\n", "a\nX\nb\n", "a\nX\nb\nc\n")
	f.Fuzz(func(t *testing.T, before, ours, edited string) {
		takeOut([]byte(before), []byte(ours), []byte(edited))
		if got, clean := takeOut([]byte(before), []byte(ours), []byte(ours)); !clean || !bytes.Equal(got, []byte(before)) {
			t.Errorf("nothing edited: %q, %v, want %q", got, clean, before)
		}
		if got, clean := takeOut([]byte(ours), []byte(ours), []byte(edited)); !clean || !bytes.Equal(got, []byte(edited)) {
			t.Errorf("nothing of ours: %q, %v, want %q", got, clean, edited)
		}
	})
}
