package topology

import (
	"strings"
	"testing"
)

// TestDoorsMoveByTheirName: a door that moves from the NIC to the host beside it goes from
// the one and comes to the other, by its own name each time.
func TestDoorsMoveByTheirName(t *testing.T) {
	before, after := change()
	before.Forwards = after.Forwards
	var text []string
	for _, l := range Text(Compare(Build(before), Build(after)), Page{Width: 100}) {
		if s := l.String(); strings.Contains(s, "8080 → web-01:80") {
			text = append(text, strings.TrimSpace(s[:strings.IndexAny(s, " ")]))
		} else if strings.Contains(s, "see above") && !strings.Contains(s, "NAT") {
			t.Errorf("something moved without its name: %s", s)
		}
	}
	if got := strings.Join(text, " "); got != "− +" {
		t.Errorf("doors are marked %q", got)
	}
}
