package render

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
)

// onLAN is a host as in the story, with what is asked of its NIC.
func onLAN(more ...host.Resource) Facts {
	seen := lan()
	seen.Add(host.NIC{Link: "enp6s18", Carrier: true})
	seen.Add(more...)
	return Facts{Seen: seen, Seed: "seed", KernelIPv6: true}
}

// settled goes the way of the engine up to the plan.
func settled(f Facts, had spec.Document, want ...spec.Network) (spec.Document, plan.Plan, []Note, error) {
	d, err := Settle(had, doc(want...), f)
	if err == nil {
		err = Validate(d)
	}
	if err != nil {
		return d, plan.Plan{}, nil, err
	}
	f.Moving, f.Leaving = Turn(had, d)
	w, notes, err := Wish(d, f)
	if err != nil {
		return d, plan.Plan{}, nil, err
	}
	p, err := plan.Make(w, host.Ledger{}, f.Seen)
	return d, p, notes, err
}

func theLAN(edit ...func(*spec.Network)) spec.Network {
	n := spec.Network{Name: "lan", Mode: "bridged", Uplinks: []string{"enp6s18"}, Started: true}
	for _, e := range edit {
		e(&n)
	}
	return n
}

func wired(name string, edit ...func(*host.Link)) host.Link {
	l := host.Link{Name: name, Type: host.TypeVeth, MAC: "02:00:00:00:00:77", MTU: 1500, Up: true}
	for _, e := range edit {
		e(&l)
	}
	return l
}

func TestWhatCannotBeBridgedIsRefusedInOneLine(t *testing.T) {
	nic := lan()[host.LinkKey("enp6s18")].(host.Link)
	edit := func(e func(*host.Link)) host.Link { l := nic; e(&l); return l }
	in := func(master string) host.Link { return edit(func(l *host.Link) { l.Master = master }) }
	bridge := func(name string) host.Link { return wired(name, func(l *host.Link) { l.Type = host.TypeBridge }) }
	p := netip.MustParsePrefix
	for name, c := range map[string]struct {
		more        []host.Resource
		net         spec.Network
		field, says string
	}{
		"not there":    {nil, theLAN(func(n *spec.Network) { n.Uplinks[0] = "eth7" }), "uplink", `no interface "eth7"; there are enp6s18`},
		"down":         {[]host.Resource{edit(func(l *host.Link) { l.Up = false })}, theLAN(), "uplink", "ip link set enp6s18 up"},
		"no carrier":   {[]host.Resource{host.NIC{Link: "enp6s18"}}, theLAN(), "uplink", "no carrier"},
		"Wi-Fi":        {[]host.Resource{host.NIC{Link: "enp6s18", Carrier: true, Wireless: true}}, theLAN(), "uplink", "Wi-Fi"},
		"root on it":   {[]host.Resource{host.NIC{Link: "enp6s18", Carrier: true, Root: "NFS from 192.168.99.5:/srv"}}, theLAN(), "uplink", "NFS from 192.168.99.5:/srv"},
		"a bridge":     {[]host.Resource{bridge("br9")}, theLAN(func(n *spec.Network) { n.Uplinks[0] = "br9" }), "uplink", "--adopt"},
		"loopback":     {[]host.Resource{host.Link{Name: "eth1", MAC: "00:00:00:00:00:00", Up: true}}, theLAN(func(n *spec.Network) { n.Uplinks[0] = "eth1" }), "uplink", "no Ethernet"},
		"lo":           {nil, theLAN(func(n *spec.Network) { n.Uplinks[0] = "lo" }), "uplink", "lo"},
		"bond member":  {[]host.Resource{in("bond0"), wired("bond0", func(l *host.Link) { l.Type = "bond" })}, theLAN(), "uplink", "name bond0 as the uplink"},
		"other ports":  {[]host.Resource{in("br9"), bridge("br9"), wired("eth1", func(l *host.Link) { l.Master = "br9" })}, theLAN(), "uplink", "has other ports (eth1)"},
		"host on it":   {[]host.Resource{in("br9"), bridge("br9"), host.Address{Link: "br9", Addr: p("192.0.2.1/24")}}, theLAN(), "uplink", "192.0.2.1/24; --adopt br9"},
		"macvlan":      {[]host.Resource{wired("mv0", func(l *host.Link) { l.Type, l.Lower = "macvlan", "enp6s18" })}, theLAN(), "uplink", "mv0 (macvlan) stands on enp6s18"},
		"name taken":   {[]host.Resource{bridge("br0")}, theLAN(func(n *spec.Network) { n.Bridge = "br0" }), "bridge", "--adopt br0"},
		"no bridge":    {[]host.Resource{wired("br0")}, theLAN(func(n *spec.Network) { n.Bridge = "br0" }), "bridge", "is no bridge"},
		"itself":       {nil, theLAN(func(n *spec.Network) { n.Bridge = "enp6s18" }), "uplink", "port of itself"},
		"twice":        {nil, theLAN(func(n *spec.Network) { n.Uplinks = []string{"enp6s18", "enp6s18"} }), "uplink", "twice"},
		"none":         {nil, theLAN(func(n *spec.Network) { n.Uplinks = nil }), "uplink", "--uplink"},
		"subnet":       {nil, theLAN(func(n *spec.Network) { n.Subnets = []spec.Subnet{spec.NewSubnet(p("10.0.0.0/24"))} }), "subnet", "LAN"},
		"adopt none":   {nil, theLAN(func(n *spec.Network) { n.Adopt, n.Bridge, n.Uplinks = true, "br5", nil }), "adopt", "no bridge br5"},
		"adopt NIC":    {nil, theLAN(func(n *spec.Network) { n.Adopt, n.Bridge, n.Uplinks = true, "enp6s18", nil }), "adopt", "is no bridge"},
		"adopt and in": {[]host.Resource{bridge("br5")}, theLAN(func(n *spec.Network) { n.Adopt, n.Bridge = true, "br5" }), "uplink", "not a port of br5"},
		"second with address": {[]host.Resource{wired("eth1"), host.NIC{Link: "eth1", Carrier: true}, host.Address{Link: "eth1", Addr: p("192.0.2.9/24")}},
			theLAN(func(n *spec.Network) { n.Uplinks, n.STP = append(n.Uplinks, "eth1"), true }), "uplink", "192.0.2.9/24"},
		"two without spanning tree": {[]host.Resource{wired("eth1"), host.NIC{Link: "eth1", Carrier: true}},
			theLAN(func(n *spec.Network) { n.Uplinks = append(n.Uplinks, "eth1") }), "uplink", "enp6s18 and eth1 in one bridge are a loop"},
		"VLAN taken": {[]host.Resource{tellsApart, host.Link{Name: "own.50", Type: host.TypeVLAN, Lower: "enp6s18", VID: 50, MTU: 1500, Up: true}},
			theLAN(func(n *spec.Network) { n.Tags.Trunk = "40-60" }), "vlan", "own.50 takes the frames of VLAN 50"},
		"nat with uplink": {nil, spec.Network{Name: "n", Mode: "nat", Uplinks: []string{"enp6s18"}, Started: true}, "uplink", "mode bridged"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, err := settled(onLAN(c.more...), spec.Document{}, c.net)
			var bad *spec.InvalidError
			if !errors.As(err, &bad) || bad.Field != c.field || !strings.Contains(bad.Reason, c.says) || strings.Contains(bad.Reason, "\n") {
				t.Errorf("got %v, want a word on %s with %q", err, c.field, c.says)
			}
		})
	}
}

func TestWhatCannotBeRestoredIsNamed(t *testing.T) {
	temporary := host.Address{Link: "enp6s18", Addr: netip.MustParsePrefix("2001:db8:99::abcd/64"), Dynamic: true, ValidUntil: 99, Unrestorable: "temporary"}
	viaObject := host.Route{Dst: netip.MustParsePrefix("10.9.0.0/16"), Link: "enp6s18", Table: 77, Protocol: 4, Type: 1, Unrestorable: "next hop object (nhid)"}
	for _, r := range []host.Resource{temporary, viaObject} {
		_, _, _, err := settled(onLAN(r), spec.Document{}, theLAN())
		var no *plan.UnrestorableError
		if !errors.As(err, &no) || no.Key != r.Key() {
			t.Errorf("%s: got %v", r.Key(), err)
		}
	}
}

func steps(p plan.Plan) (out []string) {
	for _, s := range p.Steps {
		if k := s.Key(); k.Kind == host.KindLink || k.Kind == host.KindAddress || k.Kind == host.KindRoute || k.Kind == host.KindRule {
			out = append(out, s.Verb()+" "+k.String())
		}
	}
	return out
}

func TestTheOrderThatLosesNothing(t *testing.T) {
	f := onLAN(host.Rule{Priority: 7, Iif: "enp6s18", Action: 1, Table: 100})
	d, p, notes, err := settled(f, spec.Document{}, theLAN())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"create link br0",
		"create address br0 192.168.99.66/24", "create address br0 2001:db8:99::66/64",
		"create rule inet pref 7 iif br0 action 1 table 100",
		"change link enp6s18",
		"create route 192.168.99.0/24 table 254 metric 0 dev br0 type 1",
		"create route 0.0.0.0/0 table 254 metric 0 via 192.168.99.1 dev br0 type 1",
		"delete route 0.0.0.0/0 table 254 metric 0 via 192.168.99.1 dev enp6s18 type 1",
		"delete route 192.168.99.0/24 table 254 metric 0 dev enp6s18 type 1",
		"delete rule inet pref 7 iif enp6s18 action 1 table 100",
		"delete address enp6s18 2001:db8:99::66/64", "delete address enp6s18 192.168.99.66/24",
	}
	if got := steps(p); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s", strings.Join(got, "\n"))
	}
	if p.Risk != plan.RiskHost || len(p.Cuts) != 0 || len(notes) != 1 {
		t.Errorf("risk %s, cuts %q, notes %q", p.Risk, p.Cuts, notes)
	}
	for k := range p.Ledger {
		if k.Kind == host.KindLink || k.Kind == host.KindAddress || k.Kind == host.KindRoute || k.Kind == host.KindSysctl {
			t.Errorf("%s is claimed", k)
		}
	}
	br := p.Steps[slicesIndex(p.Steps, host.LinkKey("br0"))].After.(host.Link)
	if nic := f.Seen[host.LinkKey("enp6s18")].(host.Link); br.MAC != nic.MAC || br.MTU != nic.MTU || br.STP || br.ForwardDelay != 0 || !br.Up {
		t.Errorf("the bridge is %+v", br)
	}
	if n := d.Networks["lan"]; n.Bridge != "br0" || n.MAC != "02:00:00:00:00:66" {
		t.Errorf("settled as %+v", n)
	}
}

func slicesIndex(steps []plan.Step, k host.Key) int {
	for i, s := range steps {
		if s.Key() == k {
			return i
		}
	}
	return -1
}

// after is the host once the plan is done, without what the kernel does.
func after(f Facts, p plan.Plan) Facts {
	seen := host.State{}
	for k, r := range f.Seen {
		seen[k] = r
	}
	for _, s := range p.Steps {
		delete(seen, s.Key())
		if s.After != nil {
			seen.Add(s.After)
		}
	}
	f.Seen = seen
	return f
}

func TestSteadyPulledOutAndBack(t *testing.T) {
	f := onLAN()
	d, p, _, err := settled(f, spec.Document{}, theLAN())
	if err != nil {
		t.Fatal(err)
	}
	f = after(f, p)
	// Whoever manages the host may change what is his.
	f.Seen.Add(host.Address{Link: "br0", Addr: netip.MustParsePrefix("192.0.2.77/24")})
	delete(f.Seen, host.Address{Link: "br0", Addr: netip.MustParsePrefix("192.168.99.66/24")}.Key())
	w, _, err := Wish(d, f)
	if err != nil {
		t.Fatal(err)
	}
	again, err := plan.Make(w, p.Ledger, f.Seen)
	if err != nil || len(again.Steps) != 0 || Trouble(d.Networks["lan"], f.Seen) != "" {
		t.Errorf("a host that is as wanted: %q %v", steps(again), err)
	}
	// What only a move would change is said.
	big := d.Networks["lan"]
	big.MTU = 1400
	if _, notes, err := Wish(d.With(big), f); err != nil || len(notes) != 1 || !strings.Contains(string(notes[0]), "keeps its MTU of 1500") {
		t.Errorf("another MTU: %q, %v", notes, err)
	}
	// Pulled off by a reload: put back, with no risk, so nobody is asked.
	nic := f.Seen[host.LinkKey("enp6s18")].(host.Link)
	nic.Master = ""
	f.Seen.Add(nic)
	w, _, err = Wish(d, f)
	if err != nil {
		t.Fatal(err)
	}
	repair, err := plan.Make(w, p.Ledger, f.Seen)
	if err != nil || strings.Join(steps(repair), "; ") != "change link enp6s18" || repair.Risk != plan.RiskNone {
		t.Errorf("repair: %q, risk %s, %v", steps(repair), repair.Risk, err)
	}
	// Pulled off and given an address: a person's, and only said.
	f.Seen.Add(host.Address{Link: "enp6s18", Addr: netip.MustParsePrefix("192.168.99.66/24")})
	w, _, err = Wish(d, f)
	if err != nil {
		t.Fatal(err)
	}
	left, err := plan.Make(w, p.Ledger, f.Seen)
	if err != nil || len(left.Steps) != 0 || Trouble(d.Networks["lan"], f.Seen) == "" {
		t.Errorf("left alone: %q, %v, %q", steps(left), err, Trouble(d.Networks["lan"], f.Seen))
	}
}

func TestRemovalGivesWhatTheBridgeHasNow(t *testing.T) {
	f := onLAN()
	d, p, _, err := settled(f, spec.Document{}, theLAN())
	if err != nil {
		t.Fatal(err)
	}
	f = after(f, p)
	f.Seen.Add(host.Address{Link: "br0", Addr: netip.MustParsePrefix("192.0.2.77/24")}, host.Link{Name: "vnet0", Type: host.TypeTap, Master: "br0"})
	_, out, _, err := settled(f, d)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"create address enp6s18 192.0.2.77/24", "create address enp6s18 192.168.99.66/24", "create address enp6s18 2001:db8:99::66/64",
		"create route 192.168.99.0/24 table 254 metric 0 dev enp6s18 type 1",
		"create route 0.0.0.0/0 table 254 metric 0 via 192.168.99.1 dev enp6s18 type 1",
		"change link enp6s18", "delete link br0",
	}
	if got := steps(out); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s", strings.Join(got, "\n"))
	}
	if out.Risk != plan.RiskHost || strings.Join(out.Cuts, " ") != "vnet0" {
		t.Errorf("risk %s, cuts %q", out.Risk, out.Cuts)
	}
}

func TestANICInAWrongBridgeIsTakenOut(t *testing.T) {
	f := onLAN()
	nat := spec.Network{Name: "default", Mode: "nat", Started: true, IPv6: spec.IPv6Off}
	had, p, _, err := settled(f, spec.Document{}, nat)
	if err != nil {
		t.Fatal(err)
	}
	f = after(f, p)
	nic := f.Seen[host.LinkKey("enp6s18")].(host.Link)
	nic.Master = "virbr0"
	f.Seen.Add(nic, host.Link{Name: "vnet0", Type: host.TypeTap, Master: "virbr0"})
	f.Moving, f.Leaving = nil, nil
	d, err := Settle(had, had.With(theLAN()), f)
	if err != nil {
		t.Fatal(err)
	}
	f.Moving, f.Leaving = Turn(had, d)
	w, notes, err := Wish(d, f)
	if err != nil {
		t.Fatal(err)
	}
	if l := w.Given[nic.Key()].(host.Link); l.Master != "br0" || !strings.Contains(string(notes[len(notes)-1]), "taken out of bridge virbr0") {
		t.Errorf("the NIC becomes %+v; notes %q", l, notes)
	}
}

func TestAdoptedBridgesStay(t *testing.T) {
	br := wired("br7", func(l *host.Link) { l.Type = host.TypeBridge })
	f := onLAN(br, wired("eth1", func(l *host.Link) { l.Master = "br7" }))
	n := theLAN(func(n *spec.Network) { n.Adopt, n.Bridge, n.Uplinks = true, "br7", nil })
	d, in, _, err := settled(f, spec.Document{}, n)
	if err != nil || len(steps(in)) != 0 || in.Risk != plan.RiskNone {
		t.Fatalf("%q %s %v", steps(in), in.Risk, err)
	}
	_, out, _, err := settled(f, d)
	if err != nil || len(steps(out)) != 0 {
		t.Errorf("%q %v", steps(out), err)
	}
}

func TestParametersThatAreNotUsualMove(t *testing.T) {
	f := onLAN(
		host.LinkSysctl("ipv6", "enp6s18", "accept_ra", "2"), host.Sysctl{Path: "net/ipv6/conf/default/accept_ra", Value: "1"},
		host.LinkSysctl("ipv4", "enp6s18", "rp_filter", "1"), host.Sysctl{Path: "net/ipv4/conf/default/rp_filter", Value: "1"},
	)
	_, p, _, err := settled(f, spec.Document{}, theLAN())
	if err != nil {
		t.Fatal(err)
	}
	if slicesIndex(p.Steps, host.LinkSysctl("ipv6", "br0", "accept_ra", "").Key()) < 0 {
		t.Error("accept_ra=2 does not move")
	}
	if slicesIndex(p.Steps, host.LinkSysctl("ipv4", "br0", "rp_filter", "").Key()) >= 0 {
		t.Error("rp_filter is set although every new link has it")
	}
	asked := map[host.Key]bool{}
	for _, k := range Asks(doc(theLAN(func(n *spec.Network) { n.Bridge = "br0" })), map[spec.NetworkName]bool{"lan": true}, f.Seen) {
		asked[k] = true
	}
	if !asked[host.NICKey("enp6s18")] || !asked[host.SysctlKey("net/ipv6/conf/default/accept_ra")] || !asked[host.SysctlKey("net/ipv6/conf/enp6s18/accept_ra")] {
		t.Error("not all is asked for that is needed")
	}
}

func TestNextHopsAreRenamed(t *testing.T) {
	in := "via 192.0.2.1 dev eth0 weight 1; dev eth0.5 weight 2; via 192.0.2.3 dev eth0; dev eth0"
	want := "via 192.0.2.1 dev br0 weight 1; dev eth0.5 weight 2; via 192.0.2.3 dev br0; dev br0"
	if got := renameHops(in, "eth0", "br0"); got != want {
		t.Errorf("got %q", got)
	}
	if eui64("52:54:00:12:34:56") != netip.MustParseAddr("fe80::5054:ff:fe12:3456") {
		t.Errorf("got %s", eui64("52:54:00:12:34:56"))
	}
}
