package linux

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// grammarSets are sets for the rules below, as nft writes them.
var grammarSets = []host.Set{
	{Name: "bridges", Type: "ifname"},
	{Name: "within", Type: "ifname . ifname"},
	{Name: "from_guests", Type: "ifname", Value: "verdict"},
	{Name: "sources4", Type: "ifname . ipv4_addr", Interval: true},
	{Name: "sources6", Type: "ifname . ipv6_addr", Interval: true},
	{Name: "hidden4", Type: "ipv4_addr", Interval: true},
	{Name: "hidden6", Type: "ipv6_addr", Interval: true},
	{Name: "fw4", Type: "ipv4_addr . inet_proto . inet_service", Value: "ipv4_addr . inet_service"},
	{Name: "fw4range", Type: "ipv4_addr . inet_proto . inet_service", Value: "ipv4_addr", Interval: true},
	{Name: "fw6", Type: "ipv6_addr . inet_proto . inet_service", Value: "ipv6_addr . inet_service"},
	{Name: "fwany", Type: "inet_proto . inet_service", Value: "ipv4_addr . inet_service"},
	{Name: "sources", Type: "ipv4_addr", Value: "ipv4_addr"},
	{Name: "doors6", Type: "inet_proto . inet_service", Value: "ipv6_addr . inet_service"},
	{Name: "doors_ranges4", Type: "inet_proto . inet_service", Value: "ipv4_addr", Interval: true},
	{Name: "doors_ranges6", Type: "inet_proto . inet_service", Value: "ipv6_addr", Interval: true},
	{Name: "shifted4", Type: "inet_proto . inet_service", Value: "ipv4_addr . inet_service", Interval: true},
	{Name: "from4", Type: "ipv4_addr . inet_proto . inet_service", Value: "ipv4_addr . inet_service", Interval: true},
	{Name: "from6", Type: "ipv6_addr . inet_proto . inet_service", Value: "ipv6_addr . inet_service", Interval: true},
	{Name: "from_at4", Type: "ipv4_addr . ipv4_addr . inet_proto . inet_service", Value: "ipv4_addr . inet_service", Interval: true},
	{Name: "from_at6", Type: "ipv6_addr . ipv6_addr . inet_proto . inet_service", Value: "ipv6_addr . inet_service", Interval: true},
	{Name: "from_ranges_at4", Type: "ipv4_addr . ipv4_addr . inet_proto . inet_service", Value: "ipv4_addr", Interval: true},
	{Name: "from_ranges_at6", Type: "ipv6_addr . ipv6_addr . inet_proto . inet_service", Value: "ipv6_addr", Interval: true},
	{Name: "all_from4", Type: "ipv4_addr . ipv4_addr", Value: "ipv4_addr", Interval: true},
	{Name: "all_from6", Type: "ipv6_addr . ipv6_addr", Value: "ipv6_addr", Interval: true},
	{Name: "oneway6", Type: "ipv6_addr", Value: "ipv6_addr"},
	{Name: "all4", Type: "ipv4_addr", Value: "ipv4_addr", Interval: true},
	{Name: "all6", Type: "ipv6_addr", Value: "ipv6_addr", Interval: true},
	{Name: "marks", Type: "ifname", Value: "mark"},
	{Name: "byport", Type: "ipv4_addr . inet_service", Value: "verdict"},
	{Name: "bymark", Type: "ifname . mark", Value: "verdict"},
	{Name: "macs", Type: "ifname . ether_addr . ipv4_addr"},
}

// grammar has every production of the language, by the chain it can stand in.
var grammar = map[string][]string{
	"inet filter": {
		"iifname . oifname @within accept",
		"oifname vmap @from_guests",
		"iifname @bridges jump other",
		"iifname != @bridges goto other",
		"udp dport 67 counter accept",
		"icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept",
		"icmp type echo-request accept",
		"iifname . ip saddr @sources4 accept",
		"iifname . ip6 saddr @sources6 accept",
		"counter reject with icmpx admin-prohibited",
		"ct state { established, related } accept",
		"ct state { new } accept",
		"ct state established,related accept",
		"ct state new accept",
		"ct state != new accept",
		"ct state vmap { established : accept, related : jump other, invalid : drop }",
		"ct status dnat accept",
		"iifname @bridges ip daddr 127.0.0.0/8 drop",
		"meta l4proto != { tcp, udp, sctp } return",
		"meta l4proto != { tcp, udp } th dport 53 accept",
		"ct status snat,dnat accept",
		"ct status dnat ct state new accept",
		"ct direction reply accept",
		"ct mark 0x1 accept",
		"ct mark and 0xf == 1 accept",
		"ct original ip daddr 10.0.0.1 accept",
		"ct original ip daddr 10.0.0.0/24 accept",
		"ct reply ip6 saddr fd00::1 accept",
		"tcp dport 80 ct original proto-dst 8080 accept",
		"ip saddr 10.0.0.1 ip daddr 10.0.0.2 tcp dport 80 accept",
		"ip saddr 10.0.0.0/9 accept",
		"ip saddr != 10.0.0.0/24 accept",
		"ip saddr 0.0.0.0/0 accept",
		"ip saddr 10.0.0.1-10.0.0.7 accept",
		"ip saddr @hidden4 ip daddr != @hidden4 accept",
		"ip6 saddr fe80::/10 accept",
		"ip6 saddr { fd00::/64, fe80::1, fd01::1-fd01::9 } accept",
		"ip6 daddr ff00::/8 return",
		"ip saddr { 10.0.0.0/8 } accept",
		"ip daddr { 224.0.0.0/4, 255.255.255.255 } return",
		"ip daddr != { 10.0.0.1, 10.0.0.2 } accept",
		"ip saddr . ip daddr { 10.0.0.1 . 10.0.0.2 } accept",
		"iifname . ip saddr { a . 10.0.0.0/24, b . 10.0.0.5 } accept",
		"iifname . ip saddr . th dport { a . 10.0.0.1 . 80 } accept",
		"ip saddr . th dport vmap @byport",
		"ip protocol . th dport { tcp . 80 } accept",
		"iifname . meta mark vmap @bymark",
		"tcp dport 10-20 drop",
		"tcp dport != 10-20 drop",
		"tcp dport { 10, 20-30 } drop",
		"tcp dport vmap { 22 : accept, 80-90 : drop }",
		"tcp sport 1 tcp dport 2 drop",
		"tcp dport 2 tcp sport 1 drop",
		"tcp sport 1 tcp dport != 2 drop",
		"tcp sport 1 iifname a tcp dport 2 drop",
		"sctp dport 5 accept",
		"th dport 53 accept",
		"meta l4proto tcp tcp dport 80 accept",
		"meta l4proto { tcp, udp } th dport { 53, 67 } accept",
		"meta l4proto ipv6-icmp icmpv6 type nd-router-advert accept",
		"meta l4proto icmpv6 accept",
		"meta nfproto ipv4 ip saddr 10.0.0.1 accept",
		"meta protocol ip ip saddr 10.0.0.1 accept",
		"ip protocol udp udp dport 53 accept",
		"ip6 nexthdr tcp accept",
		"ip6 saddr ::1 tcp dport 53 accept",
		"ip saddr 10.0.0.1 udp sport 67 udp dport 68 accept",
		"icmp type echo-request ip saddr 10.0.0.1 accept",
		"iifname \"vnet*\" accept",
		"iifname vnet* accept",
		"iifname a oifname != b continue",
		"iifname { a, b } accept",
		"iifname { a } accept",
		"meta iifname a accept",
		"meta mark 0x10 accept",
		"meta mark != 1 accept",
		"meta mark and 0xff != 0x10 accept",
		"meta mark { 1, 2 } accept",
		"meta mark set 0x10",
		"meta mark set ct mark",
		"ct mark set 16",
		"ct mark set meta mark",
		"meta mark set iifname map @marks",
		"meta mark set iifname map { a : 0x1, b : 0x2 }",
		"meta pkttype broadcast drop",
		"fib daddr type local accept",
		"fib saddr type { local, broadcast } accept",
		"iifname lo fib daddr . iif type local accept",
		"ether saddr 52:54:00:00:00:01 accept",
		"ether type ip ip saddr 10.0.0.1 accept",
		"ether saddr 52:54:00:00:00:01 ip saddr 10.0.0.1 accept",
		"ip saddr 10.0.0.1 ether saddr 52:54:00:00:00:01 accept",
		"ether saddr 52:54:00:00:00:01 icmpv6 type nd-router-advert drop",
		"reject",
		"ip saddr 10.0.0.1 reject",
		"ip6 saddr fd00::1 reject",
		"reject with tcp reset",
		"tcp dport 80 reject with tcp reset",
		"reject with icmp host-unreachable",
		"reject with icmpv6 no-route",
		"notrack",
	},
	"inet dstnat": {
		"dnat ip to ip daddr . meta l4proto . th dport map @fw4",
		"dnat ip6 to ip6 daddr . meta l4proto . th dport map @fw6",
		"dnat ip to ip daddr . ip protocol . th dport map @fw4range",
		"fib daddr type local dnat ip to meta l4proto . th dport map @fwany",
		"meta l4proto != { tcp, udp, sctp } return",
		"fib daddr type local jump other",
		"fib daddr type != local return",
		"dnat ip to meta l4proto . th dport map @fwany",
		"dnat ip6 to meta l4proto . th dport map @doors6",
		"dnat ip to meta l4proto . th dport map @doors_ranges4",
		"dnat ip6 to meta l4proto . th dport map @doors_ranges6",
		"meta l4proto { tcp, udp, sctp } dnat ip to meta l4proto . th dport map @shifted4",
		"meta nfproto ipv4 dnat ip to meta l4proto . th dport map @fwany",
		"meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @doors6",
		"dnat ip to ip saddr . meta l4proto . th dport map @fw4range",
		"meta l4proto { tcp, udp, sctp } dnat ip to ip saddr . meta l4proto . th dport map @from4",
		"meta l4proto { tcp, udp, sctp } dnat ip6 to ip6 saddr . meta l4proto . th dport map @from6",
		"meta l4proto { tcp, udp, sctp } dnat ip to ip saddr . ip daddr . meta l4proto . th dport map @from_at4",
		"meta l4proto { tcp, udp, sctp } dnat ip6 to ip6 saddr . ip6 daddr . meta l4proto . th dport map @from_at6",
		"dnat ip to ip saddr . ip daddr . meta l4proto . th dport map @from_ranges_at4",
		"dnat ip6 to ip6 saddr . ip6 daddr . meta l4proto . th dport map @from_ranges_at6",
		"dnat ip to ip saddr . ip daddr map @all_from4",
		"dnat ip6 to ip6 saddr . ip6 daddr map @all_from6",
		"dnat ip to ip daddr map @all4",
		"dnat ip6 to ip6 daddr map @all6",
		"dnat ip to ip daddr map { 1.2.3.4 : 10.0.0.1, 1.2.3.5 : 10.0.0.2 }",
		"dnat ip to ip daddr . ip protocol . th dport map { 1.2.3.4 . tcp . 80 : 10.0.0.1 . 8080 }",
		"tcp dport 80 dnat ip to 10.0.0.1:80",
		"tcp dport 80 dnat ip to 10.0.0.1",
		"tcp dport 80 dnat ip6 to [fd00::1]:80",
		"tcp dport 80 dnat ip6 to fd00::1",
		"ip daddr 1.2.3.4 dnat to 10.0.0.1",
		"dnat ip to 10.0.0.1-10.0.0.9",
		"ip daddr 1.1.1.1 tcp dport 80-90 dnat ip to 10.0.0.1:80-90",
		"ip daddr 1.1.1.1 tcp dport 80 dnat ip to 10.0.0.1:8080 persistent",
		"tcp dport 80 redirect to :81",
		"redirect",
	},
	"inet srcnat": {
		"oifname @bridges return",
		"ip saddr @hidden4 masquerade",
		"ip6 saddr @hidden6 masquerade",
		"ip saddr @hidden4 oifname \"x\" ct status dnat masquerade",
		"masquerade random",
		"masquerade fully-random,persistent",
		"ip saddr 10.0.0.0/24 ip daddr != 10.0.0.0/24 masquerade",
		"ip saddr 10.0.0.1 snat to 1.2.3.4",
		"snat ip to ip saddr map @sources",
		"snat ip6 to ip6 saddr map @all6",
		"snat ip6 to ip6 saddr map @oneway6",
		"oifname . ip saddr @sources4 ct status dnat masquerade",
		"oifname . ip6 saddr @sources6 ct status dnat masquerade",
		"oifname @bridges ip saddr 127.0.0.0/8 ct status dnat masquerade",
	},
	"bridge filter": {
		"iifname @bridges jump other",
		"ether type ip udp sport 67 udp dport 68 counter drop",
		"ether type ip6 icmpv6 type nd-router-advert counter drop",
		"udp dport 53 drop",
		"ip saddr 1.2.3.4 drop",
		"ip6 saddr ::1 drop",
		"ip6 saddr ::1 ip6 daddr ::2 drop",
		"icmpv6 type nd-router-advert drop",
		"icmp type echo-request drop",
		"ether saddr 52:54:00:00:00:01 ip saddr 1.2.3.4 drop",
		"ether saddr . ip saddr { 52:54:00:00:00:01 . 1.2.3.4 } drop",
		"ether saddr 52:54:00:00:00:01 ether type arp drop",
		"ether saddr 52:54:00:00:00:01 icmpv6 type nd-router-advert drop",
		"ether type { ip, arp, ip6 } accept",
		"ether type != ip drop",
		"ether type 0x88cc drop",
		"ether daddr 01:80:c2:00:00:0e drop",
		"ether daddr 01:80:c2:00:00:0e ether saddr 52:54:00:00:00:01 drop",
		"ether type ip ip protocol udp drop",
		"ether type ip6 ip6 saddr ::1 icmpv6 type nd-router-advert drop",
		"meta protocol ip ip saddr 10.0.0.1 drop",
		"arp operation request drop",
		"arp operation request arp saddr ip 1.2.3.4 drop",
		"arp operation reply arp saddr ether 52:54:00:00:00:01 drop",
		"arp saddr ether 52:54:00:00:00:01 arp saddr ip 1.2.3.4 drop",
		"arp saddr ether . arp saddr ip { 52:54:00:00:00:01 . 1.2.3.4 } accept",
		"iifname . ether saddr . ip saddr @macs accept",
		"meta pkttype multicast drop",
	},
}

// grammarChains are where the rules of the grammar stand.
func grammarChain(where, name string) host.Chain {
	family, kind, _ := strings.Cut(where, " ")
	c := host.Chain{Table: host.Table{Family: host.Family(family)}, Name: name}
	switch kind {
	case "dstnat":
		c.Type, c.Hook, c.Priority = "nat", "prerouting", -100
	case "srcnat":
		c.Type, c.Hook, c.Priority = "nat", "postrouting", 100
	case "filter":
		if c.Type, c.Hook, c.Priority = "filter", "forward", 0; family == "bridge" {
			c.Priority = -200
		}
	}
	return c
}

// TestCompileAsNFT gives the rules to nft and to our compiler, and has nft list
// what the kernel got in both cases, as instructions and as text.
func TestCompileAsNFT(t *testing.T) {
	for where, rules := range grammar {
		t.Run(where, func(t *testing.T) { checkAsNFT(t, where, rules) })
	}
}

// TestCombinationsAsNFT does the same with every two matches side by side: what
// one says about the packet must not be asked again by the next, and bytes that
// lie side by side are compared at once. What we refuse is left out; what we
// take, nft must take.
func TestCombinationsAsNFT(t *testing.T) {
	matches := map[string][]string{
		"inet filter": {
			"iifname a", "iifname . ip saddr @sources4", "ip saddr 10.0.0.1", "ip daddr @hidden4", "ip daddr 10.0.0.0/24", "ip6 saddr fd00::1",
			"ip6 daddr @hidden6", "tcp dport 80", "tcp sport 1-9", "tcp sport 5", "udp dport { 53, 67 }", "th dport 53", "ct state new", "ct status dnat",
			"meta l4proto tcp", "meta l4proto { tcp, udp }", "ip protocol tcp", "ip6 nexthdr udp", "icmp type echo-request", "icmpv6 type nd-router-advert",
			"ether saddr 52:54:00:00:00:01", "ether type ip", "ether type ip6", "meta nfproto ipv4", "meta nfproto ipv6", "meta protocol ip",
			"fib daddr type local", "meta mark 1", "ct original ip daddr 10.0.0.1",
		},
		"bridge filter": {
			"iifname a", "ether saddr 52:54:00:00:00:01", "ether daddr 52:54:00:00:00:02", "ether type ip", "ether type ip6", "ether type arp",
			"ip saddr 10.0.0.1", "ip daddr @hidden4", "ip6 saddr fd00::1", "arp operation reply", "arp saddr ip 10.0.0.1", "arp saddr ether 52:54:00:00:00:01",
			"iifname . ether saddr . ip saddr @macs", "udp sport 67", "udp dport 68", "tcp dport 80", "icmpv6 type nd-router-advert", "icmp type echo-request",
			"meta protocol ip", "ip protocol udp", "meta l4proto udp", "meta pkttype multicast",
		},
	}
	for where, list := range matches {
		t.Run(where, func(t *testing.T) {
			chain := grammarChain(where, "here")
			var rules []string
			for _, one := range list {
				for _, two := range list {
					if inward[[2]string{strings.Fields(one)[0], strings.Fields(two)[0]}] {
						continue
					}
					rule := one + " " + two + " counter drop"
					if _, err := compileRule(chain.Table.Family, rule, grammarSet); err == nil {
						rules = append(rules, rule)
					}
				}
			}
			if len(rules) < len(list)*len(list)/2 {
				t.Errorf("only %d of %d rules compile", len(rules), len(list)*len(list))
			}
			checkAsNFT(t, where, rules)
		})
	}
}

// inward are matches in an order that nobody writes, the inner header first: nft
// sorts them before it joins what is side by side, we do not. Both are right.
var inward = map[[2]string]bool{
	{"arp", "ether"}: true, {"icmp", "ether"}: true, {"icmpv6", "ether"}: true, {"th", "tcp"}: true,
}

// grammarSet finds a set of the grammar.
func grammarSet(name string) (*nftSet, error) {
	for _, s := range grammarSets {
		if s.Name == name {
			return newSet(s)
		}
	}
	return nil, fmt.Errorf("no set %s", name)
}

func checkAsNFT(t *testing.T, where string, rules []string) {
	a := freshNFT(t)
	var lines []string
	for i, rule := range rules {
		lines = append(lines, fmt.Sprintf("%s comment \"rule %d\"", rule, i))
	}
	chain := grammarChain(where, "here")
	chain.Rules = strings.Join(lines, "\n")
	chain.Table.Name = "theirs"
	nftFile(t, asFile(chain))
	chain.Table.Name = "ours"
	if err := a.apply(t.Context(), asSteps(chain)); err != nil {
		t.Fatalf("apply: %v", err)
	}
	for _, how := range []string{"-s list chain %s %s here", "--debug=netlink list chain %s %s here"} {
		theirs := normal(nftOutput(t, strings.Fields(fmt.Sprintf(how, chain.Table.Family, "theirs"))...))
		ours := normal(nftOutput(t, strings.Fields(fmt.Sprintf(how, chain.Table.Family, "ours"))...))
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("%s: nft (-) and we (+) differ:\n%s", how, diff)
		}
	}
	seen, err := a.observe(t.Context(), []host.Key{chain.Key()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(host.NewState(chain), seen); diff != "" {
		t.Errorf("wanted (-) and observed (+) differ:\n%s", diff)
	}
	// What nft made of the text, without our user data, is not ours but must be
	// the same to the comparison that observe makes.
	checkSameCanonical(t, a, chain)
}

// checkSameCanonical compiles each line and compares with nft's rules.
func checkSameCanonical(t *testing.T, a *nftAdapter, chain host.Chain) {
	t.Helper()
	theirs := host.Table{Family: chain.Table.Family, Name: "theirs"}
	v := a.view()
	rules, err := v.rules(theirs, chain.Name)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(chain.Rules, "\n") {
		there, err := canonicalRule(rules[chain.Name][i].exprs, func(name string) (*nftSet, error) { return v.anonymous(theirs, name) })
		if err != nil {
			t.Fatal(err)
		}
		there = idleCanonical.ReplaceAllString(there, "")
		rule, err := compileRule(chain.Table.Family, line, func(name string) (*nftSet, error) { return v.set(theirs, name) })
		if err != nil {
			t.Fatal(err)
		}
		want, err := rule.canonical(chain.Table.Family)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(there, want); diff != "" {
			t.Errorf("%s: nft (-) and we (+) differ:\n%s", line, diff)
		}
	}
}

// asSteps makes steps for a table with the sets of the grammar and a chain.
func asSteps(chain host.Chain) []plan.Step {
	steps := []plan.Step{{After: chain.Table}}
	for _, s := range grammarSets {
		s.Table = chain.Table
		steps = append(steps, plan.Step{After: s})
	}
	return append(steps, plan.Step{After: host.Chain{Table: chain.Table, Name: "other"}}, plan.Step{After: chain})
}

// asFile writes the same for nft.
func asFile(c host.Chain) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s {\n", c.Table)
	for _, s := range grammarSets {
		kind, value, flags := "set", "", ""
		if s.Value != "" {
			kind, value = "map", " : "+s.Value
		}
		if s.Interval {
			flags = " flags interval;"
		}
		fmt.Fprintf(&b, "%s %s { type %s%s;%s }\n", kind, s.Name, s.Type, value, flags)
	}
	fmt.Fprintf(&b, "chain other {}\nchain %s {\n", c.Name)
	if c.Hook != "" {
		fmt.Fprintf(&b, "type %s hook %s priority %d; policy accept;\n", c.Type, c.Hook, c.Priority)
	}
	fmt.Fprintf(&b, "%s\n}\n}\n", c.Rules)
	return b.String()
}

var (
	numbered = regexp.MustCompile(`(__(set|map))\d+|# handle \d+|\b(ours|theirs)\b|(?m)^.*(use \d|userdata = |family ).*$`)
	counts   = regexp.MustCompile(`packets \d+ bytes \d+`)
	// nft 1.0.6 turns round the bytes of a protocol before it looks it up in a
	// map of intervals. It is one byte: the kernel turns round one half of that
	// in units of two, which is nothing (nft_byteorder_eval). We leave it out.
	idleListed    = regexp.MustCompile(`(?m)^.*\[ byteorder reg \d+ = hton\(reg \d+, 2, 1\) \]\n`)
	idleCanonical = regexp.MustCompile(`(?m)^byteorder .* 4=00000001 5=00000002\n`)
)

// normal takes out of nft's output what differs by nature.
func normal(s string) string {
	s = numbered.ReplaceAllStringFunc(s, func(m string) string {
		switch {
		case strings.HasPrefix(m, "__"):
			return m[:5]
		case strings.HasPrefix(m, "#"), strings.Contains(m, "userdata"), strings.Contains(m, "use "), strings.Contains(m, "family "):
			return ""
		}
		return "table"
	})
	s = idleListed.ReplaceAllString(s, "")
	lines := strings.Split(counts.ReplaceAllString(s, ""), "\n")
	// Elements of hash tables come in any order.
	for i := 0; i < len(lines); i++ {
		n := i
		for n < len(lines) && strings.HasPrefix(lines[n], "\telement ") {
			n++
		}
		slices.Sort(lines[i:n])
		i = n
	}
	return strings.Join(lines, "\n")
}
