package topology

import (
	"slices"
	"strings"
	"testing"

	"drawbridge/internal/host"
)

// What an uplink carries is seen on it, as on a guest's port, where the bridge
// tells VLANs apart; a VLAN interface is its VLAN.
func TestVLANsOfUplinks(t *testing.T) {
	in := bridged()
	br := in.State[host.LinkKey("br0")].(host.Link)
	nic := in.State[host.LinkKey("enp6s18")].(host.Link)
	for _, c := range []struct {
		vlans  string
		filter bool
		want   []string
	}{
		{"1 pvid untagged, 30, 40-49", true, []string{"1", "30,40-49 tagged"}},
		{"1 pvid untagged, 30, 40-49", false, nil},
		{"7 pvid untagged", true, []string{"7"}},
		{host.NoVLANs, true, []string{"no VLAN"}},
		{"", true, nil},
	} {
		br.Filter, nic.VLANs = c.filter, c.vlans
		in.State.Add(br)
		in.State.Add(nic)
		g := Layout(Build(in), Options{})
		if got := g.Node("nic:enp6s18").VLANs; !slices.Equal(got, c.want) {
			t.Errorf("%q, filtering %v: %q, want %q", c.vlans, c.filter, got, c.want)
		}
		text := ""
		for _, l := range Text(g, Page{}) {
			text += l.String() + "\n"
		}
		if want := strings.Join(c.want, ","); !strings.Contains(text, want) || !strings.Contains(SVG(g), cut(want, 12, "…")) {
			t.Errorf("%q is not in the drawings:\n%s", want, text)
		}
	}
	tagged := in.State[host.LinkKey("enp6s18")].(host.Link)
	tagged.Type, tagged.VID, tagged.Name = host.TypeVLAN, 12, "enp6s18.12"
	in.State.Add(tagged)
	if got := Build(in).Node("nic:enp6s18.12").VLANs; !slices.Equal(got, []string{"12"}) {
		t.Errorf("a VLAN interface says %q", got)
	}
}
