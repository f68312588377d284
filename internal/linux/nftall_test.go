package linux

import (
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/nettest"
	"drawbridge/internal/ruleset"
)

// everyFamily has a table of each, with hooks of each.
const everyFamily = `
table ip one {
  chain pre {
type nat hook prerouting priority dstnat + 5; policy accept;
tcp dport 8080 dnat to 10.0.0.1:80 comment "a door"
}
  chain sub {
ip saddr 10.0.0.0/8 counter drop
}
}
table ip6 two {
chain in {
type filter hook input priority filter; policy drop;
tcp dport { 22, 80-90 } accept
}
}
table inet three {
  set names {
type ifname; elements = { "virbr0", "eth0" }; 
}
  map m {
type ipv4_addr . inet_service : verdict; flags interval; elements = { 10.0.0.0/24 . 80-90 : accept, 10.0.1.1 . 22 : jump sub }
}
  chain sub {
reject with icmpx admin-prohibited
}
  chain forw {
type filter hook forward priority 10; policy accept;
iifname @names ct state { established, related } accept
ip saddr . tcp dport vmap @m
oifname "veth*" meta mark and 0xff != 0x10 log prefix "x " limit rate 5/second drop
}
}
table bridge four {
chain p {
type filter hook prerouting priority -200; policy accept;
ether type arp drop
}
}
table arp five {
chain i {
type filter hook input priority 0; policy accept
}
}
table netdev six {
chain g {
type filter hook ingress device "lo" priority 0; policy accept;
ip saddr 1.2.3.4 drop
}
}
`

func TestRulesAreThoseThatNFTLists(t *testing.T) {
	a := freshNFT(t)
	nftFile(t, everyFamily)
	r, err := a.everything(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var listing struct {
		Nftables []struct {
			Table *struct{ Family, Name string }
			Chain *struct {
				Family, Table, Name, Type, Hook, Policy string
				Prio                                    int
			}
			Rule *struct {
				Family, Table, Chain string
				Handle               uint64
			}
		}
	}
	if err := json.Unmarshal([]byte(nftOutput(t, "-j", "list", "ruleset")), &listing); err != nil {
		t.Fatal(err)
	}
	want, have := map[string]bool{}, map[string]bool{}
	for _, x := range listing.Nftables {
		switch {
		case x.Table != nil:
			want[x.Table.Family+" "+x.Table.Name] = true
		case x.Chain != nil:
			c := x.Chain
			want[fmt.Sprint(c.Family, c.Table, c.Name, c.Type, c.Hook, c.Prio, c.Policy == "drop")] = true
		case x.Rule != nil:
			want[fmt.Sprint(x.Rule.Family, x.Rule.Table, x.Rule.Chain, " rule ", x.Rule.Handle)] = true
		}
	}
	for _, table := range r.Tables {
		have[table.String()] = true
		for _, c := range table.Chains {
			have[fmt.Sprint(table.Family, table.Name, c.Name, c.Type, c.Hook, c.Priority, c.Drop)] = true
			for _, rule := range c.Rules {
				have[fmt.Sprint(table.Family, table.Name, c.Name, " rule ", rule.Handle)] = true
			}
		}
	}
	if !maps.Equal(want, have) {
		t.Errorf("nft lists\n%v\nread was\n%v", slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(have)))
	}
	if dev := r.Table("netdev", "six").Chain("g").Devices; !slices.Equal(dev, []string{"lo"}) {
		t.Errorf("devices of the ingress chain: %v", dev)
	}
	for _, text := range []string{
		`meta l4proto tcp th dport 8080 dnat to 10.0.0.1:80 comment "a door"`, "meta l4proto tcp th dport { 22, 80-90 } accept", "ip saddr 10.0.0.0/8 counter packets 0 bytes 0 drop",
		"iifname @names ct state { established, related } accept", `oifname "veth*" meta mark and 0xff != 0x10 log prefix "x " limit rate 5/second drop`,
		"ether type arp drop", "reject with icmpx admin-prohibited",
	} {
		if !slices.Contains(textsOf(r), text) {
			t.Errorf("no rule is written %s\nthere are\n%s", text, strings.Join(textsOf(r), "\n"))
		}
	}
}

func textsOf(r *ruleset.Ruleset) (texts []string) {
	for _, table := range r.Tables {
		for _, c := range table.Chains {
			for _, rule := range c.Rules {
				texts = append(texts, rule.String())
			}
		}
	}
	return texts
}

func TestLegacyTablesCountOnlyWithRules(t *testing.T) {
	a := freshNFT(t)
	nettest.Need(t, nettest.Root, "iptables-legacy", "ip6tables-legacy")
	run := func(words string) {
		t.Helper()
		f := strings.Fields(words)
		if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%s: %v: %s", words, err, out) // a kernel without it
		}
	}
	t.Cleanup(func() {
		for _, c := range []string{"iptables-legacy -F", "iptables-legacy -P FORWARD ACCEPT", "ip6tables-legacy -t mangle -F", "iptables-legacy -t nat -F"} {
			f := strings.Fields(c)
			exec.Command(f[0], f[1:]...).Run()
		}
	})
	for _, step := range []struct {
		command string
		want    []string
	}{
		{"iptables-legacy -L", nil},
		{"iptables-legacy -P FORWARD DROP", []string{"ip filter"}},
		{"iptables-legacy -P FORWARD ACCEPT", nil},
		{"ip6tables-legacy -t mangle -A PREROUTING -j ACCEPT", []string{"ip6 mangle"}},
		{"iptables-legacy -t nat -A PREROUTING -p tcp -j REDIRECT", []string{"ip nat", "ip6 mangle"}},
	} {
		run(step.command)
		r, err := a.everything(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(r.Legacy, step.want) {
			t.Errorf("after %s: %v, wanted %v", step.command, r.Legacy, step.want)
		}
	}
	r, _ := a.everything(t.Context(), nil)
	v := diagnose.Walk(r, nil, diagnose.At{Hook: "prerouting"}, diagnose.Packet{})
	if v.Kind != diagnose.Unknown {
		t.Errorf("with rules of iptables-legacy the walk says %s", v)
	}
}

// manyRules are ten thousand rules and thirty thousand elements of another
// program.
func manyRules() string {
	var b strings.Builder
	b.WriteString("table inet foreign {\nset big { type ipv4_addr . inet_proto . inet_service; }\nset nets { type ipv4_addr; flags interval; }\n")
	b.WriteString("chain f { type filter hook forward priority 0; policy accept;\n")
	for i := range 10000 {
		fmt.Fprintf(&b, "ip saddr 10.%d.%d.0/24 tcp dport %d drop\n", i/250%250, i%250, i)
	}
	b.WriteString("ip daddr . meta l4proto . th dport @big drop\nip saddr @nets drop\n}\n}\n")
	b.WriteString("add element inet foreign big { ")
	for i := range 30000 {
		fmt.Fprintf(&b, "10.0.%d.%d . tcp . %d, ", i/250, i%250, 1+i)
	}
	b.WriteString("}\nadd element inet foreign nets { ")
	for i := range 5000 {
		fmt.Fprintf(&b, "11.%d.%d.0/25, ", i/250, i%250)
	}
	b.WriteString("}\n")
	return b.String()
}

func BenchmarkRulesOfAFullHost(b *testing.B) {
	a := freshNFT(b)
	nftFile(b, manyRules())
	var r *ruleset.Ruleset
	start := time.Now()
	for b.Loop() {
		var err error
		if r, err = a.everything(b.Context(), nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(time.Since(start).Milliseconds())/float64(b.N), "ms/read")
	if n := len(r.Table("inet", "foreign").Sets["big"].Elements); n != 30000 {
		b.Errorf("%d elements were read", n)
	}
}

// There may be a set in each of ten thousand rules, and the kernel needs a search
// through all of them for each: 24 s for all on the machine this was measured on.
func TestSetsInRulesAreReadWhenSomebodyAsks(t *testing.T) {
	a := freshNFT(t)
	nftFile(t, "table inet foreign {\nchain f {\ntcp dport { 22, 80 } accept\ntcp dport { 443, 8443 } drop\n}\n}\n")
	read := func() *ruleset.Chain {
		t.Helper()
		r, err := a.everything(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return r.Table("inet", "foreign").Chain("f")
	}
	setOf := func(r *ruleset.Rule) *ruleset.Set {
		for _, e := range r.Exprs {
			if l, ok := e.(ruleset.Lookup); ok {
				return l.Set
			}
		}
		t.Fatalf("no set in %v", r.Exprs)
		return nil
	}
	c := read()
	holds := func(r *ruleset.Rule, want int, wantPartial bool) {
		t.Helper()
		if all, partial := setOf(r).All(); len(all) != want || partial != wantPartial {
			t.Errorf("in the set of a rule are %v, partial %t", all, partial)
		}
	}
	if s := setOf(c.Rules[0]); len(s.Elements) != 0 {
		t.Errorf("before it was asked for: %+v", s)
	}
	holds(c.Rules[0], 2, false)
	for i, want := range []string{"meta l4proto tcp th dport { 22, 80 } accept", "meta l4proto tcp th dport { 443, 8443 } drop"} {
		if got := c.Rules[i].String(); got != want {
			t.Errorf("%q is shown as %q", want, got)
		}
	}
	// A rule that went meanwhile, and another that got the name of its set.
	nftFile(t, "add rule inet foreign f tcp dport { 7, 9 } drop\n")
	c = read()
	nftFile(t, fmt.Sprintf("delete rule inet foreign f handle %d\nadd rule inet foreign f tcp dport { 1, 2, 3 } drop\n", c.Rules[0].Handle))
	if again := setOf(read().Rules[2]); again.Name != setOf(c.Rules[0]).Name {
		t.Fatalf("the name %s is not given again, but %s", setOf(c.Rules[0]).Name, again.Name)
	}
	holds(c.Rules[0], 0, true)
	holds(c.Rules[1], 2, false)
}
