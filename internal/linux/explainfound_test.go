package linux

import (
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"drawbridge/internal/diagnose"
)

// What random topologies found out about the walk, one by one.
func TestExplainKnowsHowWaysAreAsked(t *testing.T) {
	c := newCountry(t, rand.New(rand.NewPCG(1, 1)))
	const (
		behind    = "{ table ip foreign { chain c { type nat hook prerouting priority -110; ip daddr 192.168.99.66 tcp dport 8099 dnat to 192.168.122.12:80; }; } }"
		isolated0 = "link set vnet0 type bridge_slave isolated on"
		isolated2 = "link set vnet2 type bridge_slave isolated on"
		mine      = "fdb replace 52:54:00:00:00:0a dev vnet0 master local"
		shown     = "bridge/bridge-nf-call-iptables=1"
	)
	for _, test := range []struct {
		name   string
		faults []string
		six    bool
		port   uint16
		ask    string
		said   diagnose.Kind
		reason string
	}{
		{"IPv4 asks again with the source", []string{"-4 rule add from 192.168.122.0/24 prohibit priority 77"}, false, 80, "guest", diagnose.Dropped, "prohibits"},
		{"IPv6 does not", []string{"-6 rule add from fd00:122::/64 prohibit priority 77"}, true, 80, "guest", diagnose.Accepted, ""},
		{"a black hole", []string{"-4 route replace blackhole 192.168.122.10/32"}, false, 0, "guest", diagnose.Dropped, "blackhole"},
		{"a black hole of IPv6", []string{"-6 route replace blackhole fd00:122::10/128"}, true, 0, "guest", diagnose.Dropped, "blackhole"},
		{"a rule for a port", []string{"-4 rule add ipproto tcp dport 80 prohibit priority 77"}, false, 80, "lan", diagnose.Dropped, "prohibits"},
		{"a rule for another port", []string{"-4 rule add ipproto tcp dport 81 prohibit priority 77"}, false, 80, "lan", diagnose.Accepted, ""},
		{"a rule for the answer's port", []string{"-6 rule add ipproto tcp sport 80 prohibit priority 77"}, true, 80, "lan", diagnose.Dropped, "prohibits"},
		{"a rule for pings", []string{"-4 rule add ipproto icmp blackhole priority 77"}, false, 0, "lan", diagnose.Dropped, "blackhole"},
		{"a mark that comes in time", []string{
			"-4 rule add fwmark 1 prohibit priority 77", "{ table ip foreign { chain c { type route hook output priority -150; tcp dport 80 meta mark set 1; }; } }",
		}, false, 80, "guest", diagnose.Dropped, "prohibits"},
		{"a mark that comes too late", []string{
			"-4 rule add fwmark 1 prohibit priority 77", "{ table ip foreign { chain c { type filter hook output priority -150; tcp dport 80 meta mark set 1; }; } }",
		}, false, 80, "guest", diagnose.Accepted, ""},
		{"the host's own address by hand", []string{mine}, false, 80, "guest", diagnose.Accepted, ""},
		{"the host's own address by hand, from a guest", []string{mine}, false, 80, "other guest", diagnose.Dropped, "for the host's own"},
		{"an egress chain without questions by ARP", []string{"{ table netdev foreign { chain c { type filter hook egress device up0 priority 0; ether type arp drop; }; } }"}, false, 0, "lan", diagnose.Dropped, "the host's question"},
		{"isolated, and a forward beside it", []string{behind, isolated0, isolated2}, false, 8099, "forward", diagnose.Accepted, "reaches guest2"},
		{"isolated, a forward beside it, and br_netfilter", []string{behind, isolated0, isolated2, shown}, false, 8099, "forward", diagnose.Dropped, "br_netfilter leaves it to bridge virbr0, where both ports are isolated"},
		{"a forward beside it, and br_netfilter", []string{behind, isolated0, shown}, false, 8099, "forward", diagnose.Accepted, "reaches guest2"},
		{"a forward to oneself, and br_netfilter", []string{strings.ReplaceAll(behind, "122.12", "122.10"), shown}, false, 8099, "forward", diagnose.Dropped, "sends nothing back to the port that it came from"},
		{"a forward to oneself, hairpin, and br_netfilter", []string{strings.ReplaceAll(behind, "122.12", "122.10"), shown, "link set vnet0 type bridge_slave hairpin on"}, false, 8099, "forward", diagnose.Accepted, "reaches guest0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.t = t
			c.build()
			for c.bridged || c.isolated || len(c.nodesIn()) < 3 || len(c.ends) != 2*len(c.nodesIn()) {
				c.build()
			}
			for _, f := range test.faults {
				c.fault(f)
			}
			guest := c.ends[map[bool]int{true: 1}[test.six]]
			self := diagnose.End{Kind: diagnose.Itself, Name: "host", Addr: netip.MustParseAddr(hostAddr[test.six])}
			q := map[string]diagnose.PathQuestion{
				"guest":       {From: diagnose.End{Kind: diagnose.Itself, Name: "host"}, To: guest, Proto: 6, Port: test.port},
				"lan":         {From: guest, To: diagnose.End{Kind: diagnose.Outside, Name: "lan", Addr: netip.MustParseAddr(lanAddr[test.six])}, Proto: 6, Port: test.port},
				"forward":     {From: guest, To: self, Proto: 6, Port: test.port},
				"other guest": {From: c.ends[4], To: guest, Proto: 6, Port: test.port},
			}[test.ask]
			if test.port == 0 {
				q.Proto = map[bool]uint8{false: 1, true: 58}[test.six]
			}
			s, err := c.host.Scene(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s.Guests = c.ends
			said := diagnose.Explain(s, q)
			if said.Kind != test.said || !strings.Contains(said.Sentence, test.reason) {
				t.Errorf("said: %s\nsteps: %s", said.Sentence, stepsText(said))
			}
			if did, _ := c.really(q, said.Kind == diagnose.Accepted); did != (test.said == diagnose.Accepted) {
				t.Errorf("it arrived: %v", did)
			}
		})
	}
}

// fault is one line: of nft with a bracket, a parameter with =, of bridge with fdb, else
// of ip.
func (c *country) fault(line string) {
	c.t.Helper()
	program := "ip"
	switch name, value, parameter := strings.Cut(line, "="); {
	case strings.HasPrefix(line, "{"):
		if out, err := feed("nft", strings.TrimSuffix(strings.TrimPrefix(line, "{"), "}")); err != nil {
			c.t.Fatalf("%v: %s", err, out)
		}
		return
	case parameter:
		c.set(name, value)
		return
	case strings.HasPrefix(line, "fdb"):
		program = "bridge"
	}
	if out, err := exec.Command(program, strings.Fields(line)...).CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v: %s", line, err, out)
	}
}

// A route's own MTU is for what the host sends and for what it forwards.
func TestExplainKnowsTheMTUOfRoutes(t *testing.T) {
	c := newCountry(t, rand.New(rand.NewPCG(1, 1)))
	c.build()
	for c.bridged || c.isolated || len(c.ends) != 2*len(c.nodesIn()) {
		c.build()
	}
	self := diagnose.End{Kind: diagnose.Itself, Name: "host"}
	for _, test := range []struct {
		route string
		from  diagnose.End
		six   bool
		mtu   int
	}{
		{"mtu 1400", c.ends[0], false, 1400},
		{"mtu lock 1390", c.ends[0], false, 1390},
		{"mtu 1380", self, false, 1380},
		{"", c.ends[1], true, 1500},
		{"mtu 1400", c.ends[1], true, 1400},
		{"mtu lock 1390", c.ends[1], true, 1390},
		{"mtu 1380", self, true, 1380},
	} {
		to := map[bool]string{false: "-4 route replace 198.51.100.0/24 via 192.168.99.1 ", true: "-6 route replace 2001:db8::/64 via fd00:99::1 "}[test.six] + test.route
		if out, err := exec.Command("ip", strings.Fields(to)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", to, err, out)
		}
		q := diagnose.PathQuestion{From: test.from, To: diagnose.End{Kind: diagnose.Outside, Name: "internet", Addr: netip.MustParseAddr(farAddr[test.six])}, Proto: map[bool]uint8{false: 1, true: 58}[test.six]}
		// What was learnt of a path is not the route's.
		for _, n := range c.nodes {
			n.Run(t.Context(), "sh", "-c", "ip -4 route flush cache; ip -6 route flush cache")
		}
		s, err := c.host.Scene(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.Guests = c.ends
		said := diagnose.Explain(s, q)
		if said.Kind != diagnose.Accepted || said.MTU != test.mtu {
			t.Errorf("%s from %s: said an MTU of %d: %s", to, test.from.Name, said.MTU, said.Sentence)
		}
		if complaint := c.tooLarge(q, said); complaint != "" {
			t.Errorf("%s from %s: %s", to, test.from.Name, complaint)
		}
	}
}
