package linux

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/nettest"
)

// trackRules send what a host says to the doors of the tests elsewhere. The
// rest is tracked too, as on a host with any NAT.
const trackRules = `
flush ruleset
table inet t {
  chain out {
    type nat hook output priority -100
    ip daddr 127.9.9.9 udp dport 8000-8999 dnat ip to 127.0.0.1:7000
    ip daddr 127.9.9.9 tcp dport 8000-8999 dnat ip to 127.0.0.1:7000
    ip daddr 127.9.9.9 sctp dport 8000-8999 dnat ip to 127.0.0.1:7000
    ip daddr 127.9.9.8 meta l4proto icmp dnat ip to 127.0.0.1
    ip6 daddr fd00:c7::9 udp dport 8000-8999 dnat ip6 to [fd00:c7::1]:7000
  }
}
`

// tracked prepares the namespace: addresses, rules, accounting, no old flows.
func tracked(t testing.TB) Conntrack {
	t.Helper()
	nettest.Need(t, nettest.Namespace, nettest.Root, "nft", "conntrack", "ip")
	for _, a := range []string{"fd00:c7::9/128", "fd00:c7::1/128", "fd00:c7::2/128"} {
		if out, err := exec.Command("ip", "address", "replace", a, "dev", "lo", "nodad").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for path, value := range map[string]string{"nf_conntrack_acct": "1", "nf_conntrack_events": "1"} {
		if err := os.WriteFile("/proc/sys/net/netfilter/"+path, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(trackRules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("conntrack", "-F").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		exec.Command("nft", "flush", "ruleset").Run()
		exec.Command("ip", "address", "flush", "dev", "lo", "to", "fd00:c7::/64").Run()
	})
	return Conntrack{}
}

// sink receives and forgets; without it each packet would be answered by ICMP.
func sink(t testing.TB, addr string) {
	t.Helper()
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

// tell sends one datagram of 8 bytes to each destination, from one socket.
func tell(t testing.TB, to ...string) netip.AddrPort {
	t.Helper()
	network := "udp4"
	if strings.HasPrefix(to[0], "[") {
		network = "udp6"
	}
	c, err := net.ListenUDP(network, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, dst := range to {
		if _, err := c.WriteToUDPAddrPort([]byte("8 bytes."), netip.MustParseAddrPort(dst)); err != nil {
			t.Fatal(err)
		}
	}
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// listed is what List gives, as "proto dst>guest" in order.
func listed(t testing.TB, ct Conntrack, q FlowQuery) []string {
	t.Helper()
	var out []string
	for _, f := range flowsOf(t, ct, q) {
		out = append(out, fmt.Sprintf("%d %s>%s", f.Proto, f.Dst, f.ReplySrc))
	}
	slices.Sort(out)
	return out
}

func flowsOf(t testing.TB, ct Conntrack, q FlowQuery) []Flow {
	t.Helper()
	var out []Flow
	if err := ct.List(t.Context(), q, func(f Flow) bool { out = append(out, f); return true }); err != nil {
		t.Fatal(err)
	}
	return out
}

// theirs is what the conntrack program lists, in the same words.
func theirs(t testing.TB, args ...string) []string {
	t.Helper()
	line := regexp.MustCompile(`^\w+ +(\d+) .*?src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+) .*?src=(\S+) dst=(\S+) sport=(\d+) `)
	var out []string
	for _, family := range []string{"ipv4", "ipv6"} {
		text, err := exec.Command("conntrack", append([]string{"-L", "-f", family}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(text)) {
			if m := line.FindStringSubmatch(l); m != nil {
				out = append(out, fmt.Sprintf("%s %s>%s", m[1], net.JoinHostPort(m[3], m[5]), net.JoinHostPort(m[6], m[8])))
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestListFlows(t *testing.T) {
	ct := tracked(t)
	sink(t, "127.0.0.1:7000")
	sink(t, "[::]:7001")
	tell(t, "127.9.9.9:8080", "127.9.9.9:8081", "127.9.9.9:8999", "127.0.0.1:7000", "127.0.0.3:7001")
	tell(t, "[fd00:c7::9]:8080", "[fd00:c7::9]:8085", "[fd00:c7::2]:7001")
	l, err := net.Listen("tcp", "127.0.0.1:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", "127.9.9.9:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	door4, door6, guest4 := netip.MustParseAddr("127.9.9.9"), netip.MustParseAddr("fd00:c7::9"), netip.MustParseAddr("127.0.0.1")
	guest6 := netip.MustParseAddr("fd00:c7::1")
	const udp, tcp = unix.IPPROTO_UDP, unix.IPPROTO_TCP
	a, b, e := "17 127.9.9.9:8080>127.0.0.1:7000", "17 127.9.9.9:8081>127.0.0.1:7000", "17 127.9.9.9:8999>127.0.0.1:7000"
	one := "6 127.9.9.9:8080>127.0.0.1:7000"
	a6, b6 := "17 [fd00:c7::9]:8080>[fd00:c7::1]:7000", "17 [fd00:c7::9]:8085>[fd00:c7::1]:7000"
	for _, c := range []struct {
		name string
		q    FlowQuery
		want []string
	}{
		{"translated", FlowQuery{DNAT: true}, []string{a, b, e, a6, b6, one}},
		{"address", FlowQuery{Dst: door4}, []string{a, b, e, one}},
		{"address and protocol", FlowQuery{Dst: door4, Proto: udp}, []string{a, b, e}},
		{"one port", FlowQuery{Dst: door4, Proto: udp, First: 8081, Last: 8081}, []string{b}},
		{"one port of tcp", FlowQuery{Dst: door4, Proto: tcp, First: 8080, Last: 8080, DNAT: true}, []string{one}},
		{"range", FlowQuery{Dst: door4, Proto: udp, First: 8081, Last: 8999}, []string{b, e}},
		{"guest", FlowQuery{Guest: guest4, DNAT: true}, []string{a, b, e, one}},
		{"guest and port", FlowQuery{Guest: guest4, Proto: udp, First: 8080, Last: 8080, DNAT: true}, []string{a}},
		{"any address, no guest", FlowQuery{Proto: udp, First: 8080, Last: 8080}, []string{a, a6}},
		{"IPv6 address", FlowQuery{Dst: door6}, []string{a6, b6}},
		{"IPv6 address and port", FlowQuery{Dst: door6, Proto: udp, First: 8085, Last: 8085}, []string{b6}},
		{"IPv6 guest", FlowQuery{Guest: guest6, DNAT: true}, []string{a6, b6}},
		{"IPv6 address that nothing went to", FlowQuery{Dst: guest6, DNAT: true}, nil},
		{"every IPv4 address", FlowQuery{Dst: netip.IPv4Unspecified(), Proto: udp, First: 8080, Last: 8080}, []string{a}},
		{"every IPv6 address", FlowQuery{Dst: netip.IPv6Unspecified(), Proto: udp, First: 8080, Last: 8080}, []string{a6}},
		{"every IPv6 address, range", FlowQuery{Dst: netip.IPv6Unspecified(), Proto: udp, First: 8000, Last: 8999, DNAT: true}, []string{a6, b6}},
		{"nothing", FlowQuery{Dst: door4, Proto: udp, First: 9000, Last: 9999}, nil},
		{"everything", FlowQuery{}, theirs(t)},
	} {
		slices.Sort(c.want)
		if got := listed(t, ct, c.q); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := theirs(t, "--dst-nat"); !slices.Equal(got, listed(t, ct, FlowQuery{DNAT: true})) {
		t.Errorf("conntrack lists %v", got)
	}
	// Counts: the IPv4 datagram of 8 bytes has 28 bytes of headers.
	if f := flowsOf(t, ct, FlowQuery{Dst: door4, Proto: udp, First: 8081, Last: 8081})[0]; f.Packets != 1 || f.Bytes != 36 || !f.DNAT || f.ID == 0 {
		t.Errorf("flow is %+v", f)
	}
	n := 0
	if err := ct.List(t.Context(), FlowQuery{}, func(Flow) bool { n++; return false }); err != nil || n != 1 {
		t.Errorf("a listing that is enough with one gives %d: %v", n, err)
	}
}

func TestCutFlows(t *testing.T) {
	ct := tracked(t)
	sink(t, "127.0.0.1:7000")
	sink(t, "[::]:7001")
	var doors []string
	for port := 8000; port < 8400; port++ {
		doors = append(doors, "127.9.9.9:"+strconv.Itoa(port))
	}
	tell(t, doors...)
	tell(t, "[fd00:c7::9]:8080", "[fd00:c7::2]:7001")
	if out, err := exec.Command("ping", "-c", "1", "127.9.9.8").CombinedOutput(); err != nil {
		t.Logf("no ping: %v %s", err, out)
	}
	before := theirs(t)
	for _, q := range []FlowQuery{
		{Dst: netip.MustParseAddr("127.9.9.9"), Proto: unix.IPPROTO_UDP, First: 8010, Last: 8399},
		{Dst: netip.MustParseAddr("fd00:c7::9"), DNAT: true},
		{Dst: netip.MustParseAddr("127.9.9.8"), DNAT: true},
	} {
		flows := flowsOf(t, ct, q)
		if len(flows) == 0 {
			t.Fatalf("no flows of %+v", q)
		}
		other := flows[0]
		other.ID++
		if err := ct.Cut(t.Context(), []Flow{other}); err != nil {
			t.Error(err)
		}
		if len(flowsOf(t, ct, q)) != len(flows) {
			t.Error("a flow of another ID was cut")
		}
		for range 2 {
			if err := ct.Cut(t.Context(), flows); err != nil {
				t.Error(err)
			}
		}
		if got := flowsOf(t, ct, q); len(got) != 0 {
			t.Errorf("%d flows of %+v are left", len(got), q)
		}
	}
	if want := len(before) - 390 - 1; len(theirs(t)) != want {
		t.Errorf("%d flows are left, want %d", len(theirs(t)), want)
	}
	if err := ct.Cut(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestCutOneOfMany makes fifty thousand flows beside one that is cut.
func TestCutOneOfMany(t *testing.T) {
	ct := tracked(t)
	most, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		t.Fatal(err)
	}
	const many = 50000
	if n, _ := strconv.Atoi(strings.TrimSpace(string(most))); n < many+1000 {
		t.Skipf("this kernel tracks %d connections at most", n)
	}
	sink(t, "0.0.0.0:7001")
	sink(t, "127.0.0.1:7000")
	others := make([]string, many)
	for i := range others {
		others[i] = fmt.Sprintf("127.%d.%d.%d:7001", 64+i>>16, i>>8&255, i&255)
	}
	tell(t, others...)
	tell(t, "127.9.9.9:8080")
	took := func(what string, do func()) {
		begin := time.Now()
		do()
		t.Logf("%s: %v", what, time.Since(begin))
	}
	q := FlowQuery{Dst: netip.MustParseAddr("127.9.9.9"), Proto: unix.IPPROTO_UDP, First: 8080, Last: 8080, DNAT: true}
	var found, all []Flow
	took("find one of many", func() { found = flowsOf(t, ct, q) })
	if len(found) != 1 {
		t.Fatalf("found %v", found)
	}
	took("cut it", func() {
		if err := ct.Cut(t.Context(), found); err != nil {
			t.Error(err)
		}
	})
	took("list all", func() { all = flowsOf(t, ct, FlowQuery{}) })
	if len(all) < many || slices.ContainsFunc(all, q.keeps) {
		t.Errorf("%d flows are left", len(all))
	}
	took("cut all", func() {
		if err := ct.Cut(t.Context(), all); err != nil {
			t.Error(err)
		}
	})
	if left := flowsOf(t, ct, FlowQuery{}); len(left) > 100 {
		t.Errorf("%d flows are left", len(left))
	}
}

// follow collects events.
func follow(t *testing.T, ct Conntrack, began bool) func(FlowEventKind, netip.AddrPort) Flow {
	t.Helper()
	events := make(chan FlowEvent, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := ct.Watch(ctx, began, func(e FlowEvent) { events <- e }); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func(kind FlowEventKind, dst netip.AddrPort) Flow {
		t.Helper()
		limit := time.After(5 * time.Second)
		for {
			select {
			case e := <-events:
				if e.Kind != FlowsLost && !e.Flow.DNAT {
					t.Errorf("told of %+v", e)
				}
				if e.Kind == FlowBegan && !began {
					t.Errorf("told that %+v began", e)
				}
				if e.Kind == kind && (e.Kind == FlowsLost || e.Flow.Dst == dst) {
					return e.Flow
				}
			case <-limit:
				t.Fatalf("no event %d about %s within 5 s", kind, dst)
			}
		}
	}
}

func TestWatchFlows(t *testing.T) {
	for name, began := range map[string]bool{"beginnings and ends": true, "ends": false} {
		t.Run(name, func(t *testing.T) { watchFlows(t, began) })
	}
}

func watchFlows(t *testing.T, began bool) {
	ct := tracked(t)
	sink(t, "127.0.0.1:7000")
	next := follow(t, ct, began)
	next(FlowsLost, netip.AddrPort{})
	door, second := netip.MustParseAddrPort("127.9.9.9:8080"), netip.MustParseAddrPort("127.9.9.9:8002")
	tell(t, "127.0.0.1:7000", door.String())
	if began {
		if f := next(FlowBegan, door); f.Proto != unix.IPPROTO_UDP || f.ReplySrc != netip.MustParseAddrPort("127.0.0.1:7000") {
			t.Errorf("began: %+v", f)
		}
	}
	if err := ct.Cut(t.Context(), flowsOf(t, ct, FlowQuery{})); err != nil {
		t.Fatal(err)
	}
	if f := next(FlowEnded, door); f.Packets != 1 || f.Bytes != 36 {
		t.Errorf("ended: %+v", f)
	}
	tell(t, second.String())
	other := flowsOf(t, ct, FlowQuery{DNAT: true})
	if out, err := exec.Command("conntrack", "-D", "-p", "udp", "--dst-nat").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if f := next(FlowEnded, second); len(other) != 1 || f.ID != other[0].ID {
		t.Errorf("ended: %+v, was %+v", f, other)
	}
}

// TestWatchFlowsFromBefore: with events always on, the end of a flow is told that
// began when nobody listened.
func TestWatchFlowsFromBefore(t *testing.T) {
	ct := tracked(t)
	sink(t, "127.0.0.1:7000")
	door := netip.MustParseAddrPort("127.9.9.9:8001")
	tell(t, door.String())
	next := follow(t, ct, false)
	next(FlowsLost, netip.AddrPort{})
	if err := ct.Cut(t.Context(), flowsOf(t, ct, FlowQuery{})); err != nil {
		t.Fatal(err)
	}
	next(FlowEnded, door)
}

// TestWatchFlowsTellsOfLoss stops reading until the kernel has nowhere to put
// events.
func TestWatchFlowsTellsOfLoss(t *testing.T) {
	ct := tracked(t)
	sink(t, "127.0.0.1:7000")
	hold, lost := make(chan struct{}), make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	first, n := true, 0
	wg.Go(func() {
		err := ct.Watch(ctx, true, func(e FlowEvent) {
			switch {
			case first:
				first = false
				<-hold
			case e.Kind == FlowsLost:
				select {
				case lost <- n:
				default:
				}
			}
			n++
		})
		if err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()
	for range 30 {
		for port := 8000; port < 9000; port++ {
			tell(t, "127.9.9.9:"+strconv.Itoa(port))
		}
	}
	close(hold)
	select {
	case <-lost:
	case <-time.After(10 * time.Second):
		t.Error("thirty thousand events fit, or their loss was not told")
	}
}

func FuzzDecodeFlow(f *testing.F) {
	_, data := encodeCut(Flow{Proto: 17, Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("10.0.0.2:2"), ID: 7})
	f.Add(append(nfgenmsg(unix.AF_INET, 0), data...))
	f.Fuzz(func(t *testing.T, b []byte) {
		flow, ok := decodeFlow(b)
		if ok && (!flow.Src.IsValid() || !flow.Dst.IsValid()) {
			t.Errorf("%x is %+v", b, flow)
		}
		tellFlows(b, func(FlowEvent) {})
	})
}
