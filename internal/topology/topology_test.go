package topology

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

var update = flag.Bool("update", false, "write the golden files anew")

func nic(name string, more ...func(*host.Link)) host.Link {
	l := host.Link{Name: name, MAC: "52:54:00:00:00:10", MTU: 1500, Up: true}
	for _, m := range more {
		m(&l)
	}
	return l
}

func typed(t string) func(*host.Link)  { return func(l *host.Link) { l.Type = t } }
func within(m string) func(*host.Link) { return func(l *host.Link) { l.Master = m } }
func down(l *host.Link)                { l.Up = false }

func addr(link, cidr string) host.Address {
	return host.Address{Link: link, Addr: netip.MustParsePrefix(cidr)}
}

func gateway(link, via string, metric int) host.Route {
	dst := netip.MustParsePrefix("0.0.0.0/0")
	a := netip.MustParseAddr(via)
	if a.Is6() {
		dst = netip.MustParsePrefix("::/0")
	}
	return host.Route{Dst: dst, Gateway: a, Link: link, Table: host.MainTable, Metric: metric, Type: unicast}
}

func network(name, mode, bridge, cidr string, started bool) spec.Network {
	return spec.Network{
		Name: spec.NetworkName(name), Mode: spec.ModeName(mode), Bridge: bridge, Started: started,
		Subnets: []spec.Subnet{spec.NewSubnet(netip.MustParsePrefix(cidr))},
	}
}

func document(ns ...spec.Network) spec.Document {
	d := spec.Document{Networks: map[spec.NetworkName]spec.Network{}}
	for _, n := range ns {
		d.Networks[n.Name] = n
	}
	return d
}

// cases are hosts; each has a golden picture in testdata/<name>/.
var cases = map[string]Input{
	"empty": {State: host.State{}},
	"story": {
		State: host.NewState(
			nic("lo"), addr("lo", "127.0.0.1/8"), nic("enp6s18"), addr("enp6s18", "192.168.99.66/24"), addr("enp6s18", "fe80::1/64"),
			gateway("enp6s18", "192.168.99.1", 100),
			nic("virbr0", typed(host.TypeBridge)), addr("virbr0", "192.168.122.1/24"),
			nic("vnet0", typed(host.TypeTap), within("virbr0")),
		),
		Document: document(network("default", "nat", "virbr0", "192.168.122.0/24", true)),
		Ports:    []Port{{Bridge: "virbr0", Tap: "vnet0", Guest: "ubuntu-cloud", MAC: "52:54:00:12:34:56", Addresses: []string{"192.168.122.57"}}},
	},
	"many": {
		State: host.NewState(
			nic("enp6s18"), addr("enp6s18", "192.168.99.66/24"), addr("enp6s18", "2001:db8:1::66/64"),
			nic("wlan0"), addr("wlan0", "10.0.0.7/24"), nic("idle0", down),
			gateway("wlan0", "10.0.0.1", 600), gateway("enp6s18", "192.168.99.1", 100), gateway("enp6s18", "fe80::99", 100),
			nic("virbr0", typed(host.TypeBridge)), addr("virbr0", "192.168.122.1/24"), addr("virbr0", "fd00:1:2:3::1/64"),
			nic("virbr1", typed(host.TypeBridge)), addr("virbr1", "10.9.0.1/24"),
			nic("docker0", typed(host.TypeBridge), down), addr("docker0", "172.17.0.1/16"),
			nic("veth77", typed(host.TypeVeth), within("docker0")),
			nic("vnet10", typed(host.TypeTap), within("virbr0")), nic("vnet2", typed(host.TypeTap), within("virbr0")),
			nic("vnet3", typed(host.TypeTap), within("virbr1")), nic("tap9", typed(host.TypeTap), within("virbr1"), down),
			nic("vnet5", typed(host.TypeTap)),
		),
		Document: document(
			network("default", "nat", "virbr0", "192.168.122.0/24", true), network("lab", "isolated", "virbr1", "10.9.0.0/24", true),
			network("old", "nat", "virbr2", "192.168.130.0/24", false), network("torn", "nat", "virbr3", "192.168.131.0/24", true),
		),
		Ports: []Port{
			{Bridge: "virbr0", Tap: "vnet10", Guest: "web", MAC: "52:54:00:00:00:01", Addresses: []string{"192.168.122.10", "fd00:1:2:3::10"}},
			{Bridge: "virbr0", Tap: "vnet2", Guest: "db", MAC: "52:54:00:00:00:02"},
			{Bridge: "virbr1", Tap: "vnet3", Guest: "web", MAC: "52:54:00:00:00:03", Addresses: []string{"10.9.0.10"}},
			{Bridge: "virbr0", Tap: "vnet5", Guest: "pulled", MAC: "52:54:00:00:00:05"},
		},
		Problems: map[spec.NetworkName][]string{"lab": {"dns-zone virbr1 is missing", "and another"}},
	},
	"bridged-host": {
		State: host.NewState(
			nic("enp1s0", within("br0")), nic("br0", typed(host.TypeBridge)), addr("br0", "192.168.99.66/24"), gateway("br0", "192.168.99.1", 0),
			nic("vnet0", typed(host.TypeTap), within("br0")),
			nic("virbr0", typed(host.TypeBridge)), addr("virbr0", "192.168.122.1/24"),
		),
		Document: document(network("default", "nat", "virbr0", "192.168.122.0/24", true)),
	},
	"no-uplink": {
		State: host.NewState(
			nic("virbr0", typed(host.TypeBridge), down), addr("virbr0", "192.168.122.1/24"),
		),
		Document: document(network("default", "nat", "virbr0", "192.168.122.0/24", true)),
	},
	"hostile-names": {
		State: host.NewState(
			nic("virbr0", typed(host.TypeBridge)), addr("virbr0", "192.168.122.1/24"), nic("vnet0", typed(host.TypeTap), within("virbr0")),
		),
		Document: document(network("default", "nat", "virbr0", "192.168.122.0/24", true)),
		Ports:    []Port{{Bridge: "virbr0", Tap: "vnet0", Guest: "a\x1b[31mb\u009b1m\u202ec\n", MAC: "52:54:00:00:00:01"}},
	},
}

func TestPictures(t *testing.T) {
	for name, g := range pictures() {
		t.Run(name, func(t *testing.T) {
			laid := Layout(g, Options{})
			text := ""
			for _, p := range []Page{{}, {Width: 80}, {Width: 40, ASCII: true}} {
				text += written(Text(laid, p)) + "\n"
			}
			golden(t, filepath.Join("testdata", name, "tree.txt"), text)
			golden(t, filepath.Join("testdata", name, "graph.txt"), dump(laid))
			golden(t, filepath.Join("testdata", name, "picture.svg"), SVG(laid))
			golden(t, filepath.Join("testdata", name, "picture.mmd"), Mermaid(laid))
		})
	}
}

// pictures are the graphs of all cases and scenes.
func pictures() map[string]Graph {
	all := scenes()
	for name, in := range cases {
		all[name] = Build(in)
	}
	return all
}

func written(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.String() + "\n")
	}
	return b.String()
}

// dump writes what is not zero, a line for each node and edge.
func dump(g Graph) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%d x %d, host %v\n", g.Width, g.Height, g.Frame)
	line := func(v any) {
		r := reflect.ValueOf(v)
		for i := range r.NumField() {
			if f := r.Type().Field(i); f.IsExported() && f.Name != "Kind" && !r.Field(i).IsZero() {
				fmt.Fprintf(&out, " %s=%v", strings.ToLower(f.Name), r.Field(i).Interface())
			}
		}
		out.WriteByte('\n')
	}
	for _, n := range g.Nodes {
		out.WriteString("node")
		line(n)
	}
	for _, e := range g.Edges {
		out.WriteString("edge")
		line(e)
	}
	return strings.ReplaceAll(out.String(), "\x1b", "ESC")
}

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
		t.Errorf("%s differs (go test -update writes it anew):\n%s", path, got)
	}
}

// The order of maps must not show, every node must be drawn, and every edge
// must join two nodes.
func TestGraphsAreWhole(t *testing.T) {
	for name, in := range cases {
		g := Build(in)
		for range 20 {
			if again := Build(in); !reflect.DeepEqual(g, again) {
				t.Fatalf("%s: built twice, two graphs", name)
			}
		}
		ids := map[string]bool{}
		text := written(Text(Layout(g, Options{}), Page{}))
		for _, n := range g.Nodes {
			if ids[n.ID] {
				t.Errorf("%s: node %s is there twice", name, n.ID)
			}
			ids[n.ID] = true
			if !strings.Contains(text, clean(n.Name)) {
				t.Errorf("%s: node %s is not in the picture:\n%s", name, n.ID, text)
			}
		}
		for _, e := range g.Edges {
			if !ids[e.From] || !ids[e.To] {
				t.Errorf("%s: edge %s - %s leads nowhere", name, e.From, e.To)
			}
		}
	}
}

func TestNoControlCharacterGetsIntoThePicture(t *testing.T) {
	for _, r := range written(Text(Layout(Build(cases["hostile-names"]), Options{}), Page{})) {
		if r != '\n' && (r < 0x20 || r >= 0x7f && r <= 0x9f || r == 0x202e) {
			t.Errorf("%U is in the picture", r)
		}
	}
}

// A thousand guests are drawn in the order of their numbers.
func TestManyGuests(t *testing.T) {
	in := Input{
		State:    host.NewState(nic("virbr0", typed(host.TypeBridge)), addr("virbr0", "10.0.0.1/16")),
		Document: document(network("big", "nat", "virbr0", "10.0.0.0/16", true)),
	}
	for i := range 1000 {
		tap := fmt.Sprintf("vnet%d", i)
		in.State.Add(nic(tap, typed(host.TypeTap), within("virbr0")))
		in.Ports = append(in.Ports, Port{Bridge: "virbr0", Tap: tap, Guest: fmt.Sprintf("g%d", i), MAC: "52:54:00:00:00:01"})
	}
	lines := strings.Split(strings.TrimSpace(written(Text(Layout(Build(in), Options{Fold: -1}), Page{}))), "\n")
	if len(lines) != 1001 || !strings.Contains(lines[1000], "vnet999 ─ ● g999") || !strings.Contains(lines[3], "vnet2 ─── ● g2 ") {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}

// The picture in the README is what the program draws, and so are its lines of
// text.
func TestREADMEShowsWhatIsDrawn(t *testing.T) {
	g := Layout(Build(readme()), Options{})
	golden(t, "../../docs/topology.svg", SVG(g))
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := written(Text(g, Page{Width: 80})); !strings.Contains(string(text), want) {
		t.Errorf("the README does not show this:\n%s", want)
	}
	if !strings.Contains(string(text), "(docs/topology.svg)") {
		t.Error("the README does not show docs/topology.svg")
	}
}

func BenchmarkPicture(b *testing.B) {
	in := guests(1000)
	g := Build(in)
	laid := Layout(g, Options{})
	for name, f := range map[string]func(){
		"build": func() { Build(in) }, "layout": func() { Layout(g, Options{}) }, "text": func() { Text(laid, Page{Width: 120}) },
		"svg": func() { SVG(laid) }, "mermaid": func() { Mermaid(laid) }, "layout-all": func() { Layout(g, Options{Fold: -1}) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f()
			}
		})
	}
}
