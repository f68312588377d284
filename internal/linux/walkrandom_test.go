package linux

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"drawbridge/internal/diagnose"
)

type randomRuleset struct{ program, text string }

func pick[T any](rnd *rand.Rand, from ...T) T { return from[rnd.IntN(len(from))] }

var walkPorts = []uint16{22, 53, 80, 443, 1000, 1001, 1500, 8080}

func randomPacket(rnd *rand.Rand) diagnose.Packet {
	six := rnd.IntN(3) == 0
	proto := pick(rnd, uint8(6), 6, 17, 17, 1)
	in := pick(rnd, "a0", "a0", "b0")
	net := map[string]int{"a0": 1, "b0": 2}[in]
	to := pick(rnd, 1, 2, 3-net)
	format := "10.%d.0.%d"
	if six {
		format = "fd0%d::%d"
		if proto == 1 {
			proto = 58
		}
	}
	target := 2 + rnd.IntN(6)
	if to == net || rnd.IntN(3) == 0 {
		target = 1
	}
	source := netip.MustParseAddr(fmt.Sprintf(format, net, 2+rnd.IntN(6)))
	p := diagnose.NewConnection(in, source, proto, netip.MustParseAddr(fmt.Sprintf(format, to, target)), 0)
	p.EtherSource = "02:00:00:00:00:55"
	p.EtherTarget = map[string]string{"a0": "02:00:00:00:0a:00", "b0": "02:00:00:00:0b:00"}[in]
	if proto == 6 || proto == 17 {
		p.SourcePort, p.TargetPort = pick(rnd, walkPorts...), pick(rnd, walkPorts...)
	}
	return p
}

func randomRules(rnd *rand.Rand) randomRuleset {
	switch rnd.IntN(5) {
	case 0:
		return randomIptables(rnd, "iptables-nft-restore", 4)
	case 1:
		return randomIptables(rnd, "ip6tables-nft-restore", 6)
	}
	var b strings.Builder
	for i := range 1 + rnd.IntN(3) {
		randomTable(rnd, &b, i)
	}
	return randomRuleset{"nft", b.String()}
}

// nftGen writes the rules of one table.
type nftGen struct {
	rnd    *rand.Rand
	family string
	chains int
}

func (g *nftGen) v6() bool {
	return g.family == "ip6" || g.family == "inet" && g.rnd.IntN(3) == 0
}

func (g *nftGen) addr(six bool) string {
	n, h := 1+g.rnd.IntN(2), 1+g.rnd.IntN(7)
	if six {
		return pick(g.rnd, fmt.Sprintf("fd0%d::%d", n, h), fmt.Sprintf("fd0%d::/64", n), fmt.Sprintf("fd0%d::1-fd0%d::%d", n, n, 2+h), fmt.Sprintf("fd0%d::/126", n))
	}
	return pick(g.rnd, fmt.Sprintf("10.%d.0.%d", n, h), fmt.Sprintf("10.%d.0.0/24", n), fmt.Sprintf("10.%d.0.1-10.%d.0.%d", n, n, 2+h), fmt.Sprintf("10.%d.0.0/30", n), "10.0.0.0/9")
}

func (g *nftGen) port() string {
	return pick(g.rnd, fmt.Sprint(pick(g.rnd, walkPorts...)), "1-1000", "1000-1500", fmt.Sprint(pick(g.rnd, walkPorts...)))
}

func (g *nftGen) not() string { return pick(g.rnd, "", "", "", "!= ") }

func (g *nftGen) match() string {
	rnd := g.rnd
	ip := "ip"
	six := g.v6()
	if six {
		ip = "ip6"
	}
	side := pick(rnd, "saddr", "daddr")
	switch rnd.IntN(24) {
	case 0, 1, 2:
		return fmt.Sprintf("%s %s %s%s", ip, side, g.not(), g.addr(six))
	case 3:
		suffix := map[bool]string{false: "4", true: "6"}[six]
		return fmt.Sprintf("%s %s %s@addrs%s", ip, side, g.not(), suffix)
	case 4, 5:
		return fmt.Sprintf("%s %s %s%s", pick(rnd, "tcp", "udp", "th"), pick(rnd, "dport", "sport"), g.not(), g.port())
	case 6:
		return fmt.Sprintf("tcp dport %s{ %d, 1000-1400, %d }", g.not(), 22+rnd.IntN(10), 8000+rnd.IntN(100))
	case 7:
		return "meta l4proto " + pick(rnd, "tcp", "udp", "{ tcp, udp }", "!= tcp", "icmp", "ipv6-icmp")
	case 8:
		return "ct state " + pick(rnd, "new", "established,related", "{ new, established }", "!= new", "invalid", "untracked")
	case 9:
		return pick(rnd, "iifname a0", "iifname b0", "iifname != a0", "iifname \"a*\"", "iif a0", "iifname { a0, c0 }", "iifgroup 7", "meta iifkind veth", "iiftype ether")
	case 10:
		return "fib daddr type " + pick(rnd, "local", "!= local", "{ local, broadcast }", "unicast")
	case 11:
		return "meta mark " + pick(rnd, "1", "!= 0", "and 0x3 == 1", "{ 1, 2 }", "0")
	case 12:
		return "ct mark " + pick(rnd, "1", "!= 0", "and 0x3 == 1", "0")
	case 13:
		return "ct status " + pick(rnd, "dnat", "snat", "seen-reply", "! dnat", "assured")
	case 14:
		return "ct direction " + pick(rnd, "original", "reply")
	case 15:
		return pick(rnd, "icmp type echo-request", "icmpv6 type echo-request", "icmp type != echo-request")
	case 16:
		return pick(rnd, "tcp flags syn / syn,ack", "tcp flags & (fin|syn|rst|ack) == syn", "tcp flags ack")
	case 17:
		if six {
			return "ip6 saddr . th dport @pairs6"
		}
		return pick(rnd, "ip saddr . th dport @pairs4", "ip saddr . ip daddr . meta l4proto { 10.1.0.2 . 10.2.0.2 . tcp, 10.1.0.3 . 10.2.0.3 . udp }", "meta l4proto . th dport { tcp . 80, udp . 53, tcp . 1000-1400 }")
	case 18:
		return pick(rnd, "ether saddr 02:00:00:00:00:55", "ether saddr != 02:00:00:00:00:55", "meta pkttype host", "ether daddr 02:00:00:00:0a:00")
	case 19:
		return pick(rnd, "tcp dport != 1 ct original proto-dst 80", "ct original ip daddr 10.2.0.1", "udp dport != 1 ct original proto-src 1000")
	case 20:
		return "meta nfproto " + pick(rnd, "ipv4", "ipv6")
	case 21:
		return pick(rnd, "fib saddr . iif oif exists", "fib saddr . iif oif missing", "fib daddr . iif type local")
	}
	return ""
}

func (g *nftGen) verdict() string {
	rnd := g.rnd
	switch rnd.IntN(14) {
	case 0, 1, 2:
		return "accept"
	case 3, 4:
		return "drop"
	case 5:
		return fmt.Sprintf("jump sub%d", rnd.IntN(g.chains))
	case 6:
		return fmt.Sprintf("goto sub%d", rnd.IntN(g.chains))
	case 7:
		return "return"
	case 8:
		return fmt.Sprintf("meta mark set %d", rnd.IntN(4))
	case 9:
		return pick(rnd, "ct mark set 1", "meta mark set ct mark", "ct mark set meta mark", "meta mark set meta mark or 2", "meta mark set mark and 1")
	case 10:
		return "counter"
	case 11:
		return fmt.Sprintf("tcp dport vmap { 80 : accept, 443 : drop, 1000-1400 : jump sub%d }", rnd.IntN(g.chains))
	case 12:
		return pick(rnd, "iifname vmap { a0 : accept, b0 : continue }", "th dport vmap @verdicts", "meta mark set th dport map @marks")
	}
	return "counter"
}

func (g *nftGen) rule(end string) string {
	var parts []string
	for range g.rnd.IntN(3) {
		parts = append(parts, g.match())
	}
	return strings.TrimSpace(strings.Join(append(parts, end), " "))
}

func randomTable(rnd *rand.Rand, b *strings.Builder, i int) {
	g := &nftGen{rnd: rnd, family: pick(rnd, "inet", "ip", "ip6", "inet"), chains: 2}
	fmt.Fprintf(b, "table %s t%d {\n", g.family, i)
	if g.family != "ip6" {
		fmt.Fprintf(b, "set addrs4 { type ipv4_addr; flags interval; elements = { 10.1.0.2, 10.1.0.4-10.1.0.6, 10.2.0.0/30 }; }\n")
		fmt.Fprintf(b, "set pairs4 { type ipv4_addr . inet_service; flags interval; elements = { 10.1.0.0/29 . 80-443, 10.2.0.2 . 53 }; }\n")
	}
	if g.family != "ip" {
		fmt.Fprintf(b, "set addrs6 { type ipv6_addr; elements = { fd01::2, fd01::4, fd02::1 }; }\n")
		fmt.Fprintf(b, "set pairs6 { type ipv6_addr . inet_service; elements = { fd01::2 . 80, fd01::3 . 53 }; }\n")
	}
	fmt.Fprintf(b, "map verdicts { type inet_service : verdict; elements = { 22 : drop, 53 : accept, 1500 : jump sub0 }; }\n")
	fmt.Fprintf(b, "map marks { type inet_service : mark; elements = { 22 : 1, 53 : 2, 80 : 3 }; }\n")
	for c := range g.chains {
		fmt.Fprintf(b, "chain sub%d {\n", c)
		for range rnd.IntN(4) {
			end := g.verdict()
			if strings.Contains(end, "sub") || strings.Contains(end, "@verdicts") {
				end = "counter" // no loops
			}
			fmt.Fprintf(b, "%s\n", g.rule(end))
		}
		fmt.Fprintf(b, "}\n")
	}
	for c := range 1 + rnd.IntN(3) {
		hook := pick(rnd, "prerouting", "input", "forward", "forward", "postrouting")
		if rnd.IntN(4) == 0 {
			g.natChain(b, fmt.Sprintf("nat%d", c))
			continue
		}
		priority := pick(rnd, -300, -150, -10, 0, 10, 50)
		fmt.Fprintf(b, "chain c%d {\ntype filter hook %s priority %d; policy %s;\n", c, hook, priority, pick(rnd, "accept", "accept", "accept", "drop"))
		for range 1 + rnd.IntN(6) {
			fmt.Fprintf(b, "%s\n", g.rule(g.ending(hook, priority)))
		}
		fmt.Fprintf(b, "}\n")
	}
	fmt.Fprintf(b, "}\n")
}

func (g *nftGen) ending(hook string, priority int) string {
	if priority == -300 && hook == "prerouting" && g.rnd.IntN(3) == 0 {
		return "notrack"
	}
	if (hook == "forward" || hook == "input") && g.rnd.IntN(5) == 0 {
		if g.family == "inet" {
			return pick(g.rnd, "reject", "reject with icmpx admin-prohibited")
		}
		return "reject"
	}
	return g.verdict()
}

func (g *nftGen) natChain(b *strings.Builder, name string) {
	rnd := g.rnd
	ip, to, net := "ip", fmt.Sprintf("10.2.0.%d", 1+rnd.IntN(6)), "10.2.0.9"
	if g.family == "ip6" || g.family == "inet" && rnd.IntN(3) == 0 {
		ip, to, net = "ip6", fmt.Sprintf("fd02::%d", 1+rnd.IntN(6)), "fd02::9"
	}
	of := ""
	if g.family == "inet" {
		of = " " + ip
	}
	withPort := to + ":80"
	if ip == "ip6" {
		withPort = "[" + to + "]:80"
	}
	if rnd.IntN(2) == 0 {
		fmt.Fprintf(b, "chain %s {\ntype nat hook prerouting priority %d;\n", name, pick(rnd, -100, -90))
		for range 1 + rnd.IntN(3) {
			end := pick(rnd, fmt.Sprintf("dnat%s to %s", of, to), fmt.Sprintf("meta l4proto { tcp, udp } dnat%s to %s", of, withPort), "meta l4proto tcp redirect to :8080", "accept", "return")
			if ip == "ip" && g.family == "ip" {
				end = pick(rnd, end, fmt.Sprintf("dnat to th dport map { 80 : %s, 53 : 10.2.0.3 }", to))
			}
			fmt.Fprintf(b, "%s\n", g.rule(end))
		}
	} else {
		fmt.Fprintf(b, "chain %s {\ntype nat hook postrouting priority %d;\n", name, pick(rnd, 100, 110))
		for range 1 + rnd.IntN(3) {
			end := pick(rnd, "masquerade", fmt.Sprintf("snat%s to %s", of, net), "accept", "return", fmt.Sprintf("meta l4proto tcp snat%s to %s", of, net))
			fmt.Fprintf(b, "%s\n", g.rule(end))
		}
	}
	fmt.Fprintf(b, "}\n")
}

// randomIptables writes what iptables-restore reads.
func randomIptables(rnd *rand.Rand, program string, version int) randomRuleset {
	var b strings.Builder
	six := version == 6
	addr := func() string {
		n, h := 1+rnd.IntN(2), 1+rnd.IntN(7)
		if six {
			return pick(rnd, fmt.Sprintf("fd0%d::%d", n, h), fmt.Sprintf("fd0%d::/64", n))
		}
		return pick(rnd, fmt.Sprintf("10.%d.0.%d", n, h), fmt.Sprintf("10.%d.0.0/24", n), fmt.Sprintf("10.%d.0.0/29", n))
	}
	not := func() string { return pick(rnd, "", "", "", "! ") }
	icmp := pick(rnd, "-p icmp --icmp-type 8", "-p icmp")
	other := "BROADCAST"
	if six {
		other = "MULTICAST"
	}
	rangeMatch := "-m iprange --src-range 10.1.0.2-10.1.0.5"
	if six {
		icmp, rangeMatch = pick(rnd, "-p ipv6-icmp --icmpv6-type 128", "-p ipv6-icmp"), "-m iprange --dst-range fd02::2-fd02::4"
	}
	match := func(out bool) string {
		switch rnd.IntN(17) {
		case 0, 1:
			return not() + pick(rnd, "-s ", "-d ") + addr()
		case 2, 3:
			return fmt.Sprintf("-p %s --dport %d", pick(rnd, "tcp", "udp"), pick(rnd, walkPorts...))
		case 4:
			return fmt.Sprintf("-p tcp -m multiport %s--dports 22,80,1000:1400", not())
		case 5:
			return "-m conntrack " + not() + "--ctstate " + pick(rnd, "NEW", "RELATED,ESTABLISHED", "INVALID", "DNAT", "NEW,UNTRACKED")
		case 6:
			return not() + "-i " + pick(rnd, "a0", "b0", "a+")
		case 7:
			return "-m addrtype " + not() + "--dst-type " + pick(rnd, "LOCAL", "UNICAST", other)
		case 8:
			return icmp
		case 9:
			return "-m mark " + not() + "--mark " + pick(rnd, "1", "0x1/0x3", "0")
		case 10:
			return "-m connmark --mark " + pick(rnd, "1", "0x1/0x3", "0")
		case 11:
			return rangeMatch
		case 12:
			return "-m mac " + not() + "--mac-source 02:00:00:00:00:55"
		case 13:
			return "-m physdev " + not() + pick(rnd, "--physdev-is-bridged", "--physdev-in a1")
		case 14:
			return "-m comment --comment \"a word\" -m pkttype --pkt-type " + pick(rnd, "unicast", "broadcast")
		case 15:
			return fmt.Sprintf("-p udp -m udp %s--sport %d:%d", not(), 22, 1000+rnd.IntN(600))
		}
		return pick(rnd, "-p tcp --syn", "-p tcp ! --syn", "-p tcp --tcp-flags SYN,RST SYN")
	}
	rule := func(chain, target string) {
		m := []string{}
		for range rnd.IntN(2) + rnd.IntN(2) {
			m = append(m, match(chain == "POSTROUTING"))
		}
		text := strings.Join(m, " ")
		// A protocol stands once in a rule.
		if strings.Count(text, "-p ") > 1 || strings.Count(text, "-s ") > 1 || strings.Count(text, "-d ") > 1 || strings.Count(text, "-i ") > 1 || strings.Contains(text, "-i ") && chain == "POSTROUTING" ||
			strings.Contains(text, "mac-source") && chain == "POSTROUTING" || strings.Count(text, "--ctstate") > 1 || strings.Count(text, "--dst-type") > 1 || strings.Count(text, "--mark") > 1 ||
			strings.Count(text, "physdev") > 2 || strings.Count(text, "pkttype") > 1 || strings.Count(text, "mac-source") > 1 || strings.Count(text, "iprange") > 1 {
			text = ""
		}
		if strings.Contains(target, "tcp-reset") || strings.Contains(target, "--to-ports") || strings.Contains(target, ":80") {
			text = "-p tcp"
		}
		fmt.Fprintf(&b, "-A %s %s -j %s\n", chain, text, target)
	}
	fmt.Fprintf(&b, "*mangle\n:PREROUTING ACCEPT\n:FORWARD ACCEPT\n")
	for range rnd.IntN(4) {
		rule(pick(rnd, "PREROUTING", "FORWARD"), pick(rnd, "MARK --set-mark 1", "MARK --or-mark 2", "CONNMARK --save-mark", "CONNMARK --restore-mark", "CONNMARK --set-mark 1", "LOG"))
	}
	fmt.Fprintf(&b, "COMMIT\n*raw\n:PREROUTING ACCEPT\n")
	if rnd.IntN(4) == 0 {
		rule("PREROUTING", "NOTRACK")
	}
	to, net := "10.2.0.3", "10.2.0.9"
	withPort := to + ":80"
	if six {
		to, net = "fd02::3", "fd02::9"
		withPort = "[" + to + "]:80"
	}
	fmt.Fprintf(&b, "COMMIT\n*nat\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n:DOCKER - [0:0]\n")
	for range rnd.IntN(4) {
		rule("PREROUTING", pick(rnd, "DNAT --to-destination "+to, "DNAT --to-destination "+withPort, "REDIRECT --to-ports 8080", "DOCKER", "RETURN"))
		rule("DOCKER", pick(rnd, "DNAT --to-destination "+withPort, "RETURN"))
		rule("POSTROUTING", pick(rnd, "MASQUERADE", "SNAT --to-source "+net, "RETURN", "ACCEPT"))
	}
	fmt.Fprintf(&b, "COMMIT\n*filter\n:INPUT %s\n:FORWARD %s\n:USER - [0:0]\n:DOCKER-USER - [0:0]\n", pick(rnd, "ACCEPT", "ACCEPT", "DROP"), pick(rnd, "ACCEPT", "DROP"))
	for range 2 + rnd.IntN(8) {
		rule(pick(rnd, "INPUT", "FORWARD", "FORWARD"), pick(rnd, "ACCEPT", "ACCEPT", "DROP", "REJECT", "USER", "DOCKER-USER", "RETURN", "REJECT --reject-with tcp-reset"))
	}
	for range rnd.IntN(5) {
		rule("USER", pick(rnd, "ACCEPT", "DROP", "RETURN", "DOCKER-USER"))
		rule("DOCKER-USER", pick(rnd, "ACCEPT", "DROP", "RETURN"))
	}
	fmt.Fprintf(&b, "COMMIT\n")
	return randomRuleset{program, b.String()}
}
