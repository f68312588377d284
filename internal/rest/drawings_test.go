package rest

import (
	"net/netip"
	"strings"
	"testing"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/spec"
	"drawbridge/internal/topology"
)

// TestDrawingsAreOfWhatIsSeen: a drawing is made once for each picture, and anew for all
// that it shows.
func TestDrawingsAreOfWhatIsSeen(t *testing.T) {
	nat := spec.Network{Name: "default", Mode: "nat", Bridge: "virbr0", Started: true}
	v := engine.View{
		Same: 1, Document: spec.Document{Networks: map[spec.NetworkName]spec.Network{"default": nat}},
		State: host.NewState(host.Link{Name: "virbr0", Type: host.TypeBridge, Up: true}, host.Link{Name: "vnet0", Type: host.TypeTap, Up: true, Master: "virbr0"}),
		Ports: []engine.Port{{Network: "default", Bridge: "virbr0", Tap: "vnet0", Guest: "web"}},
		Links: map[string]engine.Counters{"virbr0": {}, "vnet0": {RxBytes: 1}},
	}
	doors := []engine.ForwardView{{Network: "default", Forward: spec.Forward{Proto: spec.TCP, First: 8080, Last: 8080, Target: "web", TargetPort: 80}, Guest: "web", Waiting: "no guest web has an address yet"}}
	var findings []topology.Finding
	var d drawings
	text := Drawn{Draw: "text", Width: 100}
	draw := func(how Drawn) api.Topology { return d.draw(how, v, doors, findings) }
	words := func() string {
		var b strings.Builder
		for _, l := range draw(text).Lines {
			for _, s := range l.Spans {
				b.WriteString(s.Text)
			}
			b.WriteByte('\n')
		}
		return b.String()
	}
	last := words()
	if again := draw(text); &again.Lines[0] != &draw(text).Lines[0] {
		t.Error("the same picture is drawn twice")
	}
	for _, l := range draw(Drawn{Draw: "text", Width: 100, ASCII: true}).Lines {
		for _, s := range l.Spans {
			if strings.ContainsFunc(s.Text, func(r rune) bool { return r > 126 }) {
				t.Errorf("in ASCII the drawing has %q", s.Text)
			}
		}
	}
	for _, c := range []struct {
		what, shows string
		change      func()
	}{
		{"a guest's name", "other", func() {
			v.Same, v.Ports = 2, []engine.Port{{Network: "default", Bridge: "virbr0", Tap: "vnet0", Guest: "other"}}
		}},
		{"a door that leads somewhere", "web", func() { doors[0].Waiting, doors[0].Address = "", netip.MustParseAddr("192.168.122.9") }},
		{"a finding", "forwarding-off", func() {
			findings = []topology.Finding{{ID: "x:vnet0", Code: "forwarding-off", Severity: "fault", Link: "vnet0", Text: "forwarding is off"}}
		}},
		{"no finding", "", func() { findings = nil }},
	} {
		c.change()
		now := words()
		if now == last || !strings.Contains(now, c.shows) {
			t.Errorf("after %s the drawing is\n%s", c.what, now)
		}
		last = now
	}
	v.Links["vnet0"] = engine.Counters{RxBytes: 1234}
	for _, n := range draw(Drawn{Draw: "graph"}).Nodes {
		if n.ID == "port:vnet0" && n.TxBytes != 1234 {
			t.Errorf("the graph counts %d bytes", n.TxBytes)
		}
	}
}

// A forward's guest is that of the first port of its network that it means, by name,
// hardware address or address.
func TestGuestOfAForward(t *testing.T) {
	ports := []engine.Port{
		{Network: "lab", Guest: "web", MAC: "52:54:00:00:00:01", Addresses: []string{"10.9.0.2"}},
		{Network: "default", Guest: "web", MAC: "52:54:00:00:00:02", Addresses: []string{"192.168.122.2", "fd00::2"}},
		{Network: "default", Guest: "", MAC: "52:54:00:00:00:03"},
		{Network: "default", Guest: "db", MAC: "52:54:00:00:00:04", Addresses: []string{"192.168.122.2"}},
	}
	for _, c := range []struct{ target, address, want string }{
		{"web", "", "web"}, {"52:54:00:00:00:04", "", "db"}, {"52:54:00:00:00:03", "", ""}, {"192.168.122.2", "192.168.122.2", "web"},
		{"db", "192.168.122.2", "web"}, {"other", "fd00::2", "web"}, {"other", "", ""}, {"10.9.0.2", "10.9.0.2", ""},
	} {
		f := engine.ForwardView{Network: "default", Forward: spec.Forward{Proto: spec.TCP, Target: c.target}}
		if c.address != "" {
			f.Address = netip.MustParseAddr(c.address)
		}
		if got := findersOf([]engine.ForwardView{f}, ports).guestOf(f); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
