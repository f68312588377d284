package linux

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/ruleset"
)

func (c *country) noted(format string, args ...any) {
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

// foreign loads a table of somebody else: family, what the chain is, its rules.
// Every rule counts, so that the one that is named can be asked.
func (c *country) foreign(family, base, policy string, rules ...string) {
	c.t.Helper()
	text := fmt.Sprintf("table %s foreign%d {\nchain c {\ntype %s; policy %s;\n", family, len(c.faults), base, policy)
	verdict := regexp.MustCompile(`(^| )(drop|reject|accept|return|notrack|masquerade|dnat to|snat to|redirect)`)
	for _, r := range append(rules, "counter") {
		if at := verdict.FindStringIndex(r); at != nil {
			r = r[:at[0]] + " counter " + r[at[0]:]
		}
		text += r + "\n"
	}
	text += "}\n}\n"
	c.faults = append(c.faults, text)
	if out, err := feed("nft", text); err != nil {
		c.t.Fatalf("%v: %s: %s", err, text, out)
	}
}

// sabotage does something that people really do to themselves.
func (c *country) sabotage() {
	c.t.Helper()
	end := c.ends[c.rnd.IntN(len(c.ends))]
	switch c.rnd.IntN(11) {
	case 0, 6:
		c.cutCable(end)
	case 1:
		c.spoilBridge(end)
	case 2:
		c.misroute(end)
	case 3, 4:
		c.filter(end)
	case 5:
		c.translate(end)
	case 7, 8:
		c.govern(end)
	case 9, 10:
		c.firewall(end)
	}
}

func (c *country) faultIP(line string) {
	c.t.Helper()
	c.noted("ip %s", line)
	c.ip(line)
}

// tried is for what another fault may have made impossible.
func (c *country) tried(name string, args ...string) {
	c.noted("%s %s", name, strings.Join(args, " "))
	exec.Command(name, args...).Run()
}

func (c *country) cutCable(end diagnose.End) {
	switch c.rnd.IntN(11) {
	case 0:
		c.faultIP("link set " + end.Port + " down")
	case 1:
		c.faultIP("link set " + end.Port + " nomaster")
	case 2:
		c.faultIP("link set " + end.Bridge + " down")
	case 3:
		c.faultIP("link set up0 down")
	case 4:
		card := "eth0"
		if end.Port == "vnet9" {
			card = "eth1"
		}
		c.noted("%s: link set %s down", end.Name, card)
		c.at(c.node(end), "link set "+card+" down")
	case 5:
		c.noted("lan: link set eth0 down")
		c.at(c.lan, "link set eth0 down")
	case 6:
		c.noted("the LAN's router lost its address")
		c.deaf = true
		c.at(c.lan, "address flush dev eth0")
		for _, f := range []string{"ipv4", "ipv6"} {
			c.set(f+"/neigh/"+c.up()+"/retrans_time_ms", "50")
		}
		// The host has asked for it already, and in vain.
		c.late = append(c.late, func() {
			for _, a := range lanAddr {
				exec.Command("ping", "-n", "-c", "1", "-W", "1", a).Run()
			}
		})
	default:
		port := pickOf(c, end.Port, "up0", end.Bridge)
		c.narrow = true
		c.faultIP(fmt.Sprintf("link set %s mtu %d", port, 1280+10*c.rnd.IntN(20)))
	}
}

func (c *country) spoilBridge(end diagnose.End) {
	bridge := func(text string) { c.tried("bridge", strings.Fields(text)...) }
	set := func(port, what string) {
		c.tried("ip", append([]string{"link", "set", port, "type", "bridge_slave"}, strings.Fields(what)...)...)
	}
	other := c.ends[c.rnd.IntN(len(c.ends))]
	link, addr := end.Bridge, end.Addr.String()
	neigh := func(what string) {
		// Flushing would take it away.
		c.noted("ip neigh %s", what)
		c.late = append(c.late, func() { exec.Command("ip", strings.Fields("neigh "+what)...).Run() })
	}
	switch c.rnd.IntN(11) {
	case 0:
		for _, e := range c.ends {
			set(e.Port, "isolated on")
		}
	case 1:
		set(end.Port, "isolated on")
	case 2:
		bridge("fdb replace " + end.MAC + " dev " + other.Port + " master static")
	case 3:
		bridge("fdb replace " + end.MAC + " dev " + end.Port + " master local")
	case 4:
		set(end.Port, pickOf(c, "bcast_flood off", "learning off flood off", "learning off", "flood off"))
	case 5:
		set(end.Port, pickOf(c, "learning off locked on", "locked on"))
	case 6:
		set(end.Port, "state "+pickOf(c, "1", "2", "4"))
	case 7:
		neigh("replace " + addr + " lladdr 02:00:00:00:00:99 dev " + link + " nud permanent")
	case 8:
		neigh("replace " + addr + " lladdr 02:00:00:00:00:99 dev " + link + " nud reachable")
	case 9:
		neigh("replace " + addr + " lladdr " + end.MAC + " dev " + link + " nud permanent")
	case 10:
		neigh("replace " + addr + " dev " + link + " nud failed")
	}
}

func (c *country) misroute(end diagnose.End) {
	six := end.Addr.Is6()
	lan, far, sub := lanAddr[six], farAddr[six], end.Subnet.String()
	one := map[bool]string{false: "/32", true: "/128"}[six]
	nets := map[bool]string{false: "198.51.100.0/24", true: "2001:db8::/64"}[six]
	ip := func(line string) {
		c.tried("ip", append([]string{map[bool]string{false: "-4", true: "-6"}[six]}, strings.Fields(line)...)...)
	}
	switch c.rnd.IntN(9) {
	case 0:
		c.noted("ip_forward=0")
		c.set("ipv4/ip_forward", "0")
	case 1:
		c.noted("ipv6 forwarding=0")
		c.set("ipv6/conf/all/forwarding", "0")
		// The kernel forgets what it learnt of routers, not what somebody set.
	case 2:
		name := pickOf(c, end.Bridge, c.up())
		c.noted("ipv4 forwarding of %s=0", name)
		c.set("ipv4/conf/"+name+"/forwarding", "0")
	case 3:
		ip("route flush default")
	case 4:
		ip("route replace " + pickOf(c, "blackhole", "unreachable", "prohibit") + " " + pickOf(c, lan+one, nets, sub))
	case 5:
		ip("rule add from " + sub + " " + pickOf(c, "prohibit", "unreachable", "blackhole") + " priority 77")
	case 6:
		ip("route replace " + pickOf(c, lan, far, end.Addr.String()) + one + " dev " + pickOf(c, "virbr1", "virbr0"))
	case 7:
		c.noted("rp_filter=1, and another way back")
		c.set("ipv4/conf/all/rp_filter", "1")
		c.tried("ip", "route", "replace", pickOf(c, lanAddr[false], farAddr[false])+"/32", "dev", pickOf(c, "virbr1", "virbr0", c.up()))
	case 8:
		ip("address del " + end.Gateway.String() + map[bool]string{false: "/24", true: "/64"}[six] + " dev " + end.Bridge)
	}
}

// filter is a firewall of somebody else.
func (c *country) filter(end diagnose.End) {
	rnd, six := c.rnd, end.Addr.Is6()
	ip, icmp := "ip", "ip protocol icmp"
	if six {
		ip, icmp = "ip6", "meta l4proto ipv6-icmp icmpv6 type { echo-request, echo-reply }"
	}
	sub := end.Subnet.String()
	refuse := pick(rnd, "drop", "drop", "reject")
	switch rnd.IntN(9) {
	case 0, 1, 2:
		hook := pick(rnd, "prerouting", "forward", "input", "output", "postrouting")
		what := pick(rnd, "", icmp, "tcp dport 80", ip+" saddr "+sub, ip+" daddr "+end.Addr.String(), "ct state new", "ct state established", "iifname "+end.Bridge, "tcp dport { 22, 80 } ct state new",
			"oifname "+c.up(), "iifname "+c.up()+" ct state new", ip+" daddr "+lanAddr[six], "meta mark 1", "ct status dnat", "ct status snat", "ct direction reply", "ct state invalid",
			"ct original "+ip+" saddr "+end.Addr.String(), "fib daddr type local", "tcp flags syn / syn,ack", "meta l4proto tcp ct state established", "meta pkttype host")
		switch hook {
		case "prerouting", "input":
			what = strings.ReplaceAll(what, "oifname", "iifname")
		case "output", "postrouting":
			what = strings.ReplaceAll(what, "iifname", "oifname")
			if strings.HasPrefix(what, "meta pkttype") || hook == "postrouting" {
				refuse, what = "drop", strings.ReplaceAll(what, "meta pkttype host", "")
			}
		}
		if hook == "prerouting" {
			refuse = "drop"
		}
		family := pick(rnd, "inet", "inet", ip)
		c.foreign(family, fmt.Sprintf("filter hook %s priority %d", hook, pick(rnd, -190, -10, 5, 50)), "accept", what+" "+refuse)
	case 3:
		c.iptables(six)
	case 4:
		c.foreign("bridge", fmt.Sprintf("filter hook %s priority 0", pick(rnd, "prerouting", "forward", "input", "output", "postrouting")), "accept",
			pick(rnd, "ether type arp", icmp, "ether saddr "+end.MAC, "ether daddr "+end.MAC, ip+" daddr "+end.Addr.String(), "tcp dport 80", "ether type ip6 icmpv6 type nd-neighbor-solicit", "icmpv6 type nd-neighbor-advert")+" drop")
	case 5:
		hook := pick(rnd, "ingress", "ingress", "egress")
		c.foreign("netdev", fmt.Sprintf("filter hook %s device %s priority 0", hook, pick(rnd, end.Port, "up0", end.Bridge)), "accept", pick(rnd, icmp, "ether type arp", "", "tcp sport 80", "tcp dport 80", "icmpv6 type nd-neighbor-advert")+" drop")
	case 6:
		c.foreign("arp", "filter hook "+pick(rnd, "input", "output")+" priority 0", "accept", pick(rnd, "", "arp saddr ip 192.168.122.10", "arp operation request")+" drop")
	case 7:
		c.noted("br_netfilter, and a firewall that is closed")
		c.set("bridge/bridge-nf-call-iptables", "1")
		c.set("bridge/bridge-nf-call-ip6tables", "1")
		c.foreign(pick(rnd, "inet", ip), "filter hook forward priority 0", "drop", "ct state established,related accept", pick(rnd, "tcp dport 80 accept", "counter", "iifname "+end.Bridge+" accept", "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"))
	case 8:
		// Closed but for what is named, as people write it.
		hook := pick(rnd, "forward", "input", "output")
		c.foreign("inet", "filter hook "+hook+" priority 0", "drop", "ct state { established, related } accept", "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept",
			pick(rnd, icmp+" accept", "tcp dport { 80, 443 } accept", ip+" saddr "+sub+" accept", "meta l4proto tcp reject with tcp reset", "iifname lo accept"))
	}
}

// iptables is a firewall that a program of its family made.
func (c *country) iptables(six bool) {
	rnd := c.rnd
	program, icmp := "iptables-nft-restore", "icmp"
	if six {
		program, icmp = "ip6tables-nft-restore", "ipv6-icmp"
	}
	chain := pick(rnd, "FORWARD", "FORWARD", "INPUT")
	text := fmt.Sprintf("*filter\n:%s DROP [0:0]\n:ufw-user - [0:0]\n-A %s -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n", chain, chain)
	if six {
		text += fmt.Sprintf("-A %s -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT\n-A %s -p ipv6-icmp -m icmp6 --icmpv6-type 136 -j ACCEPT\n", chain, chain)
	}
	text += fmt.Sprintf("-A %s -j ufw-user\n", chain) +
		pick(rnd, "", "-A ufw-user -p tcp -m multiport --dports 80,443 -j ACCEPT\n", fmt.Sprintf("-A %s -p %s -j ACCEPT\n", chain, icmp), fmt.Sprintf("-A %s -j REJECT\n", chain), fmt.Sprintf("-A %s -m conntrack --ctstate DNAT -j ACCEPT\n", chain)) + "COMMIT\n"
	c.faults = append(c.faults, text)
	if out, err := feed(program, text); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
}

// translate is somebody else's NAT, or what keeps ours from working.
func (c *country) translate(end diagnose.End) {
	rnd, six := c.rnd, end.Addr.Is6()
	ip := map[bool]string{false: "ip", true: "ip6"}[six]
	sub, to := end.Subnet.String(), end.Addr.String()
	with := to + ":80"
	if six {
		with = "[" + to + "]:80"
	}
	switch rnd.IntN(4) {
	case 0:
		c.foreign(ip, "nat hook prerouting priority -110", "accept", pick(rnd, "tcp dport 8080 dnat to "+with, ip+" daddr "+hostAddr[six]+" tcp dport 80 dnat to "+to, "tcp dport 80 redirect to :81", "meta l4proto { icmp, ipv6-icmp } "+ip+" daddr "+farAddr[six]+" dnat to "+lanAddr[six]))
	case 1:
		c.foreign(ip, "nat hook postrouting priority 90", "accept", pick(rnd, ip+" saddr "+sub+" accept", "masquerade", "oifname "+c.up()+" snat to "+hostAddr[six], ip+" saddr "+sub+" return", "oifname up1 masquerade", "oifname up1 masquerade"))
	case 2:
		c.foreign(ip, "filter hook prerouting priority -300", "accept", pick(rnd, "notrack", "iifname "+c.up()+" notrack", ip+" saddr "+sub+" notrack"))
	case 3:
		c.foreign(ip, "nat hook output priority -110", "accept", pick(rnd, ip+" daddr "+farAddr[six]+" tcp dport 80 dnat to "+with, "tcp dport 8080 redirect to :80"))
	}
}

func pickOf[T any](c *country, from ...T) T { return pick(c.rnd, from...) }

// counted is how many packets the rule has met by which a way was said to end:
// its own counter, or, for a policy, that at the chain's end. false if the place is
// no rule of somebody else.
func (c *country) counted(said diagnose.Answer) (uint64, bool) {
	for _, s := range said.Steps {
		if s.Kind != diagnose.Dropped && s.Kind != diagnose.Rejected || s.Chain == nil || s.Chain.Table.Name == ourTable {
			continue
		}
		return c.counter(s.Chain, s.Rule)
	}
	return 0, false
}

var (
	counterText = regexp.MustCompile(`counter packets (\d+)`)
	handleText  = regexp.MustCompile(`# handle (\d+)$`)
)

func (c *country) counter(chain *ruleset.Chain, rule *ruleset.Rule) (uint64, bool) {
	c.t.Helper()
	name := chain.Name
	if rule != nil {
		name = rule.Chain.Name
	}
	out, err := exec.Command("nft", "-a", "list", "chain", chain.Table.Family, chain.Table.Name, name).Output()
	if err != nil {
		c.t.Fatal(err)
	}
	// What returns comes to the policy past the counter before it.
	if text := string(out); rule == nil && (strings.Contains(text, "return") || strings.Contains(text, "goto") || strings.Contains(text, "vmap")) {
		return 0, false
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i, line := range lines {
		m, h := counterText.FindStringSubmatch(line), handleText.FindStringSubmatch(line)
		// Before the two closing brackets, where we put one that counts all that comes there.
		last := rule == nil && i == len(lines)-3 && strings.HasPrefix(strings.TrimSpace(line), "counter")
		if m == nil || h == nil || !last && (rule == nil || h[1] != strconv.FormatUint(rule.Handle, 10)) {
			continue
		}
		n, err := strconv.ParseUint(m[1], 10, 64)
		return n, err == nil
	}
	return 0, false
}
