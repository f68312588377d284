package topology

import "testing"

// A finding shows on the narrowest thing that it names, and on the cable that it
// cuts.
func TestFindingsShow(t *testing.T) {
	g := Build(troubled())
	for node, want := range map[string]Health{
		"port:vnet1": Warning, "guest:router": Warning, "bridge:virbr0": Problem, "nic:enp6s18": Warning,
		"guest:test-client": Problem, "port:vnet4": Problem, "bridge:br0": OK, "guest:files": OK, "port:vnet3": OK,
	} {
		if n := g.Node(node); n.Health != want {
			t.Errorf("%s is %s (%s), want %s", node, n.Health, n.Note, want)
		}
	}
	cables := map[string]string{
		"bridge:br0>port:vnet1": "mtu-differs:vnet1", "bridge:br0>bridge:virbr0": "guests-blocked:default", "bridge:virbr1>port:vnet4": "no-address:test-client",
		"lan:192.168.99.0/24>nic:enp6s18": "uplink-down:enp6s18",
	}
	for _, e := range g.Edges {
		if e.Finding != cables[e.ID] {
			t.Errorf("cable %s leads to finding %q, want %q", e.ID, e.Finding, cables[e.ID])
		}
		delete(cables, e.ID)
		if (e.Finding != "") != (e.Health == Problem || e.Health == Warning) {
			t.Errorf("cable %s is %s by %q", e.ID, e.Health, e.Finding)
		}
	}
	if len(cables) > 0 {
		t.Errorf("there are no cables %v", cables)
	}
	if n := g.Node("bridge:virbr0"); len(n.Findings) != 2 || n.Findings[0].Code != "guests-blocked" || n.Note != "guests-blocked: what guests send out of virbr0 is dropped by inet <foreign> forward" {
		t.Errorf("%q, %v", n.Note, n.Findings)
	}
	if len(g.Findings) != 2 || g.Findings[0].Code != "forwarding-off" {
		t.Errorf("of the whole host: %v", g.Findings)
	}
}

// What a person stopped is stopped, whatever else is said of it.
func TestStoppedStaysStopped(t *testing.T) {
	in := cases["many"]
	in.Findings = []Finding{{ID: "x:old", Code: "x", Severity: Fault, Network: "old", Text: "is said"}}
	if n := Build(in).Node("bridge:virbr2"); n.Health != Stopped || len(n.Findings) != 1 {
		t.Errorf("%+v", n)
	}
}
