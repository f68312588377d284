package render

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what the source says; run: go test ./internal/render -update\ngot:\n%s", path, got)
	}
}

func TestRulebooksAreTrue(t *testing.T) {
	for _, m := range Modes {
		text, err := Rulebook(m)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "../../docs/rules/"+string(m.Name())+".md", text)
	}
}

// lan is a host on 192.168.99.0/24 with IPv6, as in the story.
func lan() host.State {
	p := netip.MustParsePrefix
	return host.NewState(
		host.Link{Name: "enp6s18", Type: "veth", MAC: "02:00:00:00:00:66", MTU: 1500, Up: true},
		host.Address{Link: "enp6s18", Addr: p("192.168.99.66/24")},
		host.Address{Link: "enp6s18", Addr: p("2001:db8:99::66/64")},
		host.Route{Dst: p("192.168.99.0/24"), Link: "enp6s18", Table: host.MainTable, Protocol: 2, Type: 1},
		host.Route{Dst: p("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.168.99.1"), Link: "enp6s18", Table: host.MainTable, Type: 1},
	)
}

func doc(ns ...spec.Network) spec.Document {
	d := spec.Document{}.Clone()
	for _, n := range ns {
		d = d.With(n)
	}
	return d
}

func TestWishGolden(t *testing.T) {
	for name, n := range map[string]spec.Network{
		"nat":      {Name: "default", Started: true},
		"nat-v4":   {Name: "default", Started: true, IPv6: spec.IPv6Off, MTU: 9000, Reservations: []spec.Reservation{{MAC: "52:54:00:00:00:07", Addr: netip.MustParseAddr("192.168.122.7"), Hostname: "db"}}},
		"isolated": {Name: "lab", Mode: "isolated", Started: true, IPv6: spec.IPv6Off},
	} {
		t.Run(name, func(t *testing.T) {
			f := Facts{Seen: lan(), Seed: "seed", KernelIPv6: true, Resolved: true, HandsOff: true}
			d, err := Settle(spec.Document{}, doc(n), f)
			if err != nil {
				t.Fatal(err)
			}
			if err := Validate(d); err != nil {
				t.Fatal(err)
			}
			w, notes, err := Wish(d, f)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, note := range notes {
				b.WriteString("note: " + string(note) + "\n")
			}
			for _, k := range w.Present.Keys() {
				raw, err := host.MarshalResource(w.Present[k])
				if err != nil {
					t.Fatal(err)
				}
				b.WriteString(k.String() + "\n    " + string(raw) + "\n")
			}
			golden(t, "testdata/"+name+"/wish", b.String())

			again, _, err := Wish(d, f)
			if err != nil {
				t.Fatal(err)
			}
			if len(plan.Diff(again.Present, w.Present)) != 0 {
				t.Error("rendering twice gives two different wishes")
			}
			p, err := plan.Make(w, host.Ledger{}, w.Present)
			if err == nil && len(p.Steps) != 0 {
				t.Errorf("a host that is as wanted needs no steps, got %d", len(p.Steps))
			}
		})
	}
}

func TestEveryNeedIsMet(t *testing.T) {
	f := Facts{Seen: lan(), Seed: "s", KernelIPv6: true, Resolved: true}
	d, err := Settle(spec.Document{}, doc(spec.Network{Name: "a", Started: true}, spec.Network{Name: "b", Mode: "isolated", Started: true}), f)
	if err != nil {
		t.Fatal(err)
	}
	w, _, err := Wish(d, f)
	if err != nil {
		t.Fatal(err)
	}
	for k, r := range w.Present {
		for _, need := range r.Needs() {
			_, wanted := w.Present[need]
			_, there := f.Seen[need]
			if !wanted && !there {
				t.Errorf("%s needs %s, which nobody makes", k, need)
			}
		}
	}
}

func TestFreeSubnetAvoidsTrueOverlap(t *testing.T) {
	for name, c := range map[string]struct {
		taken []string
		want  string
	}{
		"nothing":        {nil, "192.168.122.0/24"},
		"same":           {[]string{"192.168.122.0/24"}, "192.168.123.0/24"},
		"larger":         {[]string{"192.168.0.0/16"}, "172.30.122.0/24"},
		"smaller":        {[]string{"192.168.122.128/25"}, "192.168.123.0/24"},
		"one host":       {[]string{"192.168.122.5/32"}, "192.168.123.0/24"},
		"vpn halves":     {[]string{"0.0.0.0/1", "128.0.0.0/1"}, "192.168.122.0/24"},
		"corporate ten":  {[]string{"10.0.0.0/8", "192.168.0.0/16", "172.16.0.0/12"}, ""},
		"other table":    {[]string{"table 77 192.168.122.0/24"}, "192.168.123.0/24"},
		"default routes": {[]string{"0.0.0.0/0"}, "192.168.122.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			seen := lan()
			for _, s := range c.taken {
				table := host.MainTable
				if rest, ok := strings.CutPrefix(s, "table 77 "); ok {
					s, table = rest, 77
				}
				seen.Add(host.Route{Dst: netip.MustParsePrefix(s), Link: "wg0", Table: table, Type: 1})
			}
			d, err := Settle(spec.Document{}, doc(spec.Network{Name: "n", IPv6: spec.IPv6Off}), Facts{Seen: seen})
			if c.want == "" {
				var bad *spec.InvalidError
				if !errors.As(err, &bad) || bad.Field != "subnet" {
					t.Fatalf("got %v, want a refusal", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := d.Networks["n"].Subnets[0].Prefix.String(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestExplicitSubnetThatOverlapsIsRefused(t *testing.T) {
	n := spec.Network{Name: "n", Subnets: []spec.Subnet{spec.NewSubnet(netip.MustParsePrefix("192.168.99.128/25"))}}
	_, err := Settle(spec.Document{}, doc(n), Facts{Seen: lan()})
	if err == nil || !strings.Contains(err.Error(), "192.168.99.") || !strings.Contains(err.Error(), "enp6s18") {
		t.Errorf("the refusal does not say with what it collides: %v", err)
	}
}

func TestBridgeNamesSkipForeignOnes(t *testing.T) {
	seen := lan()
	seen.Add(host.Link{Name: "virbr0", Type: "bridge"}, host.Link{Name: "virbr2", Type: "bridge"})
	d, err := Settle(spec.Document{}, doc(spec.Network{Name: "a"}, spec.Network{Name: "b"}), Facts{Seen: seen})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := d.Networks["a"].Bridge, d.Networks["b"].Bridge; a != "virbr1" || b != "virbr3" {
		t.Errorf("got %s and %s", a, b)
	}
}

func TestHostThatLivesOnRAKeepsItsIPv6(t *testing.T) {
	seen := lan()
	seen.Add(host.Route{Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fe80::1"), Link: "enp6s18", Protocol: protocolRA, Table: host.MainTable, Type: 1})
	f := Facts{Seen: seen, KernelIPv6: true}
	d, err := Settle(spec.Document{}, doc(spec.Network{Name: "n", Started: true}), f)
	if err != nil {
		t.Fatal(err)
	}
	w, notes, err := Wish(d, f)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.Present[host.SysctlKey("net/ipv6/conf/enp6s18/accept_ra")]; got != host.LinkSysctl("ipv6", "enp6s18", "accept_ra", "2") {
		t.Errorf("accept_ra is not wished to be 2: %v", got)
	}
	if len(notes) != 1 {
		t.Errorf("notes: %q", notes)
	}
	steps := plan.Diff(w.Present, host.State{})
	at := map[host.Key]int{}
	for i, s := range steps {
		at[s.Key()] = i
	}
	if at[host.SysctlKey("net/ipv6/conf/enp6s18/accept_ra")] > at[host.SysctlKey("net/ipv6/conf/all/forwarding")] {
		t.Error("forwarding goes on before accept_ra is 2")
	}
}

func TestSettleKeepsWhatIsSettled(t *testing.T) {
	f := Facts{Seen: lan(), Seed: "x", KernelIPv6: true}
	first, err := Settle(spec.Document{}, doc(spec.Network{Name: "n", Started: true}), f)
	if err != nil {
		t.Fatal(err)
	}
	// The network now runs: its own routes and addresses are seen.
	for _, s := range first.Networks["n"].Subnets {
		f.Seen.Add(host.Route{Dst: s.Prefix, Link: first.Networks["n"].Bridge, Table: host.MainTable, Type: 1})
	}
	second, err := Settle(first, first.Clone(), f)
	if err != nil {
		t.Fatal(err)
	}
	if !second.Equal(first) {
		t.Errorf("settled twice differs:\n%+v\n%+v", first, second)
	}
}

func TestDocumentsThatCollideAreRefused(t *testing.T) {
	sub := func(s string) []spec.Subnet { return []spec.Subnet{spec.NewSubnet(netip.MustParsePrefix(s))} }
	for name, c := range map[string]struct {
		a, b  spec.Network
		field string
	}{
		"subnet": {spec.Network{Name: "a", Mode: "nat", Bridge: "x1", Subnets: sub("10.1.0.0/16")}, spec.Network{Name: "b", Mode: "nat", Bridge: "x2", Subnets: sub("10.1.2.0/24")}, "subnet"},
		"bridge": {spec.Network{Name: "a", Mode: "isolated", Bridge: "virbr7"}, spec.Network{Name: "b", Mode: "isolated", Bridge: "virbr7"}, "bridge"},
		"domain": {spec.Network{Name: "a", Mode: "isolated", Bridge: "x1", Domain: "d"}, spec.Network{Name: "b", Mode: "isolated", Bridge: "x2", Domain: "d"}, "domain"},
		"mode":   {spec.Network{Name: "a", Mode: "isolated"}, spec.Network{Name: "b", Mode: "magic", Bridge: "x"}, "mode"},
	} {
		t.Run(name, func(t *testing.T) {
			var bad *spec.InvalidError
			if err := Validate(doc(c.a, c.b)); !errors.As(err, &bad) || bad.Field != c.field {
				t.Errorf("got %v, want a refusal of %s", err, c.field)
			}
		})
	}
}
