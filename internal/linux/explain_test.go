package linux

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
)

var (
	topologies = flag.Int("explain.topologies", 60, "how many random topologies are tried")
	questions  = flag.Int("explain.questions", 1, "how many questions are asked on each")
)

// country is this namespace as a host with bridges, and namespaces around it:
// guests, and a LAN with a machine that stands for the internet.
type country struct {
	t      *testing.T
	rnd    *rand.Rand
	host   *Host
	nft    *nftAdapter
	guests []*nettest.Node
	lan    *nettest.Node
	ends   []diagnose.End
	faults []string
	script []string // what was done, to tell
}

// guestsOf are how many guests a topology has at most.
const maxGuests = 4

func newCountry(t *testing.T, rnd *rand.Rand) *country {
	nettest.Need(t, nettest.Namespace, nettest.Root, "nft", "ip", "ping", "curl", "busybox", "conntrack", "iptables-nft")
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
		if _, err := n.Run(t.Context(), "sh", "-c", "mkdir -p /run/www; echo hello >/run/www/index.html; busybox httpd -p 80 -h /run/www; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i := range maxGuests {
		c.guests = append(c.guests, node(fmt.Sprintf("guest%d", i)))
	}
	c.lan = node("lan")
	if err := c.lan.IP(t.Context(), "address add 198.51.100.77/32 dev lo"); err != nil {
		t.Fatal(err)
	}
	return c
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
	for _, name := range []string{"virbr0", "virbr1", "up0"} {
		exec.Command("ip", "link", "del", name).Run()
	}
	for i := range maxGuests {
		exec.Command("ip", "link", "del", fmt.Sprintf("vnet%d", i)).Run()
	}
	for exec.Command("ip", "rule", "del", "priority", "77").Run() == nil {
	}
	for _, kind := range []string{"blackhole", "unreachable"} { // no link takes these with it
		exec.Command("ip", "route", "flush", "type", kind).Run()
	}
	exec.Command("nft", "flush", "ruleset").Run()
	exec.Command("conntrack", "-F").Run()
	os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0)
}

// build makes a topology anew: two bridges with guests, an uplink, our own
// rules.
func (c *country) build() {
	c.t.Helper()
	c.script, c.ends, c.faults = nil, nil, nil
	clearCountry()
	for _, s := range []string{"ipv4/ip_forward=1", "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0", "ipv4/icmp_ratelimit=0", "bridge/bridge-nf-call-iptables=0", "ipv6/conf/default/accept_dad=0"} {
		name, value, _ := strings.Cut(s, "=")
		c.set(name, value)
	}
	lines := []string{"link add up0 type veth peer name eth0 netns " + fmt.Sprint(c.lan.PID()), "link set up0 up", "address add 192.168.99.66/24 dev up0"}
	for b := range 2 {
		lines = append(lines, fmt.Sprintf("link add virbr%d type bridge forward_delay 0", b), fmt.Sprintf("link set virbr%d up", b), fmt.Sprintf("address add 192.168.%d.1/24 dev virbr%d", 122+b, b))
	}
	count := 2 + c.rnd.IntN(maxGuests-1)
	for i := range count {
		b := i % 2
		if i == 3 {
			b = 0
		}
		lines = append(lines, fmt.Sprintf("link add vnet%d type veth peer name eth0 netns %d", i, c.guests[i].PID()), fmt.Sprintf("link set vnet%d up master virbr%d", i, b))
		c.ends = append(c.ends, diagnose.End{
			Kind: diagnose.Guest, Name: fmt.Sprintf("guest%d", i), Addr: netip.MustParseAddr(fmt.Sprintf("192.168.%d.%d", 122+b, 10+i)), MAC: fmt.Sprintf("52:54:00:00:00:%02x", i),
			Port: fmt.Sprintf("vnet%d", i), Bridge: fmt.Sprintf("virbr%d", b), Plugged: true,
			Subnet: netip.MustParsePrefix(fmt.Sprintf("192.168.%d.0/24", 122+b)), Gateway: netip.MustParseAddr(fmt.Sprintf("192.168.%d.1", 122+b)),
		})
	}
	lines = append(lines, "route add default via 192.168.99.1")
	c.ip(lines...)
	for i, e := range c.ends {
		err := c.guests[i].IP(c.t.Context(), "link set eth0 address "+e.MAC, "link set eth0 up", "address add "+e.Addr.String()+"/24 dev eth0", "route add default via "+e.Gateway.String())
		if err != nil {
			c.t.Fatal(err)
		}
	}
	if err := c.lan.IP(c.t.Context(), "link set eth0 up", "address add 192.168.99.1/24 dev eth0", "route replace 192.168.122.0/23 via 192.168.99.66"); err != nil {
		c.t.Fatal(err)
	}
	c.ourRules()
}

// ourRules are those of two NAT networks and their guests, with a forward.
func (c *country) ourRules() {
	c.t.Helper()
	want := host.NewState(render.Ruleset()...)
	for b := range 2 {
		br := fmt.Sprintf("virbr%d", b)
		want.Add(element("bridges", br, ""), element("within", br+" . "+br, ""), element("from_guests", br, "jump from_nat"), element("to_guests", br, "jump to_nat"),
			element("sources4", fmt.Sprintf("%s . 192.168.%d.0/24", br, 122+b), ""), element("hidden4", fmt.Sprintf("192.168.%d.0/24", 122+b), ""))
	}
	for _, e := range c.ends {
		want.Add(host.Element{Table: bridgeTable, Set: "ports", Value: e.Port})
	}
	want.Add(element("doors4", "tcp . 8080", c.ends[0].Addr.String()+" . 80"))
	if err := c.nft.apply(c.t.Context(), plan.Diff(want, host.State{})); err != nil {
		c.t.Fatal(err)
	}
}

// sabotage does something that people really do to themselves.
func (c *country) sabotage() {
	c.t.Helper()
	rnd, end := c.rnd, c.ends[c.rnd.IntN(len(c.ends))]
	nft := func(text string) {
		c.t.Helper()
		text = strings.Replace(text, " foreign ", fmt.Sprintf(" foreign%d ", len(c.faults)), 1)
		c.faults = append(c.faults, text)
		if out, err := feed("nft", text); err != nil {
			c.t.Fatalf("%v: %s: %s", err, text, out)
		}
	}
	ip := func(line string) {
		c.t.Helper()
		c.faults = append(c.faults, "ip "+line)
		c.ip(line)
	}
	sub := end.Subnet.String()
	hook := pick(rnd, "prerouting", "forward", "input", "output", "postrouting")
	what := pick(rnd, "drop", "ip protocol icmp drop", "tcp dport 80 drop", "ip saddr "+sub+" drop", "ip daddr "+end.Addr.String()+" drop", "ct state new drop", "ct state established drop", "iifname "+end.Bridge+" drop",
		"tcp dport { 22, 80 } ct state new drop", "oifname up0 drop", "iifname up0 ct state new drop", "ip daddr 192.168.99.0/24 drop", "meta mark 1 drop", "ct status dnat drop")
	switch rnd.IntN(20) {
	case 0:
		ip("link set " + end.Port + " down")
	case 1:
		ip("link set " + end.Port + " nomaster")
	case 2:
		ip("link set " + end.Bridge + " down")
	case 3:
		c.faults = append(c.faults, "ip_forward=0")
		c.set("ipv4/ip_forward", "0")
	case 4:
		ip("link set up0 down")
	case 5:
		// It went already if the uplink is down.
		c.faults = append(c.faults, "route flush default")
		exec.Command("ip", "route", "flush", "default").Run()
	case 6:
		for _, e := range c.ends {
			ip("link set " + e.Port + " type bridge_slave isolated on")
		}
	case 7, 8, 9, 10:
		if hook == "prerouting" {
			what = strings.ReplaceAll(what, "oifname up0", "iifname up0")
		}
		if hook == "input" {
			what = strings.ReplaceAll(what, "oifname", "iifname")
		}
		if hook == "output" || hook == "postrouting" {
			what = strings.ReplaceAll(what, "iifname", "oifname")
		}
		nft(fmt.Sprintf("table inet foreign { chain c { type filter hook %s priority %d; policy accept;\n%s\n}\n}\n", hook, pick(rnd, -200+10, -10, 5, 50), what))
	case 11:
		program := map[string]string{"4": "iptables-nft-restore"}["4"]
		text := "*filter\n:FORWARD DROP [0:0]\n:ufw-user-forward - [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD -j ufw-user-forward\n" +
			pick(rnd, "", "-A ufw-user-forward -p tcp --dport 80 -j ACCEPT\n", "-A FORWARD -p icmp -j ACCEPT\n") + "COMMIT\n"
		c.faults = append(c.faults, text)
		if out, err := feed(program, text); err != nil {
			c.t.Fatalf("%v: %s", err, out)
		}
	case 12:
		nft(fmt.Sprintf("table bridge foreign { chain c { type filter hook %s priority 0; policy accept;\n%s\n}\n}\n", pick(rnd, "prerouting", "forward", "input", "output", "postrouting"),
			pick(rnd, "ether type arp drop", "ip protocol icmp drop", "ether saddr "+end.MAC+" drop", "ether daddr "+end.MAC+" drop", "ip daddr "+end.Addr.String()+" drop", "tcp dport 80 drop")))
	case 13:
		nft(fmt.Sprintf("table netdev foreign { chain c { type filter hook ingress device %s priority 0; policy accept;\n%s\n}\n}\n", pick(rnd, end.Port, "up0", end.Bridge), pick(rnd, "ip protocol icmp drop", "ether type arp drop", "drop", "tcp sport 80 drop")))
	case 14:
		nft(fmt.Sprintf("table ip foreign { chain c { type nat hook prerouting priority -110; policy accept;\n%s\n}\n}\n", pick(rnd, "tcp dport 8080 dnat to 192.168.123.11:80", "ip daddr 192.168.99.66 tcp dport 80 dnat to "+end.Addr.String(), "tcp dport 80 redirect to :81", "ip protocol icmp dnat to 192.168.99.1")))
	case 15:
		nft(fmt.Sprintf("table ip foreign { chain c { type nat hook postrouting priority 90; policy accept;\n%s\n}\n}\n", pick(rnd, "ip saddr "+sub+" accept", "masquerade", "oifname up0 snat to 192.168.99.66", "ip saddr "+sub+" return")))
	case 16:
		nft("table ip foreign { chain c { type filter hook prerouting priority raw; policy accept;\n" + pick(rnd, "notrack", "iifname up0 notrack", "ip saddr "+sub+" notrack") + "\n}\n}\n")
	case 17:
		c.faults = append(c.faults, "bridge-nf-call-iptables=1 and forward policy drop")
		c.set("bridge/bridge-nf-call-iptables", "1")
		nft("table ip foreign { chain c { type filter hook forward priority 0; policy drop;\nct state established,related accept\n" + pick(rnd, "tcp dport 80 accept", "counter", "iifname "+end.Bridge+" accept") + "\n}\n}\n")
	case 18:
		ip(pick(rnd, "route replace blackhole 192.168.99.1/32", "route replace unreachable 198.51.100.0/24", "rule add from "+sub+" prohibit priority 77", "route replace 192.168.99.1/32 dev virbr1"))
	case 19:
		nft("table arp foreign { chain c { type filter hook " + pick(rnd, "input", "output") + " priority 0; policy accept;\n" + pick(rnd, "drop", "arp saddr ip "+end.Addr.String()+" drop", "arp operation request drop") + "\n}\n}\n")
	}
}

func (c *country) ask() diagnose.PathQuestion {
	rnd := c.rnd
	lan := diagnose.End{Kind: diagnose.Outside, Name: "lan", Addr: netip.MustParseAddr("192.168.99.1")}
	internet := diagnose.End{Kind: diagnose.Outside, Name: "internet", Addr: netip.MustParseAddr("198.51.100.77")}
	self := diagnose.End{Kind: diagnose.Itself, Name: "host"}
	guest := func() diagnose.End { return c.ends[rnd.IntN(len(c.ends))] }
	var q diagnose.PathQuestion
	for q.From.Name == q.To.Name {
		q.From = pick(rnd, guest(), guest(), guest(), lan, self)
		q.To = pick(rnd, guest(), guest(), lan, internet, self)
	}
	if q.From.Name == "lan" && q.To.Name == "internet" {
		q.To = guest()
	}
	if q.To.Kind == diagnose.Itself {
		// The host by one of its addresses.
		q.To.Addr = netip.MustParseAddr(pick(rnd, "192.168.99.66", "192.168.122.1"))
		if q.From.Kind == diagnose.Guest {
			q.To.Addr = pick(rnd, q.From.Gateway, netip.MustParseAddr("192.168.99.66"))
		}
		if q.From.Name == "lan" {
			q.To.Addr = netip.MustParseAddr("192.168.99.66")
		}
	}
	q.Proto = 1
	if rnd.IntN(2) == 0 {
		q.Proto, q.Port = 6, 80
		if q.To.Kind == diagnose.Itself {
			q.Port = pick(rnd, uint16(80), 8080)
		}
	}
	return q
}

// really sends the packet that the question is about, several times if need be:
// one that is expected to arrive has more time than any machine needs.
func (c *country) really(q diagnose.PathQuestion, expected bool) bool {
	c.t.Helper()
	exec.Command("conntrack", "-F").Run()
	to, tries, wait := q.To.Addr.String(), 2, "0.7"
	if expected {
		tries, wait = 8, "2"
	}
	command := []string{"ping", "-n", "-c", "1", "-W", wait, to}
	if q.Proto == 6 {
		command = []string{"curl", "-s", "-m", wait, "-o", "/dev/null", fmt.Sprintf("http://%s:%d/index.html", to, q.Port)}
	}
	for range tries {
		var err error
		switch {
		case q.From.Kind == diagnose.Itself:
			err = exec.Command(command[0], command[1:]...).Run()
		case q.From.Name == "lan":
			_, err = c.lan.Run(c.t.Context(), command[0], command[1:]...)
		default:
			i := slices.IndexFunc(c.ends, func(e diagnose.End) bool { return e.Name == q.From.Name })
			_, err = c.guests[i].Run(c.t.Context(), command[0], command[1:]...)
		}
		if err == nil {
			return true
		}
	}
	return false
}

func (c *country) forgetNeighbours() {
	exec.Command("ip", "neigh", "flush", "all").Run()
	for i := range c.ends {
		c.guests[i].Run(c.t.Context(), "ip", "neigh", "flush", "all")
	}
	c.lan.Run(c.t.Context(), "ip", "neigh", "flush", "all")
}

func TestExplainAgreesWithPackets(t *testing.T) {
	rnd, _ := walkRandom(t)
	c := newCountry(t, rnd)
	www := t.TempDir()
	if err := os.WriteFile(www+"/index.html", []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	server := exec.Command("busybox", "httpd", "-f", "-p", "80", "-h", www)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	var asked, unknown, delivered int
	begin := time.Now()
	for range *topologies {
		c.build()
		for range rnd.IntN(3) {
			c.sabotage()
		}
		for range *questions {
			q := c.ask()
			c.forgetNeighbours()
			s, err := c.host.Scene(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s.Guests = c.ends
			said := diagnose.Explain(s, q)
			did := c.really(q, said.Kind == diagnose.Accepted)
			asked++
			switch {
			case said.Kind == diagnose.Unknown:
				unknown++
				t.Logf("unknown: %s", said.Sentence)
			case (said.Kind == diagnose.Accepted) != did:
				t.Fatalf("said: %s\nit arrived: %v\nasked: %+v\nfaults: %q\nsteps: %s", said.Sentence, did, q, c.faults, stepsText(said))
			case did:
				delivered++
			}
		}
	}
	t.Logf("%d questions on %d topologies: %d delivered, %d not, %d unknown; %s", asked, *topologies, delivered, asked-delivered-unknown, unknown, time.Since(begin).Round(time.Second))
	if unknown*10 > asked {
		t.Errorf("%d of %d are unknown", unknown, asked)
	}
}

func stepsText(a diagnose.Answer) string {
	var b strings.Builder
	for _, s := range a.Steps {
		way := "there"
		if s.Back {
			way = "back"
		}
		fmt.Fprintf(&b, "\n  %-5s %-9s %s: %s", way, s.Kind, s.Where, s.What)
	}
	return b.String()
}

// BenchmarkExplainOnAFullHost is a host with 100 networks and 1000 ports.
func BenchmarkExplainOnAFullHost(b *testing.B) {
	nettest.Need(b, nettest.Namespace, nettest.Root, "ip", nettest.Tun)
	a := freshNFT(b)
	var lines []string
	want := host.NewState(render.Ruleset()...)
	for i := range 100 {
		br := fmt.Sprintf("br%d", i)
		lines = append(lines, "link add "+br+" type bridge forward_delay 0", "link set "+br+" up", fmt.Sprintf("address add 10.%d.0.1/24 dev %s", i, br))
		want.Add(element("bridges", br, ""), element("from_guests", br, "jump from_nat"), element("to_guests", br, "jump to_nat"),
			element("sources4", fmt.Sprintf("%s . 10.%d.0.0/24", br, i), ""), element("hidden4", fmt.Sprintf("10.%d.0.0/24", i), ""))
	}
	var ends []diagnose.End
	for i := range 1000 {
		tap, n := fmt.Sprintf("tap%d", i), i%100
		lines = append(lines, "tuntap add "+tap+" mode tap", fmt.Sprintf("link set %s up master br%d", tap, n))
		want.Add(host.Element{Table: bridgeTable, Set: "ports", Value: tap})
		ends = append(ends, diagnose.End{Kind: diagnose.Guest, Name: tap, Addr: netip.MustParseAddr(fmt.Sprintf("10.%d.0.%d", n, 10+i/100)), MAC: fmt.Sprintf("52:54:00:00:%02x:%02x", i/256, i%256),
			Port: tap, Bridge: fmt.Sprintf("br%d", n), Plugged: true, Subnet: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", n)), Gateway: netip.MustParseAddr(fmt.Sprintf("10.%d.0.1", n))})
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	b.Cleanup(func() {
		for i := range 100 {
			exec.Command("ip", "link", "del", fmt.Sprintf("br%d", i)).Run()
		}
		for i := range 1000 {
			exec.Command("ip", "link", "del", fmt.Sprintf("tap%d", i)).Run()
		}
	})
	if err := a.apply(b.Context(), plan.Diff(want, host.State{})); err != nil {
		b.Fatal(err)
	}
	h, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	for b.Loop() {
		s, err := h.Scene(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		s.Guests = ends
		if said := diagnose.Explain(s, diagnose.PathQuestion{From: ends[0], To: ends[501], Proto: 6, Port: 80}); len(said.Steps) == 0 {
			b.Fatal("nothing was said")
		}
	}
}
