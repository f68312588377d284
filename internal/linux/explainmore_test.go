package linux

import (
	"fmt"
	"slices"
	"strings"

	"drawbridge/internal/diagnose"
)

// govern is policy routing, and what else people tell the kernel about ways.
func (c *country) govern(end diagnose.End) {
	rnd, six := c.rnd, end.Addr.Is6()
	lan, far, sub := lanAddr[six], farAddr[six], end.Subnet.String()
	one := map[bool]string{false: "/32", true: "/128"}[six]
	family, ipWord := "-4", "ip"
	if six {
		family, ipWord = "-6", "ip6"
	}
	ip := func(line string) { c.tried("ip", append([]string{family}, strings.Fields(line)...)...) }
	// A table that knows less, more, or otherwise.
	table := func() {
		for _, line := range [][]string{
			{"blackhole default"}, {"unreachable default"}, {"prohibit default"}, {"throw default"},
			{"default via " + lan + " dev " + c.up()}, {far + one + " via " + lan + " dev " + c.up()},
			{lan + one + " dev virbr1"}, {sub + " dev " + end.Bridge, "prohibit default"}, {end.Addr.String() + one + " dev virbr0"},
		}[rnd.IntN(9)] {
			ip("route replace " + line + " table 100")
		}
	}
	switch rnd.IntN(10) {
	case 0:
		table()
		ip("rule add from " + pick(rnd, sub, end.Addr.String(), lan, hostAddr[six]) + " lookup 100 priority 77")
	case 1:
		table()
		ip("rule add iif " + pick(rnd, end.Bridge, c.up(), "lo") + " lookup 100 priority 77")
	case 2:
		table()
		ip("rule add to " + pick(rnd, sub, far, lan, end.Addr.String()) + " lookup 100 priority 77")
	case 3:
		table()
		ip("rule add fwmark 1 lookup 100 priority 77")
		hook, kind := pick(rnd, "prerouting", "prerouting", "output"), "filter"
		if hook == "output" {
			kind = pick(rnd, "filter", "route")
		}
		c.foreign("inet", fmt.Sprintf("%s hook %s priority %d", kind, hook, pick(rnd, -150, -50)), "accept",
			pick(rnd, "", ipWord+" saddr "+sub, ipWord+" daddr "+far, "tcp dport 80", "ct state new", "ct direction reply")+" meta mark set 1")
	case 4:
		// With a mark that belongs to the connection, as people do for answers.
		table()
		ip("rule add fwmark 1 lookup 100 priority 77")
		c.foreign("inet", "filter hook prerouting priority -150", "accept", "iifname "+pick(rnd, end.Bridge, c.up(), "up1")+" ct state new ct mark set 1", "ct direction "+pick(rnd, "original", "reply")+" meta mark set ct mark")
		c.foreign("inet", "route hook output priority -150", "accept", "meta mark set ct mark")
	case 5:
		ip(fmt.Sprintf("rule add ipproto %s %s priority 77", pick(rnd, "tcp", "tcp dport 80", "tcp sport 80", pick(rnd, "icmp", "ipv6-icmp")), pick(rnd, "blackhole", "prohibit", "unreachable")))
	case 6:
		// Everything but the default route, then a table of its own: how VPNs do it.
		table()
		ip("rule add not fwmark 51820 lookup 100 priority 77")
		ip("rule add lookup main suppress_prefixlength 0 priority 76")
	case 7:
		c.narrow = true
		ip(fmt.Sprintf("route replace %s via %s dev %s mtu %s%d", pick(rnd, far+one, far+one, "default"), lan, c.up(), pick(rnd, "", "lock "), 1280+10*rnd.IntN(20)))
	case 8:
		link, mode := pick(rnd, end.Bridge, c.up(), "all"), pick(rnd, "1", "1", "2")
		c.noted("rp_filter of %s=%s", link, mode)
		c.set("ipv4/conf/"+link+"/rp_filter", mode)
		if rnd.IntN(2) == 0 {
			ip("route replace " + pick(rnd, lan, far, end.Addr.String()) + one + " dev " + pick(rnd, "virbr1", c.up()))
		}
	case 9:
		link := pick(rnd, end.Bridge, c.up(), end.Port)
		c.noted("disable_ipv6 of %s", link)
		c.set("ipv6/conf/"+link+"/disable_ipv6", "1")
	}
}

// firewall is one of somebody else with structure: sets, maps of verdicts, chains
// that are jumped to.
func (c *country) firewall(end diagnose.End) {
	rnd, six := c.rnd, end.Addr.Is6()
	ip, typ := "ip", "ipv4_addr"
	if six {
		ip, typ = "ip6", "ipv6_addr"
	}
	other := c.ends[rnd.IntN(len(c.ends))]
	for other.Addr.Is6() != six {
		other = c.ends[rnd.IntN(len(c.ends))]
	}
	name := fmt.Sprintf("foreign%d", len(c.faults))
	hook := pick(rnd, "forward", "forward", "input", "output")
	reject := pick(rnd, "reject", "reject with icmpx admin-prohibited", "meta l4proto tcp counter reject with tcp reset", "drop")
	end2 := pick(rnd, "counter accept", "counter drop", "counter return", "counter "+reject)
	if strings.HasPrefix(reject, "meta") {
		end2 = strings.TrimPrefix(end2, "counter ")
	}
	rules := []string{
		"ct state vmap { established : accept, related : accept, invalid : drop }",
		"ct state established,related counter accept",
		ip + " saddr @friends counter " + pick(rnd, "accept", "drop", "jump later", "goto later"),
		ip + " daddr != @friends counter " + pick(rnd, "jump later", "goto later", "accept"),
		ip + " saddr . " + ip + " daddr @pairs counter " + pick(rnd, "accept", "drop"),
		"counter tcp dport vmap @ports",
		"counter meta l4proto vmap { tcp : " + pick(rnd, "jump later", "goto later", "accept") + ", icmp : accept, ipv6-icmp : accept }",
		"counter " + ip + " daddr vmap @whom",
		"meta mark set tcp dport map { 80 : 1, 22 : 2 }",
		"meta mark 1 counter " + pick(rnd, "accept", "drop", "jump later"),
		"iifname . oifname { virbr0 . virbr1, virbr0 . " + c.up() + ", " + c.up() + " . virbr0 } counter " + pick(rnd, "accept", "drop"),
		"ct status dnat counter accept",
		"ct original " + ip + " daddr " + hostAddr[six] + " counter " + pick(rnd, "accept", "drop"),
		"tcp flags & (syn | ack) == syn counter jump later",
		"fib saddr . iif oif missing counter drop",
		"fib daddr type local counter " + pick(rnd, "accept", "return"),
		"limit rate 100/second counter accept",
		"ct count over 100 counter drop",
	}
	if hook == "output" {
		rules = slices.DeleteFunc(rules, func(r string) bool { return strings.HasPrefix(r, "fib saddr") })
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", name)
	fmt.Fprintf(&b, "set friends { type %s; flags interval; auto-merge; elements = { %s, %s, %s }; }\n", typ, end.Subnet, pick(rnd, lanAddr[six], hostAddr[six]), farAddr[six])
	fmt.Fprintf(&b, "set pairs { type %s . %s; elements = { %s . %s, %s . %s }; }\n", typ, typ, end.Addr, lanAddr[six], end.Addr, other.Addr)
	fmt.Fprintf(&b, "chain last {\n%s\n}\n", end2)
	fmt.Fprintf(&b, "chain later {\n%s\n%s counter %s\n}\n", pick(rnd, rules...), pick(rnd, "tcp dport 80", ip+" daddr "+other.Addr.String(), "ct state new", "meta nfproto ipv6"), pick(rnd, "jump last", "goto last", "accept", "drop", "return"))
	fmt.Fprintf(&b, "map ports { type inet_service : verdict; elements = { 80 : %s, 22 : drop, 8080 : accept }; }\n", pick(rnd, "accept", "drop", "jump last", "goto last", "return"))
	fmt.Fprintf(&b, "map whom { type %s : verdict; elements = { %s : %s, %s : %s }; }\n", typ, end.Addr, pick(rnd, "accept", "drop", "goto last"), lanAddr[six], pick(rnd, "accept", "drop", "jump last"))
	fmt.Fprintf(&b, "chain c {\ntype filter hook %s priority %d; policy %s;\n", hook, pick(rnd, -10, 0, 10), pick(rnd, "accept", "drop"))
	if rnd.IntN(3) > 0 {
		fmt.Fprintf(&b, "%s\n", rules[rnd.IntN(2)])
	}
	if six || rnd.IntN(2) == 0 {
		fmt.Fprintf(&b, "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } counter accept\n")
	}
	for range 1 + rnd.IntN(4) {
		fmt.Fprintf(&b, "%s\n", pick(rnd, rules...))
	}
	fmt.Fprintf(&b, "counter\n}\n}\n")
	text := b.String()
	if strings.Contains(text, "goto later") || strings.Contains(text, "jump later") {
		// Chains must not lead back to themselves.
		at, end := strings.Index(text, "chain later {"), strings.Index(text, "map ports")
		text = text[:at] + strings.NewReplacer("jump later", "accept", "goto later", "accept").Replace(text[at:end]) + text[end:]
	}
	c.faults = append(c.faults, text)
	if out, err := feed("nft", text); err != nil {
		c.t.Fatalf("%v: %s: %s", err, text, out)
	}
}
