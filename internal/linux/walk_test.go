package linux

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/nettest"
)

var (
	walkSeed  = flag.Uint64("walk.seed", 20261127, "seed of the random rulesets and topologies; 0 takes a new one")
	walkCount = flag.Int("walk.rulesets", 60, "how many random rulesets are tried")
)

// router is this namespace as a router between two links, with sockets that see
// everything that goes in and out, and what is delivered to it.
type router struct {
	t     testing.TB
	tap   int // all frames of all links
	local map[byte]int
	index map[string]int
	mac   map[string][]byte
	count uint64
}

const routerSetup = `
link add a0 address 02:00:00:00:0a:00 type veth peer name a1 address 02:00:00:00:0a:01
link add b0 address 02:00:00:00:0b:00 type veth peer name b1 address 02:00:00:00:0b:01
link set a0 up
link set a1 up
link set b0 up
link set b1 up
link set b0 group 7
address add 10.1.0.1/24 dev a0
address add 10.2.0.1/24 dev b0
address add fd01::1/64 dev a0 nodad
address add fd02::1/64 dev b0 nodad
`

func newRouter(t testing.TB) *router {
	t.Helper()
	nettest.Need(t, nettest.Namespace, nettest.Root, "nft", "conntrack", "ip", "iptables-nft")
	runtime.LockOSThread() // frames that one CPU sends keep their order
	t.Cleanup(runtime.UnlockOSThread)
	var one unix.CPUSet
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	for cpu := range 64 {
		if before.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.SchedSetaffinity(0, &before) })
	for _, s := range []string{"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0", "ipv6/conf/default/accept_dad=0",
		"ipv4/conf/all/send_redirects=0", "ipv4/conf/default/send_redirects=0", "ipv4/icmp_ratelimit=0", "ipv6/icmp/ratelimit=0"} {
		name, value, _ := strings.Cut(s, "=")
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.TrimSpace(routerSetup)
	for i := 2; i < 10; i++ {
		for dev, net := range map[string]string{"a0": "1", "b0": "2"} {
			lines += fmt.Sprintf("\nneigh replace 10.%s.0.%d lladdr 02:00:00:00:00:%02x dev %s nud permanent", net, i, i, dev)
			lines += fmt.Sprintf("\nneigh replace fd0%s::%d lladdr 02:00:00:00:00:%02x dev %s nud permanent", net, i, i, dev)
		}
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(lines + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		exec.Command("ip", "link", "del", "a0").Run()
		exec.Command("ip", "link", "del", "b0").Run()
		exec.Command("nft", "flush", "ruleset").Run()
		exec.Command("conntrack", "-F").Run()
	})
	r := &router{t: t, local: map[byte]int{}, index: map[string]int{}, mac: map[string][]byte{}}
	r.tap = r.socket(unix.AF_PACKET, int(htons(unix.ETH_P_ALL)))
	for _, proto := range []byte{1, 6, 17} {
		r.local[proto] = r.socket(unix.AF_INET, int(proto))
	}
	for _, proto := range []byte{6, 17, 58} {
		r.local[proto|0x80] = r.socket(unix.AF_INET6, int(proto))
	}
	for _, name := range []string{"a0", "a1", "b0", "b1"} {
		req, err := unix.NewIfreq(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlIfreq(r.tap, unix.SIOCGIFINDEX, req); err != nil {
			t.Fatal(err)
		}
		r.index[name] = int(req.Uint32())
	}
	return r
}

func htons(n uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)) }

func (r *router) socket(domain, proto int) int {
	r.t.Helper()
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	r.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// seen is what became of a packet.
type seen struct {
	forwarded, delivered, refused bool
	out                           string
	source, target                netip.Addr
	sport, dport                  uint16
	whole                         []string
}

func (s seen) String() string {
	switch {
	case s.forwarded:
		return fmt.Sprintf("forwarded to %s as %s.%d > %s.%d", s.out, s.source, s.sport, s.target, s.dport)
	case s.delivered:
		return fmt.Sprintf("delivered as %s.%d > %s.%d", s.source, s.sport, s.target, s.dport)
	case s.refused:
		return "refused"
	}
	return "dropped"
}

// send puts a packet on a link's other end and says what the router did.
func (r *router) send(p diagnose.Packet) seen {
	r.t.Helper()
	for range 2 {
		r.drain()
	}
	const marker = 0x88b5
	r.count++
	dev := map[string]string{"a0": "a1", "b0": "b1"}[p.In]
	frame := frameOf(p)
	to := &unix.SockaddrLinklayer{Protocol: htons(uint16(frame[12])<<8 | uint16(frame[13])), Ifindex: r.index[dev], Halen: 6}
	if err := unix.Sendto(r.tap, frame, 0, to); err != nil {
		r.t.Fatal(err)
	}
	end := binary.BigEndian.AppendUint64([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, marker >> 8, marker & 0xff}, r.count)
	end = append(end, make([]byte, 46)...)
	if err := unix.Sendto(r.tap, end, 0, to); err != nil {
		r.t.Fatal(err)
	}
	var s seen
	for {
		b, from := r.receive(r.tap)
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok || len(b) < 22 {
			continue
		}
		kind := binary.BigEndian.Uint16(b[12:])
		if kind == marker && binary.BigEndian.Uint64(b[14:]) == r.count && link.Ifindex == r.index[p.In] {
			break
		}
		if link.Pkttype != unix.PACKET_OUTGOING || link.Ifindex == r.index["a1"] || link.Ifindex == r.index["b1"] {
			continue
		}
		r.note(&s, b[14:], link.Ifindex, p)
	}
	fd := r.local[p.Protocol]
	if p.Source.Is6() {
		fd = r.local[p.Protocol|0x80]
	}
	for {
		b := make([]byte, 2048)
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			break
		}
		r.noteLocal(&s, b[:n], from, p)
	}
	return s
}

// note reads what went out: the packet itself, or the answer that refuses it.
func (r *router) note(s *seen, ip []byte, index int, p diagnose.Packet) {
	src, dst, proto, l4, ok := parseIP(ip)
	if !ok {
		return
	}
	s.whole = append(s.whole, fmt.Sprintf("%s>%s proto %d on %d", src, dst, proto, index))
	payload := strings.Contains(string(l4), payloadMark)
	switch {
	case proto == p.Protocol && payload && (proto == 6 || proto == 17 || l4[0] == p.ICMPType):
		s.forwarded, s.source, s.target = true, src, dst
		for name, i := range r.index {
			if i == index {
				s.out = name
			}
		}
		if proto == 6 || proto == 17 {
			s.sport, s.dport = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
		}
	case isError(proto, l4), proto == 6 && len(l4) > 13 && l4[13]&4 != 0:
		s.refused = true
	}
}

func isError(proto byte, l4 []byte) bool {
	return proto == 1 && l4[0] == 3 || proto == 58 && l4[0] == 1
}

func (r *router) noteLocal(s *seen, b []byte, from unix.Sockaddr, p diagnose.Packet) {
	if !strings.Contains(string(b), payloadMark) {
		return
	}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		src, dst, proto, l4, ok := parseIP(b)
		if !ok || isError(proto, l4) {
			return
		}
		s.delivered, s.source, s.target = true, src, dst
		if proto != 1 {
			s.sport, s.dport = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
		}
	case *unix.SockaddrInet6:
		if p.Protocol == 58 && isError(58, b) {
			return
		}
		s.delivered, s.source = true, netip.AddrFrom16(from.Addr)
		if p.Protocol != 58 {
			s.sport, s.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		}
	}
}

func parseIP(b []byte) (src, dst netip.Addr, proto byte, l4 []byte, ok bool) {
	switch {
	case len(b) >= 28 && b[0]>>4 == 4:
		src, _ = netip.AddrFromSlice(b[12:16])
		dst, _ = netip.AddrFromSlice(b[16:20])
		return src, dst, b[9], b[20:], true
	case len(b) >= 48 && b[0]>>4 == 6:
		src, _ = netip.AddrFromSlice(b[8:24])
		dst, _ = netip.AddrFromSlice(b[24:40])
		return src, dst, b[6], b[40:], true
	}
	return src, dst, 0, nil, false
}

func (r *router) drain() {
	b := make([]byte, 4096)
	fds := []int{r.tap}
	for _, fd := range r.local {
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		for {
			if _, _, err := unix.Recvfrom(fd, b, 0); err != nil {
				break
			}
		}
	}
}

func (r *router) receive(fd int) ([]byte, unix.Sockaddr) {
	r.t.Helper()
	b := make([]byte, 4096)
	end := time.Now().Add(20 * time.Second)
	for time.Now().Before(end) {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err == nil {
			return b[:n], from
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000); err != nil && err != unix.EINTR {
			r.t.Fatal(err)
		}
	}
	r.t.Fatal("the frame that ends a trial did not come through")
	return nil, nil
}

const payloadMark = "drawbridge-walk"

// frameOf writes the packet that is described.
func frameOf(p diagnose.Packet) []byte {
	var l4 []byte
	switch p.Protocol {
	case 6:
		l4 = binary.BigEndian.AppendUint16(nil, p.SourcePort)
		l4 = binary.BigEndian.AppendUint16(l4, p.TargetPort)
		l4 = append(l4, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, p.TCPFlags, 0xff, 0xff, 0, 0, 0, 0)
	case 17:
		l4 = binary.BigEndian.AppendUint16(nil, p.SourcePort)
		l4 = binary.BigEndian.AppendUint16(l4, p.TargetPort)
		l4 = binary.BigEndian.AppendUint16(l4, uint16(8+len(payloadMark)))
		l4 = append(l4, 0, 0)
	default:
		l4 = []byte{p.ICMPType, p.ICMPCode, 0, 0, 0, 9, 0, 1}
	}
	l4 = append(l4, payloadMark...)
	at := map[uint8]int{6: 16, 17: 6, 1: 2, 58: 2}[p.Protocol]
	pseudo := append(p.Source.AsSlice(), p.Target.AsSlice()...)
	pseudo = append(pseudo, 0, p.Protocol, byte(len(l4)>>8), byte(len(l4)))
	if p.Protocol == 1 {
		pseudo = nil
	}
	binary.BigEndian.PutUint16(l4[at:], checksum(append(pseudo, l4...)))
	frame := []byte{2, 0, 0, 0, 0x0a, 0, 2, 0, 0, 0, 0, 0x55}
	if p.In == "b0" {
		frame[4] = 0x0b
	}
	if p.Source.Is4() {
		ip := []byte{0x45, 0, 0, byte(20 + len(l4)), 0, 1, 0x40, 0, 64, p.Protocol, 0, 0}
		ip = append(append(ip, p.Source.AsSlice()...), p.Target.AsSlice()...)
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		return append(append(append(frame, 8, 0), ip...), l4...)
	}
	ip := []byte{0x60, 0, 0, 0, 0, byte(len(l4)), p.Protocol, 64}
	ip = append(append(ip, p.Source.AsSlice()...), p.Target.AsSlice()...)
	return append(append(append(frame, 0x86, 0xdd), ip...), l4...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// routerHost is what the walk is told about the router.
func routerHost(r *router) *diagnose.Host {
	p := netip.MustParsePrefix
	h := &diagnose.Host{Forward6: true, Links: map[string]diagnose.Link{
		"lo": {Index: 1, Type: 772, Addresses: []netip.Prefix{p("127.0.0.1/8"), p("::1/128")}},
		"a0": {Index: r.index["a0"], Forward4: true, Type: 1, Kind: "veth", Addresses: []netip.Prefix{p("10.1.0.1/24"), p("fd01::1/64")}},
		"b0": {Index: r.index["b0"], Forward4: true, Type: 1, Kind: "veth", Group: 7, Addresses: []netip.Prefix{p("10.2.0.1/24"), p("fd02::1/64")}},
	}}
	h.Route = func(q diagnose.RouteQuery) (diagnose.RouteAnswer, bool) {
		for name, l := range h.Links {
			for _, a := range l.Addresses {
				if a.Addr() == q.Target {
					return diagnose.RouteAnswer{Type: 2, Out: "lo", From: q.Target}, true
				}
				if a.Contains(q.Target) && (q.Out == "" || q.Out == name) && name != "lo" {
					return diagnose.RouteAnswer{Type: 1, Out: name, From: a.Addr()}, true
				}
			}
		}
		return diagnose.RouteAnswer{Type: 7}, true
	}
	return h
}

// trial sends a packet and compares; it returns what the walk said.
func (r *router) trial(rules string, h *diagnose.Host, a *nftAdapter, p diagnose.Packet) diagnose.Passage {
	r.t.Helper()
	set, err := a.everything(r.t.Context(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	said := diagnose.Arrive(set, h, p)
	did := r.send(p)
	if complaint := disagree(said, did); complaint != "" {
		r.t.Errorf("%s\npacket: %+v\nsaid: %s %s local=%v %+v\n  hops %v\nhappened: %s %v\nrules:\n%s", complaint, p, said.Kind, said.Why, said.Local, said.Packet, said.Hops, did, did.whole, rules)
	}
	return said
}

// disagree compares what was said with what happened.
func disagree(said diagnose.Passage, did seen) string {
	arrived := did.forwarded || did.delivered
	same := func(addr, seen netip.Addr, port, seenPort uint16) bool {
		return (!addr.IsValid() || !seen.IsValid() || addr == seen) && (port == 0 || port == seenPort)
	}
	switch said.Kind {
	case diagnose.Unknown:
		return ""
	case diagnose.Accepted:
		switch {
		case !arrived:
			return "said to arrive, and it did not"
		case said.Local != did.delivered:
			return "said to go elsewhere"
		case did.forwarded && did.out != said.Packet.Out:
			return "said to leave by another link"
		case !same(said.Packet.Target, did.target, said.Packet.TargetPort, did.dport):
			return "said to have another target"
		case !same(said.Packet.Source, did.source, said.Packet.SourcePort, did.sport):
			return "said to have another source"
		}
	case diagnose.Dropped, diagnose.Rejected:
		if arrived {
			return "said not to arrive, and it did"
		}
		if said.Kind == diagnose.Dropped && did.refused && said.Ends().Chain != nil && !said.Ends().Either {
			return "said to be dropped in silence, and it was refused"
		}
	}
	return ""
}

func walkRandom(t *testing.T) (*rand.Rand, uint64) {
	seed := *walkSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed: -walk.seed=%d", seed)
	return rand.New(rand.NewPCG(seed, 1)), seed
}

func TestWalkAgreesWithPackets(t *testing.T) {
	rnd, _ := walkRandom(t)
	r := newRouter(t)
	a := freshNFT(t)
	h := routerHost(r)
	total, unknown := 0, 0
	reasons := map[string]int{}
	for range *walkCount {
		rules := randomRules(rnd)
		exec.Command("nft", "flush", "ruleset").Run()
		rules.text = load(t, rules)
		for range 12 {
			p := randomPacket(rnd)
			exec.Command("conntrack", "-F").Run()
			if rnd.IntN(4) == 0 {
				establish(t, &p, rnd)
			}
			total++
			if said := r.trial(rules.text, h, a, p); said.Kind == diagnose.Unknown {
				unknown++
				reasons[said.Why]++
			}
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("%d packets, %d unknown", total, unknown)
	if unknown*20 > total {
		t.Errorf("%d of %d packets unknown: %v", unknown, total, reasons)
	}
}

// load loads rules, without those lines that nft finds contradictory.
func load(t *testing.T, r randomRuleset) string {
	t.Helper()
	lines := strings.Split(r.text, "\n")
	for range 60 {
		out, err := feed(r.program, strings.Join(lines, "\n"))
		if err == nil {
			return strings.Join(lines, "\n")
		}
		bad := badLine.FindStringSubmatch(out)
		if bad == nil {
			t.Fatalf("%v: %s\n%s", err, out, r.text)
		}
		n, _ := strconv.Atoi(bad[1])
		lines[n-1] = ""
	}
	t.Fatalf("nothing left of\n%s", r.text)
	return ""
}

var badLine = regexp.MustCompile(`stdin:(\d+):\d+-\d+: Error: (?:conflicting|Can't|meta|datatype|transport|Could not process rule: (?:Operation not supported|Invalid))`)

func feed(program, text string) (string, error) {
	args := map[string][]string{"nft": {"-f", "-"}, "iptables-nft-restore": {}, "ip6tables-nft-restore": {}}[program]
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// establish makes the packet belong to a connection that is there.
func establish(t *testing.T, p *diagnose.Packet, rnd *rand.Rand) {
	t.Helper()
	if p.Protocol != 17 || p.Source.Is6() {
		return
	}
	args := []string{"-I", "-p", "udp", "-s", p.Source.String(), "-d", p.Target.String(), "--sport", fmt.Sprint(p.SourcePort), "--dport", fmt.Sprint(p.TargetPort), "-t", "60", "-u", "SEEN_REPLY,ASSURED"}
	mark := uint32(rnd.IntN(4))
	args = append(args, "-m", fmt.Sprint(mark))
	if out, err := exec.Command("conntrack", args...).CombinedOutput(); err != nil {
		t.Fatalf("conntrack %v: %v: %s", args, err, out)
	}
	p.Connection = diagnose.Connection{State: diagnose.Established, Status: diagnose.StatusSeenReply | diagnose.StatusAssured | diagnose.StatusConfirmed, Mark: mark,
		Original: diagnose.Tuple{Source: p.Source, Target: p.Target, SourcePort: p.SourcePort, TargetPort: p.TargetPort},
		Answer:   diagnose.Tuple{Source: p.Target, Target: p.Source, SourcePort: p.TargetPort, TargetPort: p.SourcePort}}
}
