package linux

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/nettest"
)

// What is said of bridges that tell VLANs apart is what happens to packets there.
// That needs a kernel whose bridges do.
func TestExplainAgreesWithPacketsInVLANs(t *testing.T) {
	with := nettest.Inside{
		Modules:  []string{"bridge", "8021q", "veth", "nf_tables", "nf_conntrack", "nf_conntrack_netlink", "nft_ct"},
		Programs: []string{"bridge", "nft", "ping", "conntrack"},
		Env:      []string{fmt.Sprintf("%s=%d", vlanSeedEnv, *walkSeed), fmt.Sprintf("%s=%d", vlanCountEnv, *vlanTopologies)},
	}
	nettest.InGuest(t, with, func(t *testing.T) {
		var seed uint64
		count := 12
		fmt.Sscan(os.Getenv(vlanSeedEnv), &seed)
		fmt.Sscan(os.Getenv(vlanCountEnv), &count)
		*walkSeed = seed
		rnd, _ := walkRandom(t)
		t.Run("full of connections", explainFullTable)
		s := newSwitchRoom(t, rnd)
		asked, delivered, unknown := 0, 0, 0
		for n := range count {
			s.build()
			a, d, u := s.questions(n)
			asked, delivered, unknown = asked+a, delivered+d, unknown+u
		}
		t.Logf("%d questions on %d topologies: %d delivered, %d not, %d unknown", asked, count, delivered, asked-delivered-unknown, unknown)
		if unknown*5 > asked {
			t.Errorf("%d of %d are unknown", unknown, asked)
		}
	})
}

const vlanSeedEnv, vlanCountEnv = "DRAWBRIDGE_WALK_SEED", "DRAWBRIDGE_WALK_TOPOLOGIES"

// switchRoom is a bridge with VLANs, guests on it, and a LAN that has all of them
// on one cable.
type switchRoom struct {
	t      *testing.T
	rnd    *rand.Rand
	host   *Host
	guests []*nettest.Node
	lan    *nettest.Node
	ends   []diagnose.End
	script []string
}

// vlanNets are the networks of the VLANs.
var vlanNets = map[int]string{1: "99", 30: "30", 40: "40"}

var vlanIDs = []int{1, 30, 40}

func vlanAddr(vlan, number int, six bool) netip.Addr {
	if six {
		return netip.MustParseAddr(fmt.Sprintf("fd00:%s::%d", vlanNets[vlan], number))
	}
	return netip.MustParseAddr(fmt.Sprintf("192.168.%s.%d", vlanNets[vlan], number))
}

func newSwitchRoom(t *testing.T, rnd *rand.Rand) *switchRoom {
	s := &switchRoom{t: t, rnd: rnd, host: newHost(t)}
	node := func(name string) *nettest.Node {
		n, err := nettest.NewNode(context.Background(), name, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		if _, err := n.Run(t.Context(), "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad"); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i := range 4 {
		s.guests = append(s.guests, node(fmt.Sprintf("guest%d", i)))
	}
	s.lan = node("lan")
	for _, name := range []string{"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv6/conf/default/accept_dad=0", "ipv6/conf/all/accept_dad=0"} {
		name, value, _ := strings.Cut(name, "=")
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *switchRoom) run(program string, lines ...string) {
	s.t.Helper()
	for _, line := range lines {
		s.script = append(s.script, program+" "+line)
	}
	cmd := exec.Command(program, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v: %s\n%s", program, err, out, strings.Join(lines, "\n"))
	}
}

func (s *switchRoom) at(n *nettest.Node, lines ...string) {
	s.t.Helper()
	s.script = append(s.script, lines...)
	if err := n.IP(s.t.Context(), lines...); err != nil {
		s.t.Fatal(err)
	}
}

// build makes a bridge anew, with ports of all kinds.
func (s *switchRoom) build() {
	s.t.Helper()
	s.script, s.ends = nil, nil
	for _, name := range []string{"br0", "up0", "vnet0", "vnet1", "vnet2", "vnet3"} {
		exec.Command("ip", "link", "del", name).Run()
	}
	rnd := s.rnd
	s.run("ip", "link add br0 type bridge forward_delay 0 vlan_filtering 1", "link set br0 up", "link add up0 type veth peer name eth0 netns "+fmt.Sprint(s.lan.PID()), "link set up0 up master br0",
		"address add 192.168.99.66/24 dev br0", "address add fd00:99::66/64 dev br0")
	lines := []string{"link set eth0 up", "address add 192.168.99.1/24 dev eth0", "address add fd00:99::1/64 dev eth0"}
	has := map[int]bool{1: true} // networks in which the host has an address
	vlans := []string{}
	for _, v := range vlanIDs[1:] {
		lines = append(lines, fmt.Sprintf("link add link eth0 name eth0.%d type vlan id %d", v, v), fmt.Sprintf("link set eth0.%d up", v),
			fmt.Sprintf("address add %s/24 dev eth0.%d", vlanAddr(v, 1, false), v), fmt.Sprintf("address add %s/64 dev eth0.%d", vlanAddr(v, 1, true), v))
		if rnd.IntN(6) > 0 {
			vlans = append(vlans, fmt.Sprintf("vlan add dev up0 vid %d", v))
		}
		if rnd.IntN(6) > 0 {
			vlans = append(vlans, fmt.Sprintf("vlan add dev br0 vid %d self", v))
		}
		if has[v] = rnd.IntN(4) > 0; has[v] {
			s.run("ip", fmt.Sprintf("link add link br0 name br0.%d type vlan id %d", v, v), fmt.Sprintf("link set br0.%d up", v),
				fmt.Sprintf("address add %s/24 dev br0.%d", vlanAddr(v, 66, false), v), fmt.Sprintf("address add %s/64 dev br0.%d", vlanAddr(v, 66, true), v))
		}
	}
	if rnd.IntN(8) == 0 {
		vlans = append(vlans, pick(rnd, "vlan del dev up0 vid 1", "vlan add dev up0 vid 1", "vlan del dev br0 vid 1 self"))
	}
	s.at(s.lan, lines...)
	for i := range s.guests {
		vlans = append(vlans, s.plug(i, has)...)
	}
	s.run("bridge", vlans...)
	if rnd.IntN(4) == 0 {
		s.run("ip", "link set vnet0 type bridge_slave isolated on", "link set vnet1 type bridge_slave isolated on")
	}
}

// plug gives a guest a port; it returns what the bridge is told about its VLANs.
func (s *switchRoom) plug(i int, has map[int]bool) []string {
	rnd, n := s.rnd, s.guests[i]
	vlan, port, card, mac := pick(rnd, vlanIDs...), fmt.Sprintf("vnet%d", i), "eth0", fmt.Sprintf("52:54:00:00:00:%02x", 10+i)
	other := pick(rnd, vlanIDs...)
	s.run("ip", fmt.Sprintf("link add %s type veth peer name eth0 netns %d", port, n.PID()), fmt.Sprintf("link set %s up master br0", port))
	lines := []string{"link set eth0 address " + mac, "link set eth0 up"}
	vlans := []string{fmt.Sprintf("vlan del dev %s vid 1", port)}
	add := func(v int, flags string) {
		vlans = append(vlans, fmt.Sprintf("vlan add dev %s vid %d %s", port, v, flags))
	}
	switch rnd.IntN(10) {
	default:
		add(vlan, "pvid untagged")
	case 4, 5, 6: // a trunk, and the guest tags
		vlan = pick(rnd, 30, 40)
		if rnd.IntN(2) == 0 {
			add(1, "pvid untagged")
		}
		for _, v := range []int{30, 40} {
			if rnd.IntN(6) > 0 {
				add(v, "")
			}
		}
		card = fmt.Sprintf("eth0.%d", vlan)
		lines = append(lines, fmt.Sprintf("link add link eth0 name %s type vlan id %d", card, vlan), "link set "+card+" up")
	case 7: // a trunk, and the guest does not
		for _, v := range vlanIDs {
			add(v, map[bool]string{true: "pvid untagged"}[v == vlan])
		}
	case 8:
		add(other, "pvid untagged") // perhaps the wrong one
	case 9:
		add(vlan, pick(rnd, "untagged", "pvid"))
	}
	var gateways [2]netip.Addr
	for k, six := range []bool{false, true} {
		lines = append(lines, fmt.Sprintf("address add %s/%d dev %s", vlanAddr(vlan, 10+i, six), []int{24, 64}[k], card))
		if has[vlan] {
			gateways[k] = vlanAddr(vlan, 66, six)
			lines = append(lines, "route add default via "+gateways[k].String())
		}
	}
	s.at(n, lines...)
	for k, six := range []bool{false, true} {
		subnet, _ := vlanAddr(vlan, 10+i, six).Prefix([]int{24, 64}[k])
		s.ends = append(s.ends, diagnose.End{Kind: diagnose.Guest, Name: fmt.Sprintf("guest%d", i), Addr: vlanAddr(vlan, 10+i, six), MAC: mac, Port: port, Bridge: "br0", Plugged: true,
			Subnet: subnet, Gateway: gateways[k], Network: fmt.Sprintf("vlan%d", vlan)})
	}
	return vlans
}

// ask makes up a question.
func (s *switchRoom) ask() diagnose.PathQuestion {
	rnd, six := s.rnd, s.rnd.IntN(3) == 0
	guest := func() diagnose.End {
		for {
			if e := s.ends[rnd.IntN(len(s.ends))]; e.Addr.Is6() == six {
				return e
			}
		}
	}
	q := diagnose.PathQuestion{From: guest(), To: guest(), Proto: map[bool]uint8{false: 1, true: 58}[six]}
	for q.To.Name == q.From.Name {
		q.To = guest()
	}
	vlan := func(e diagnose.End) (id int) { fmt.Sscanf(e.Network, "vlan%d", &id); return id }
	switch rnd.IntN(7) {
	case 0: // the LAN's machine in the guest's network
		q.To = diagnose.End{Kind: diagnose.Outside, Name: "lan", Addr: vlanAddr(vlan(q.From), 1, six)}
	case 1:
		q.From = diagnose.End{Kind: diagnose.Outside, Name: "lan", Addr: vlanAddr(vlan(q.To), 1, six)}
	case 2:
		q.From = diagnose.End{Kind: diagnose.Itself, Name: "host"}
	case 3:
		q.To = diagnose.End{Kind: diagnose.Itself, Name: "host", Addr: vlanAddr(vlan(q.From), 66, six)}
	}
	return q
}

// questions asks several, then sends what they are about.
func (s *switchRoom) questions(topology int) (asked, delivered, unknown int) {
	s.t.Helper()
	ctx := s.t.Context()
	everywhere := append([]*nettest.Node{s.lan}, s.guests...)
	// Some have said something before, so that the bridge knows where they are.
	var talks sync.WaitGroup
	for i, n := range everywhere {
		if s.rnd.IntN(2) == 0 {
			addr := "192.168.99.250"
			if i > 0 {
				addr = s.ends[2*(i-1)].Addr.String()
				addr = addr[:strings.LastIndex(addr, ".")] + ".250"
			}
			talks.Go(func() { n.Run(ctx, "ping", "-c", "1", "-W", "0.2", addr) })
		}
	}
	talks.Wait()
	exec.Command("ip", "neigh", "flush", "all").Run()
	exec.Command("ip", "-6", "neigh", "flush", "all").Run()
	for _, n := range everywhere {
		n.Run(ctx, "sh", "-c", "ip neigh flush all; ip -6 neigh flush all")
	}
	scene, err := s.host.Scene(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	scene.Guests = s.ends
	type trial struct {
		q    diagnose.PathQuestion
		said diagnose.Answer
		did  bool
	}
	var trials []*trial
	for range 6 {
		q := s.ask()
		if slices.ContainsFunc(trials, func(t *trial) bool { return t.q.From.Name == q.From.Name && t.q.To.Addr == q.To.Addr }) {
			continue
		}
		trials = append(trials, &trial{q: q, said: diagnose.Explain(scene, q)})
	}
	var pings sync.WaitGroup
	for _, one := range trials {
		pings.Go(func() { one.did = s.ping(one.q, one.said.Kind == diagnose.Accepted) })
	}
	pings.Wait()
	for _, one := range trials {
		asked++
		switch {
		case one.said.Kind == diagnose.Unknown:
			unknown++
			s.t.Logf("unknown: %s (it arrived: %v)", one.said.Sentence, one.did)
		case one.did != (one.said.Kind == diagnose.Accepted):
			vlans, _ := exec.Command("bridge", "vlan", "show").Output()
			s.t.Errorf("topology %d: said: %s\nit arrived: %v\nasked: %+v\nscript:\n%s\n%s\nsteps: %s", topology, one.said.Sentence, one.did, one.q, strings.Join(s.script, "\n"), vlans, stepsText(one.said))
		case one.did:
			delivered++
		}
	}
	return asked, delivered, unknown
}

// ping says whether one arrives and is answered.
func (s *switchRoom) ping(q diagnose.PathQuestion, expected bool) bool {
	args := []string{"-n", "-c", "2", "-i", "0.3", "-w", "1", q.To.Addr.String()}
	tries := 1
	if expected {
		tries = 12
	}
	for range tries {
		var err error
		switch {
		case q.From.Kind == diagnose.Itself:
			err = exec.Command("ping", args...).Run()
		case q.From.Name == "lan":
			_, err = s.lan.Run(s.t.Context(), "ping", args...)
		default:
			_, err = s.guests[q.From.Name[5]-'0'].Run(s.t.Context(), "ping", args...)
		}
		if err == nil {
			return true
		}
	}
	return false
}
