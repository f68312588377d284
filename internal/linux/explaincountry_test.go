package linux

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
)

// country is this namespace as a host with bridges, and namespaces around it:
// guests, a LAN with a machine that stands for the internet, and behind a second
// card another outside.
type country struct {
	t        *testing.T
	rnd      *rand.Rand
	host     *Host
	nft      *nftAdapter
	nodes    []*nettest.Node // guests
	lan, wan *nettest.Node
	ends     []diagnose.End // of guests: one for each address
	bridged  bool           // the LAN's card is a port of br0
	hasWAN   bool
	isolated bool // the second network is
	deaf     bool // the LAN's router does not answer
	narrow   bool // somewhere an MTU is smaller
	doors    []spec.Forward
	faults   []string
	late     []func() // faults that come when neighbours were forgotten
	script   []string // what was done, to tell
}

const maxGuests = 4

// The host's own addresses, and those around it.
var (
	lanAddr   = map[bool]string{false: "192.168.99.1", true: "fd00:99::1"}
	hostAddr  = map[bool]string{false: "192.168.99.66", true: "fd00:99::66"}
	farAddr   = map[bool]string{false: "198.51.100.77", true: "2001:db8::77"}
	wanAddr   = map[bool]string{false: "203.0.113.77", true: "2001:db8:1::77"}
	firstPool = map[bool]string{false: "192.168.122.1", true: "fd00:122::1"}
	aliasAddr = map[bool]string{false: "192.168.99.70", true: "fd00:99::70"} // the host's second one there
)

func newCountry(t *testing.T, rnd *rand.Rand) *country {
	nettest.Need(t, nettest.Namespace, nettest.Root, "nft", "ip", "bridge", "ping", "curl", "busybox", "conntrack", "iptables-nft")
	h, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	c := &country{t: t, rnd: rnd, host: h, nft: freshNFT(t)}
	t.Cleanup(clearCountry)
	node := func(name string) *nettest.Node {
		n, err := nettest.NewNode(context.Background(), name, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		setup := whoScript("/run/www", name) + `
for port in 79 80 81 8080 8081 8090 8091 8092; do busybox httpd -p $port -h /run/www; done
busybox nc -ll -p 7 -e cat >/dev/null 2>&1 </dev/null &
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad`
		if _, err := n.Run(t.Context(), "sh", "-c", setup); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i := range maxGuests {
		c.nodes = append(c.nodes, node(fmt.Sprintf("guest%d", i)))
	}
	c.lan, c.wan = node("lan"), node("wan")
	c.at(c.lan, "address add 198.51.100.77/32 dev lo", "address add 2001:db8::77/128 dev lo")
	c.at(c.wan, "address add 203.0.113.77/32 dev lo", "address add 2001:db8:1::77/128 dev lo")
	return c
}

// whoScript makes what a web server answers with: who it is, and by which address
// it sees who asks.
func whoScript(dir, name string) string {
	return fmt.Sprintf(`mkdir -p %s/cgi-bin; printf '#!/bin/sh\nprintf "\\n%s $REMOTE_ADDR\\n"\n' > %s/cgi-bin/who; chmod +x %s/cgi-bin/who`, dir, name, dir, dir)
}

// at carries out lines of ip on a node.
func (c *country) at(n *nettest.Node, lines ...string) {
	c.t.Helper()
	c.script = append(c.script, lines...)
	if err := n.IP(c.t.Context(), lines...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *country) ip(lines ...string) {
	c.t.Helper()
	c.script = append(c.script, lines...)
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("ip: %v: %s\n%s", err, out, strings.Join(lines, "\n"))
	}
}

func (c *country) set(name, value string) {
	c.t.Helper()
	c.script = append(c.script, name+"="+value)
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
		c.t.Fatal(err)
	}
}

// clearCountry takes the last topology away.
func clearCountry() {
	links := []string{"virbr0", "virbr1", "br0", "up0", "up1", "vnet9"}
	for i := range maxGuests {
		links = append(links, fmt.Sprintf("vnet%d", i))
	}
	for _, name := range links {
		exec.Command("ip", "link", "del", name).Run()
	}
	for _, family := range []string{"-4", "-6"} {
		for _, priority := range []string{"76", "77"} {
			for exec.Command("ip", family, "rule", "del", "priority", priority).Run() == nil {
			}
		}
		exec.Command("ip", family, "route", "flush", "table", "100").Run()
		exec.Command("ip", family, "route", "flush", "type", "blackhole").Run()
		exec.Command("ip", family, "route", "flush", "type", "unreachable").Run()
		exec.Command("ip", family, "route", "flush", "type", "prohibit").Run()
	}
	exec.Command("nft", "flush", "ruleset").Run()
	exec.Command("conntrack", "-F").Run()
	for _, name := range []string{"iptables", "ip6tables"} {
		os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte("0"), 0)
	}
}

// build makes a topology anew: two bridges with guests, an uplink that is routed
// or a bridge's port, perhaps another card, our own rules.
func (c *country) build() {
	c.t.Helper()
	c.script, c.ends, c.faults, c.late, c.doors, c.deaf, c.narrow = nil, nil, nil, nil, nil, false, false
	c.bridged, c.hasWAN, c.isolated = c.rnd.IntN(3) == 0, c.rnd.IntN(3) == 0, c.rnd.IntN(5) == 0
	clearCountry()
	for _, s := range []string{
		"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0", "ipv4/icmp_ratelimit=0", "ipv6/icmp/ratelimit=0",
		"ipv6/conf/default/accept_dad=0", "ipv6/conf/all/accept_dad=0",
	} {
		name, value, _ := strings.Cut(s, "=")
		c.set(name, value)
	}
	up := c.up()
	lines := []string{"link add up0 type veth peer name eth0 netns " + fmt.Sprint(c.lan.PID()), "link set up0 up"}
	if c.bridged {
		lines = append(lines, "link add br0 type bridge forward_delay 0", "link set br0 up", "link set up0 master br0")
	}
	lines = append(lines, "address add 192.168.99.66/24 dev "+up, "address add fd00:99::66/64 dev "+up, "address add 192.168.99.70/24 dev "+up, "address add fd00:99::70/64 dev "+up)
	for b := range 2 {
		lines = append(lines, fmt.Sprintf("link add virbr%d type bridge forward_delay 0", b), fmt.Sprintf("link set virbr%d up", b),
			fmt.Sprintf("address add 192.168.%d.1/24 dev virbr%d", 122+b, b), fmt.Sprintf("address add fd00:%d::1/64 dev virbr%d", 122+b, b))
	}
	lines = append(lines, "route add default via 192.168.99.1", "route add default via fd00:99::1")
	c.ip(lines...)
	if c.hasWAN {
		c.ip("link add up1 type veth peer name eth0 netns "+fmt.Sprint(c.wan.PID()), "link set up1 up", "address add 10.99.0.1/24 dev up1", "address add fd00:10::1/64 dev up1",
			"route add 203.0.113.0/24 via 10.99.0.2", "route add 2001:db8:1::/64 via fd00:10::2")
		c.at(c.wan, "link set eth0 up", "address add 10.99.0.2/24 dev eth0", "address add fd00:10::2/64 dev eth0", "route replace default via 10.99.0.1", "route replace default via fd00:10::1")
	}
	c.at(c.lan, "link set eth0 up", "address add 192.168.99.1/24 dev eth0", "address add fd00:99::1/64 dev eth0", "route replace default via 192.168.99.66", "route replace default via fd00:99::66")
	count := 2 + c.rnd.IntN(maxGuests-1)
	for i := range count {
		where := []string{"virbr0", "virbr1"}[i%2]
		if c.bridged && i >= 1 && c.rnd.IntN(2) == 0 {
			where = "br0"
		}
		c.plug(i, "eth0", fmt.Sprintf("vnet%d", i), where, 10+i)
	}
	if c.rnd.IntN(3) == 0 {
		// A guest of two networks.
		other := "virbr1"
		if c.bridged && c.rnd.IntN(2) == 0 {
			other = "br0"
		}
		c.plug(0, "eth1", "vnet9", other, 29)
	}
	c.ourRules()
}

// up is the link by which the host reaches the LAN.
func (c *country) up() string {
	if c.bridged {
		return "br0"
	}
	return "up0"
}

// plug gives a guest a card with addresses of both families.
func (c *country) plug(guest int, card, port, bridge string, number int) {
	c.t.Helper()
	net := map[string]int{"virbr0": 122, "virbr1": 123, "br0": 99}[bridge]
	n := c.nodes[guest]
	mac := fmt.Sprintf("52:54:00:00:00:%02x", number)
	c.ip(fmt.Sprintf("link add %s type veth peer name %s netns %d", port, card, n.PID()), fmt.Sprintf("link set %s up master %s", port, bridge))
	host := "1"
	if bridge == "br0" {
		host = "66" // the guest's router is the host, not the LAN's: that has a default route to nowhere
	}
	four, six := fmt.Sprintf("192.168.%d.%d", net, number), fmt.Sprintf("fd00:%d::%d", net, number)
	gateway4, gateway6 := fmt.Sprintf("192.168.%d.%s", net, host), fmt.Sprintf("fd00:%d::%s", net, host)
	lines := []string{"link set " + card + " address " + mac, "link set " + card + " up", "address add " + four + "/24 dev " + card, "address add " + six + "/64 dev " + card}
	if card == "eth0" {
		lines = append(lines, "route add default via "+gateway4, "route add default via "+gateway6)
	}
	c.at(n, lines...)
	for _, a := range []struct{ addr, subnet, gateway string }{
		{four, fmt.Sprintf("192.168.%d.0/24", net), gateway4}, {six, fmt.Sprintf("fd00:%d::/64", net), gateway6},
	} {
		c.ends = append(c.ends, diagnose.End{
			Kind: diagnose.Guest, Name: fmt.Sprintf("guest%d", guest), Addr: netip.MustParseAddr(a.addr), MAC: mac, Port: port, Bridge: bridge, Plugged: true,
			Subnet: netip.MustParsePrefix(a.subnet), Gateway: netip.MustParseAddr(a.gateway), Network: bridge,
		})
	}
}

// ourRules are those of two networks of guests, and of a forward.
func (c *country) ourRules() {
	c.t.Helper()
	want := host.NewState(render.Ruleset()...)
	for b := range 2 {
		br := fmt.Sprintf("virbr%d", b)
		want.Add(element("bridges", br, ""), element("within", br+" . "+br, ""))
		if b == 1 && c.isolated {
			want.Add(element("from_guests", br, "jump refuse"), element("to_guests", br, "jump refuse"))
			continue
		}
		want.Add(element("from_guests", br, "jump from_nat"), element("to_guests", br, "jump to_nat"),
			element("sources4", fmt.Sprintf("%s . 192.168.%d.0/24", br, 122+b), ""), element("hidden4", fmt.Sprintf("192.168.%d.0/24", 122+b), ""),
			element("sources6", fmt.Sprintf("%s . fd00:%d::/64", br, 122+b), ""), element("hidden6", fmt.Sprintf("fd00:%d::/64", 122+b), ""))
	}
	for _, e := range c.ends {
		want.Add(host.Element{Table: bridgeTable, Set: "ports", Value: e.Port})
	}
	want.Add(element("doors4", "tcp . 8080", c.ends[0].Addr.String()+" . 80"), element("doors6", "tcp . 8080", c.ends[1].Addr.String()+" . 80"))
	for range c.rnd.IntN(4) {
		end := c.ends[c.rnd.IntN(len(c.ends))]
		f := c.door(end)
		if slices.ContainsFunc(c.doors, func(d spec.Forward) bool {
			return d.Proto == f.Proto && d.Listen.Is6() == f.Listen.Is6() && d.First == f.First
		}) {
			continue
		}
		c.doors = append(c.doors, f)
		want.Add(render.ForwardElements(f, end.Addr)...)
	}
	c.set("ipv4/conf/virbr0/route_localnet", "1") // as render asks for with a forward
	if err := c.nft.apply(c.t.Context(), plan.Diff(want, host.State{})); err != nil {
		c.t.Fatal(err)
	}
}

// door makes up a forward to a guest: of ports or all, everywhere or at one address,
// for everybody or not.
func (c *country) door(end diagnose.End) spec.Forward {
	rnd, six := c.rnd, end.Addr.Is6()
	f := spec.Forward{Proto: spec.TCP, Listen: map[bool]netip.Addr{false: netip.IPv4Unspecified(), true: netip.IPv6Unspecified()}[six], Target: end.Name, TargetPort: 80}
	switch rnd.IntN(4) {
	case 0: // a range that keeps its numbers
		f.First, f.Last, f.TargetPort = 79, 81, 79
	case 1: // one that does not
		f.First, f.Last, f.TargetPort = 8090, 8092, 79
	case 2:
		f.First, f.Last = 8081, 8081
	case 3:
		return spec.Forward{Proto: spec.ProtoAll, Listen: netip.MustParseAddr(aliasAddr[six]), Target: end.Name, From: c.admitted(six)}
	}
	if rnd.IntN(2) == 0 {
		f.Listen = netip.MustParseAddr(pick(rnd, hostAddr[six], aliasAddr[six], firstPool[six]))
	}
	f.From = c.admitted(six)
	return f
}

// admitted is whom a forward is for.
func (c *country) admitted(six bool) []netip.Prefix {
	if c.rnd.IntN(2) == 0 {
		return nil
	}
	from := pickOf(c, c.ends[c.rnd.IntN(len(c.ends))].Subnet, netip.PrefixFrom(netip.MustParseAddr(lanAddr[six]), 64).Masked(), netip.PrefixFrom(netip.MustParseAddr(wanAddr[six]), 128))
	if !six {
		from = pickOf(c, netip.MustParsePrefix("192.168.122.0/24"), netip.MustParsePrefix("192.168.99.1/32"), netip.MustParsePrefix("203.0.113.0/25"))
	} else if !from.Addr().Is6() {
		from = netip.MustParsePrefix("fd00:122::/64")
	}
	return []netip.Prefix{from}
}

// ask makes up a question.
func (c *country) ask() diagnose.PathQuestion {
	rnd, six := c.rnd, c.rnd.IntN(3) == 0
	outside := func(name string, of map[bool]string) diagnose.End {
		return diagnose.End{Kind: diagnose.Outside, Name: name, Addr: netip.MustParseAddr(of[six])}
	}
	lan, internet := outside("lan", lanAddr), outside("internet", farAddr)
	self := diagnose.End{Kind: diagnose.Itself, Name: "host"}
	guest := func() diagnose.End {
		for {
			if e := c.ends[rnd.IntN(len(c.ends))]; e.Addr.Is6() == six {
				return e
			}
		}
	}
	from, to := []diagnose.End{guest(), guest(), guest(), lan, self}, []diagnose.End{guest(), guest(), lan, internet, self}
	if c.hasWAN {
		wan := outside("wan", wanAddr)
		from, to = append(from, wan), append(to, wan)
	}
	var q diagnose.PathQuestion
	for q.From.Name == q.To.Name || q.From.Name == "lan" && (q.To.Name == "internet" || c.deaf) {
		q.From, q.To = pick(rnd, from...), pick(rnd, to...)
	}
	if q.From.Kind == diagnose.Guest {
		q.From = c.cardTowards(q.From, q.To)
	}
	q.Proto = 1
	if six {
		q.Proto = 58
	}
	if rnd.IntN(2) == 0 {
		q.Proto, q.Port = 6, 80
		if q.To.Kind == diagnose.Itself {
			q.Port = pick(rnd, uint16(80), 8080, 8080, 81)
		}
	}
	if q.To.Kind == diagnose.Itself {
		// The host by one of its addresses.
		choice := []string{hostAddr[six], firstPool[six], aliasAddr[six]}
		if q.From.Kind == diagnose.Itself {
			choice = append(choice, map[bool]string{false: "127.0.0.1", true: "::1"}[six])
		}
		if q.From.Kind == diagnose.Guest {
			choice = append(choice, q.From.Gateway.String())
		}
		q.To.Addr = netip.MustParseAddr(pick(rnd, choice...))
		c.aim(&q, six)
		if q.From.Kind == diagnose.Guest {
			q.From = c.cardTowards(q.From, q.To) // which address it is decides by which card
		}
	}
	return q
}

// aim asks for what a forward is for, sometimes.
func (c *country) aim(q *diagnose.PathQuestion, six bool) {
	for _, f := range c.doors {
		if f.Listen.Is6() != six || c.rnd.IntN(2) == 0 {
			continue
		}
		if !f.Listen.IsUnspecified() {
			q.To.Addr = f.Listen
		}
		if f.Proto == spec.TCP {
			q.Proto, q.Port = 6, f.First+uint16(c.rnd.IntN(int(f.Last-f.First)+1))
		}
		return
	}
}

// cardTowards is the card by which a guest of two networks sends: that of the
// target's network, else the one with its default route.
func (c *country) cardTowards(from, to diagnose.End) diagnose.End {
	first := diagnose.End{}
	for _, e := range c.ends {
		if e.Name != from.Name || e.Addr.Is6() != from.Addr.Is6() {
			continue
		}
		if to.Addr.IsValid() && e.Subnet.Contains(to.Addr) {
			return e
		}
		if !first.Addr.IsValid() {
			first = e
		}
	}
	return first
}

func (c *country) forgetNeighbours() {
	const flush = "ip -4 neigh flush all; ip -6 neigh flush all"
	exec.Command("sh", "-c", flush).Run()
	for _, n := range append([]*nettest.Node{c.lan, c.wan}, c.nodes...) {
		n.Run(c.t.Context(), "sh", "-c", flush)
	}
	for _, f := range c.late {
		f()
	}
}

// node is where an end's commands run; nil is here.
func (c *country) node(e diagnose.End) *nettest.Node {
	switch {
	case e.Name == "lan":
		return c.lan
	case e.Name == "wan":
		return c.wan
	case e.Kind == diagnose.Guest:
		return c.nodes[e.Name[len(e.Name)-1]-'0']
	}
	return nil
}

func (c *country) run(e diagnose.End, name string, args ...string) (string, error) {
	if n := c.node(e); n != nil {
		return n.Run(c.t.Context(), name, args...)
	}
	out, err := exec.Command(name, args...).Output()
	return string(out), err
}

// really sends the packet that the question is about, several times if need be:
// one that is expected to arrive has more time than any machine needs. answer is
// who answers, and as whom he was asked, if he says so.
func (c *country) really(q diagnose.PathQuestion, expected bool) (arrived bool, answer string) {
	c.t.Helper()
	exec.Command("conntrack", "-F").Run()
	to, tries, wait := q.To.Addr.String(), 2, "0.7"
	if expected {
		tries, wait = 8, "2"
	}
	var command []string
	switch {
	case q.Port == 0:
		command = []string{"ping", "-n", "-c", "1", "-W", wait, to}
		if q.From.Name == "wan" {
			command = append(command, "-I", q.From.Addr.String())
		}
	default:
		command = []string{"curl", "-g", "-s", "-m", wait, fmt.Sprintf("http://%s/cgi-bin/who", netip.AddrPortFrom(q.To.Addr, q.Port))}
		if q.From.Name == "wan" {
			command = append(command, "--interface", q.From.Addr.String())
		}
	}
	for range tries {
		// ping counts an answer from another address than was asked; no other program does.
		if out, err := c.run(q.From, command[0], command[1:]...); err == nil && !strings.Contains(out, "DIFFERENT ADDRESS") {
			if q.Port == 0 {
				out = ""
			}
			return true, strings.TrimSpace(out)
		}
	}
	return false, ""
}

// misled says what is wrong about who was said to answer, and to whom.
func (c *country) misled(said diagnose.Answer, answer string) string {
	name, asker, ok := strings.Cut(answer, " ")
	if !ok {
		return ""
	}
	from, err := netip.ParseAddr(strings.Trim(asker, "[]"))
	if err != nil {
		return "the web server says " + answer
	}
	to, owner := said.Arrived.Target, "host"
	for _, e := range c.ends {
		if e.Addr == to {
			owner = e.Name
		}
	}
	switch six := to.Is6(); to.String() {
	case lanAddr[six], farAddr[six]:
		owner = "lan"
	case wanAddr[six]:
		owner = "wan"
	}
	switch {
	case owner != name:
		return fmt.Sprintf("%s answered, and it was said to arrive at %s, which is %s's", name, to, owner)
	case said.Arrived.Source.IsValid() && said.Arrived.Source != from.Unmap():
		return fmt.Sprintf("it arrived from %s, and was said to from %s", from.Unmap(), said.Arrived.Source)
	}
	return ""
}
