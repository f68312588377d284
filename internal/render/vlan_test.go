package render

import (
	"errors"
	"strings"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
)

func TestMembersAndBack(t *testing.T) {
	for text, tags := range map[string]spec.Tags{
		"":                           {},
		"30 pvid untagged":           {VLAN: 30},
		"30, 40-49":                  {Trunk: "30,40-49"},
		"1 pvid untagged, 30, 40-49": {VLAN: 1, Trunk: "30,40-49"},
		"29, 30 pvid untagged, 31":   {VLAN: 30, Trunk: "29,31"},
	} {
		if got := Members(tags); got != text {
			t.Errorf("%+v: %q, want %q", tags, got, text)
		}
		if got := TagsOf(host.Link{VLANs: text}); got != tags {
			t.Errorf("%q: %+v, want %+v", text, got, tags)
		}
	}
	// What every port is in is no VLAN to speak of.
	if Members(spec.Tags{VLAN: 1}) != "" {
		t.Errorf("VLAN 1 is %q", Members(spec.Tags{VLAN: 1}))
	}
}

var tellsApart = host.Feature{Name: host.BridgeVLANs}

// running is the host after the move of enp6s18 into br0.
func running(edit func(br, nic *host.Link), more ...host.Resource) Facts {
	br := host.Link{Name: "br0", Type: host.TypeBridge, MAC: "02:00:00:00:00:66", MTU: 1500, Up: true}
	nic := host.Link{Name: "enp6s18", Type: "veth", MAC: "02:00:00:00:00:66", MTU: 1500, Up: true, Master: "br0"}
	edit(&br, &nic)
	seen := host.NewState(br, nic, tellsApart)
	seen.Add(more...)
	return Facts{Seen: seen, KernelIPv6: true}
}

func asIs(*host.Link, *host.Link) {}

func runningLAN(tags spec.Tags) spec.Network {
	return theLAN(func(n *spec.Network) { n.Bridge, n.MAC, n.Tags = "br0", "02:00:00:00:00:66", tags })
}

// linksAfter are the links of a wish over those that are seen.
func linksAfter(t *testing.T, f Facts, n spec.Network) (br, nic host.Link, p plan.Plan) {
	t.Helper()
	w, _, err := Wish(doc(n), f)
	if err != nil {
		t.Fatal(err)
	}
	br, nic = f.Seen[host.LinkKey("br0")].(host.Link), f.Seen[host.LinkKey("enp6s18")].(host.Link)
	if l, ok := w.Given[br.Key()].(host.Link); ok {
		br = l
	}
	if l, ok := w.Given[nic.Key()].(host.Link); ok {
		nic = l
	}
	p, err = plan.Make(host.Wish{Present: host.State{}, Given: w.Given}, host.Ledger{}, f.Seen)
	if err != nil {
		t.Fatal(err)
	}
	return br, nic, p
}

func TestUplinksAreTrunks(t *testing.T) {
	thirty := spec.Tags{VLAN: 30}
	own := host.Link{Name: "br0.40", Type: host.TypeVLAN, MAC: "02:00:00:00:00:66", Lower: "br0", VID: 40, Up: true}
	for name, c := range map[string]struct {
		f        Facts
		had      spec.Tags
		want     spec.Tags
		ports    []spec.Tags
		filter   bool
		br, nic  string
		risk     plan.Risk
		noChange bool
	}{
		"nobody asks":            {f: running(asIs), noChange: true, risk: plan.RiskNone},
		"begins":                 {f: running(asIs), want: thirty, filter: true, nic: "1 pvid untagged, 30", risk: plan.RiskGuest},
		"trunk":                  {f: running(asIs), want: spec.Tags{Trunk: "30,40-41"}, filter: true, nic: "1 pvid untagged, 30, 40-41", risk: plan.RiskGuest},
		"a port asks":            {f: running(asIs), ports: []spec.Tags{{VLAN: 50}, {Trunk: "60-61"}}, filter: true, nic: "1 pvid untagged, 50, 60-61", risk: plan.RiskGuest},
		"without tags only":      {f: running(asIs), want: spec.Tags{VLAN: 1, Trunk: "9"}, filter: true, nic: "1 pvid untagged, 9", risk: plan.RiskGuest},
		"the host's own VLAN":    {f: running(asIs, own), want: thirty, filter: true, br: "1 pvid untagged, 40", nic: "1 pvid untagged, 30, 40", risk: plan.RiskGuest},
		"as it is":               {f: running(func(b, n *host.Link) { b.Filter, n.VLANs = true, "1 pvid untagged, 30" }), had: thirty, want: thirty, filter: true, nic: "1 pvid untagged, 30", noChange: true, risk: plan.RiskNone},
		"put back":               {f: running(func(b, n *host.Link) { b.Filter = true }), had: thirty, want: thirty, filter: true, nic: "1 pvid untagged, 30", risk: plan.RiskGuest},
		"more of others stays":   {f: running(func(b, n *host.Link) { b.Filter, n.VLANs = true, "5 pvid untagged, 77" }), had: thirty, want: thirty, filter: true, nic: "5 pvid untagged, 30, 77", risk: plan.RiskGuest},
		"another VLAN":           {f: running(func(b, n *host.Link) { b.Filter, n.VLANs = true, "1 pvid untagged, 30" }), had: thirty, want: spec.Tags{VLAN: 31}, filter: true, nic: "1 pvid untagged, 31", risk: plan.RiskGuest},
		"another, a port stays":  {f: running(func(b, n *host.Link) { b.Filter, n.VLANs = true, "1 pvid untagged, 30" }), had: thirty, want: spec.Tags{VLAN: 31}, ports: []spec.Tags{{VLAN: 30}}, filter: true, nic: "1 pvid untagged, 30-31", risk: plan.RiskGuest},
		"no more":                {f: running(func(b, n *host.Link) { b.Filter, n.VLANs = true, "1 pvid untagged, 30" }), had: thirty, risk: plan.RiskGuest},
		"others turned it on":    {f: running(func(b, n *host.Link) { b.Filter, n.VLANs = true, "1 pvid untagged, 77" }), filter: true, nic: "1 pvid untagged, 77", noChange: true, risk: plan.RiskNone},
		"somebody turned it off": {f: running(func(b, n *host.Link) { n.VLANs = "1 pvid untagged, 30" }), had: thirty, want: thirty, filter: true, nic: "1 pvid untagged, 30", risk: plan.RiskGuest},
	} {
		t.Run(name, func(t *testing.T) {
			n := runningLAN(c.want)
			c.f.Had = doc(runningLAN(c.had))
			c.f.PortTags = map[spec.NetworkName][]spec.Tags{n.Name: c.ports}
			br, nic, p := linksAfter(t, c.f, n)
			if br.Filter != c.filter || br.VLANs != c.br || nic.VLANs != c.nic {
				t.Errorf("filters %v, bridge in %q, uplink in %q", br.Filter, br.VLANs, nic.VLANs)
			}
			if p.Risk != c.risk || (len(p.Steps) == 0) != c.noChange {
				t.Errorf("risk %s, steps %v", p.Risk, steps(p))
			}
		})
	}
}

// A port comes into VLANs before the bridge tells them apart, and leaves them after.
func TestOrderOfVLANs(t *testing.T) {
	on := running(asIs)
	on.Had = doc(runningLAN(spec.Tags{}))
	_, _, p := linksAfter(t, on, runningLAN(spec.Tags{VLAN: 30}))
	if got := strings.Join(steps(p), ", "); got != "change link enp6s18, change link br0" {
		t.Errorf("on: %s", got)
	}
	off := running(func(b, n *host.Link) { b.Filter, n.VLANs = true, "1 pvid untagged, 30" })
	off.Had = doc(runningLAN(spec.Tags{VLAN: 30}))
	_, _, p = linksAfter(t, off, runningLAN(spec.Tags{}))
	if got := strings.Join(steps(p), ", "); got != "change link br0, change link enp6s18" {
		t.Errorf("off: %s", got)
	}
}

// The host's own frames are what a person has to confirm, tagged ones of guests not.
func TestUntaggedFramesAreTheHosts(t *testing.T) {
	seen := host.NewState(host.Link{Name: "enp6s18", MTU: 1500, Up: true, Master: "br0", VLANs: "1 pvid untagged, 30"})
	for vlans, want := range map[string]plan.Risk{
		"": plan.RiskGuest, "1 pvid untagged, 30, 40": plan.RiskGuest, "30 pvid untagged": plan.RiskHost, host.NoVLANs: plan.RiskHost,
		"1, 30": plan.RiskHost, "1 pvid, 30": plan.RiskHost, "rubbish": plan.RiskHost,
	} {
		l := seen[host.LinkKey("enp6s18")].(host.Link)
		l.VLANs = vlans
		p, err := plan.Make(host.Wish{Given: host.NewState(l)}, host.Ledger{}, seen)
		if err != nil || p.Risk != want {
			t.Errorf("%q: %s, %v; want %s", vlans, p.Risk, err, want)
		}
	}
}

func TestVLANsThatCannotBe(t *testing.T) {
	thirty := func(n *spec.Network) { n.Tags.VLAN = 30 }
	bridge := host.Link{Name: "br5", Type: host.TypeBridge, MAC: "02:00:00:00:00:05", MTU: 1500, Up: true}
	adopt := func(n *spec.Network) { thirty(n); n.Adopt, n.Bridge, n.Uplinks = true, "br5", nil }
	for name, c := range map[string]struct {
		more        []host.Resource
		net         spec.Network
		field, says string
	}{
		"kernel without":  {nil, theLAN(thirty), "vlan", "CONFIG_BRIDGE_VLAN_FILTERING"},
		"adopted without": {[]host.Resource{tellsApart, bridge}, theLAN(adopt), "vlan", "ip link set br5 type bridge vlan_filtering 1"},
		"nat":             {[]host.Resource{tellsApart}, spec.Network{Name: "n", Mode: "nat", Started: true, Tags: spec.Tags{VLAN: 30}}, "vlan", "mode bridged"},
		"direct":          {[]host.Resource{tellsApart}, spec.Network{Name: "n", Mode: "direct", Uplinks: []string{"enp6s18"}, Started: true, Tags: spec.Tags{VLAN: 30}}, "vlan", "VLAN interface on enp6s18"},
		"too large":       {[]host.Resource{tellsApart}, theLAN(func(n *spec.Network) { n.Tags.VLAN = 4095 }), "vlan", "4095"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, err := settled(onLAN(c.more...), spec.Document{}, c.net)
			var bad *spec.InvalidError
			if !errors.As(err, &bad) || bad.Field != c.field || !strings.Contains(bad.Reason, c.says) || strings.Contains(bad.Reason, "\n") {
				t.Errorf("got %v, want a word on %s with %q", err, c.field, c.says)
			}
		})
	}
	// With what it needs it is a part of the move.
	_, p, notes, err := settled(onLAN(tellsApart), spec.Document{}, theLAN(thirty))
	if err != nil || p.Risk != plan.RiskHost {
		t.Fatalf("%v, risk %s", err, p.Risk)
	}
	for _, s := range p.Steps {
		if l, ok := s.After.(host.Link); ok && (l.Name == "br0" && !l.Filter || l.Name == "enp6s18" && l.VLANs != "1 pvid untagged, 30") {
			t.Errorf("step %+v", l)
		}
	}
	if len(notes) != 2 || !strings.Contains(string(notes[1]), "must carry VLAN 30 with tags") {
		t.Errorf("notes %q", notes)
	}
}

// The kernel of a later boot may lack what the document needs: that is said, and
// nobody is plugged into the wrong VLAN; everything else goes on.
func TestVLANsOnAnotherKernel(t *testing.T) {
	f := running(asIs)
	delete(f.Seen, tellsApart.Key())
	n := runningLAN(spec.Tags{VLAN: 30})
	f.Had = doc(n)
	if _, _, p := linksAfter(t, f, n); len(p.Steps) != 0 {
		t.Errorf("steps %v", steps(p))
	}
	if why := Trouble(n, f.Seen); !strings.Contains(why, "does not tell VLANs apart") {
		t.Errorf("trouble %q", why)
	}
	if _, err := Trunk(n, f); err == nil {
		t.Error("a guest may be plugged in")
	}
}
