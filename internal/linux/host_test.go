package linux

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
)

func TestForeignKindsAreRefused(t *testing.T) {
	h := newHost(t)
	pool := host.Pool{Bridge: "virbr0"}
	if _, err := h.Observe(t.Context(), pool.Key()); err == nil {
		t.Error("a DHCP pool was looked for in the kernel")
	}
	if err := h.Apply(t.Context(), create(pool)); err == nil {
		t.Error("a DHCP pool was put into the kernel")
	}
}

func TestEndedContext(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	br := aBridge("never0")
	if err := h.Apply(ctx, create(br)); !errors.Is(err, context.Canceled) {
		t.Errorf("apply: %v", err)
	}
	if _, err := h.Observe(ctx, br.Key()); !errors.Is(err, context.Canceled) {
		t.Errorf("observe: %v", err)
	}
	if hasLink(br.Name) {
		t.Error("the link was made all the same")
	}
}

// TestLifetimes lets ip give an address a lifetime, as a DHCP client does.
func TestLifetimes(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip")
	br := aBridge("br-dyn")
	apply(t, h, create(br))
	defer apply(t, h, remove(br))
	for _, a := range []host.Address{
		{Link: br.Name, Addr: netip.MustParsePrefix("192.0.2.66/24"), Dynamic: true, Broadcast: netip.IPv4Unspecified()},
		{Link: br.Name, Addr: netip.MustParsePrefix("2001:db8::66/64"), Dynamic: true},
	} {
		ipText(t, "addr", "add", a.Addr.String(), "dev", br.Name, "valid_lft", "600", "preferred_lft", "600")
		seen, err := h.Observe(t.Context(), a.Key())
		if err != nil {
			t.Fatal(err)
		}
		got, _ := seen[a.Key()].(host.Address)
		if left := leftOf(got.ValidUntil, 0, monotonic()); !host.Same(got, a) || left < 597 || left > 600 {
			t.Errorf("want %+v for 600 s, see %+v for %d s", a, got, left)
		}
	}
}

func TestParametersOutsideTheTree(t *testing.T) {
	h := newHost(t)
	file := t.TempDir() + "/victim"
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"../.." + file, file, "net/../../.." + file} {
		if err := h.Apply(t.Context(), create(host.Sysctl{Path: path, Value: "new"})); err == nil {
			t.Errorf("parameter %q was written", path)
		}
		if seen, err := h.Observe(t.Context(), host.SysctlKey(path)); err == nil {
			t.Errorf("parameter %q was read: %v", path, seen)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "old" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

func TestParameterOfALinkWithADot(t *testing.T) {
	h := newHost(t)
	br := aBridge("br.100")
	apply(t, h, create(br))
	defer apply(t, h, remove(br))
	want := host.LinkSysctl("ipv4", br.Name, "rp_filter", "2")
	apply(t, h, create(want))
	seen, err := h.Observe(t.Context(), want.Key())
	if err != nil || seen[want.Key()] != want {
		t.Errorf("want %+v, see %+v, %v", want, seen, err)
	}
	if b, err := os.ReadFile("/proc/sys/net/ipv4/conf/br.100/rp_filter"); err != nil || string(b) != "2\n" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

// TestBridgeKeepsItsMTU holds that a bridge keeps the MTU that it was made
// with, whatever foreign taps are plugged in: one that follows its ports cuts
// every other guest's large packets.
func TestBridgeKeepsItsMTU(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip")
	for _, mtu := range []int{1500, 9000, 1400} {
		br := aBridge("br-mtu")
		br.MTU = mtu
		apply(t, h, create(br))
		ipText(t, "link", "add", "small0", "mtu", "1300", "type", "veth", "peer", "name", "small1")
		ipText(t, "link", "set", "small0", "master", br.Name)
		seen, err := h.Observe(t.Context(), br.Key())
		if err != nil || seen[br.Key()] != br {
			t.Errorf("want %+v, see %+v, %v", br, seen, err)
		}
		ipText(t, "link", "delete", "small0")
		apply(t, h, remove(br))
	}
}

// TestAlternativeNames: the kernel answers to them too, but they are no keys.
func TestAlternativeNames(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip")
	br := aBridge("br-alt")
	apply(t, h, create(br))
	defer apply(t, h, remove(br))
	ipText(t, "link", "property", "add", "dev", br.Name, "altname", "virbr7")
	seen, err := h.Observe(t.Context(), host.LinkKey("virbr7"))
	if err != nil || len(seen) != 0 {
		t.Errorf("see %v, %v", seen, err)
	}
	other := br
	other.Name = "virbr7"
	apply(t, h, remove(other))
	if !hasLink(br.Name) {
		t.Error("a bridge was deleted by its alternative name")
	}
	if err := h.Apply(t.Context(), create(other)); err == nil {
		t.Error("a bridge was made in place of another's alternative name")
	}
}

func TestRouteKeys(t *testing.T) {
	for _, r := range []host.Route{
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.168.99.1"), Link: "eth0", Table: 254, Metric: 100, Type: 1},
		{Dst: netip.MustParsePrefix("fd00::/64"), Link: "br.1", Table: 254, Metric: 256, Type: 1},
		{Dst: netip.MustParsePrefix("10.0.0.0/8"), Table: 100000, Type: 6},
		{Dst: netip.MustParsePrefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("fe80::1"), Link: "eth0", Table: 254, Type: 1},
	} {
		got, err := parseRouteKey(r.Key())
		if err != nil || got != r {
			t.Errorf("key %q is read as %+v, %v", r.Key().Name, got, err)
		}
	}
	for _, name := range []string{"", "x", "10.0.0.0/8 table", "10.0.0.0/8 table x", "10.0.0.0/8 colour red", "10.0.0.0/8 via x"} {
		if r, err := parseRouteKey(host.Key{Kind: host.KindRoute, Name: name}); err == nil && name != "10.0.0.0/8" {
			t.Errorf("key %q is read as %+v", name, r)
		}
	}
}

// TestIPv4RouteOverIPv6 is a next hop of the other family (RTA_VIA).
func TestIPv4RouteOverIPv6(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip")
	br := aBridge("br-via")
	apply(t, h, create(br, host.Address{Link: br.Name, Addr: netip.MustParsePrefix("fd00:9::1/64"), NoDAD: true}))
	defer apply(t, h, remove(br))
	want := host.Route{Dst: netip.MustParsePrefix("203.0.113.0/24"), Gateway: netip.MustParseAddr("fd00:9::2"), Link: br.Name, Table: 254, Protocol: 4, Type: 1}
	apply(t, h, create(want))
	seen, err := h.Observe(t.Context(), want.Key())
	if err != nil || seen[want.Key()] != want {
		t.Errorf("want %+v, see %+v, %v", want, seen, err)
	}
	text := ipText(t, "route", "show", "203.0.113.0/24")
	if text != "203.0.113.0/24 via inet6 fd00:9::2 dev br-via proto static \n" && text != "203.0.113.0/24 via inet6 fd00:9::2 dev br-via proto static linkdown \n" {
		t.Errorf("ip says %q", text)
	}
	apply(t, h, remove(want))
}

// TestListWhileChanging dumps while addresses come and go: an interrupted dump
// is begun again, never taken for the truth.
func TestListWhileChanging(t *testing.T) {
	h, other := newHost(t), newHost(t)
	br := aBridge("br-busy")
	stays := host.Address{Link: br.Name, Addr: netip.MustParsePrefix("10.9.9.9/32")}
	apply(t, h, create(br))
	defer apply(t, h, remove(br))
	var many []host.Resource
	for i := range 200 {
		many = append(many, host.Address{Link: br.Name, Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 8, byte(i), 1}), 32)})
	}
	apply(t, h, create(append(many, stays)...))
	done := make(chan error)
	stop := make(chan struct{})
	go func() {
		var err error
		for i := 0; err == nil; i = (i + 1) % len(many) {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err = other.Apply(context.Background(), remove(many[i])); err == nil {
				err = other.Apply(context.Background(), create(many[i]))
			}
		}
		done <- err
	}()
	for range 200 {
		seen, err := h.Observe(t.Context(), stays.Key())
		if err != nil {
			if !errors.Is(err, errInterrupted) {
				t.Error(err)
			}
			continue
		}
		if !host.Same(seen[stays.Key()], stays) {
			t.Fatal("an address that stayed was not seen")
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func BenchmarkBridge(b *testing.B) {
	h := newHost(b)
	br := aBridge("br-bench")
	for b.Loop() {
		apply(b, h, create(br))
		apply(b, h, remove(br))
	}
}

func BenchmarkBridgeCreate(b *testing.B) {
	h := newHost(b)
	br := aBridge("br-bench")
	for b.Loop() {
		apply(b, h, create(br))
		b.StopTimer()
		apply(b, h, remove(br))
		b.StartTimer()
	}
}

// BenchmarkPlug plugs one tap in and out, with a thousand others on the host.
func BenchmarkPlug(b *testing.B) {
	h, taps := thousandTaps(b)
	in := aTap(2000, "br-bench")
	out := host.Link{Name: in.Name, Type: in.Type, MAC: in.MAC, MTU: in.MTU}
	apply(b, h, create(out))
	for b.Loop() {
		apply(b, h, []plan.Step{{Before: out, After: in}})
		b.StopTimer()
		apply(b, h, []plan.Step{{Before: in, After: out}})
		b.StartTimer()
	}
	apply(b, h, remove(append(taps, in, aBridge("br-bench"))...))
}

// BenchmarkObserve looks at one port among a thousand.
func BenchmarkObserve(b *testing.B) {
	h, taps := thousandTaps(b)
	for b.Loop() {
		if seen, err := h.Observe(context.Background(), taps[500].Key()); err != nil || len(seen) != 1 {
			b.Fatal(seen, err)
		}
	}
	apply(b, h, remove(append(taps, aBridge("br-bench"))...))
}

func BenchmarkObserveAll(b *testing.B) {
	h, taps := thousandTaps(b)
	for b.Loop() {
		if seen, err := h.Observe(context.Background()); err != nil || len(seen) < len(taps) {
			b.Fatal(len(seen), err)
		}
	}
	apply(b, h, remove(append(taps, aBridge("br-bench"))...))
}

func BenchmarkThousandTaps(b *testing.B) {
	for b.Loop() {
		h, taps := thousandTaps(b)
		apply(b, h, remove(append(taps, aBridge("br-bench"))...))
	}
}

func thousandTaps(b *testing.B) (*Host, []host.Resource) {
	h := newHost(b)
	nettest.Need(b, nettest.Tun)
	apply(b, h, create(aBridge("br-bench")))
	var taps []host.Resource
	for i := range 1000 {
		taps = append(taps, aTap(i, "br-bench"))
	}
	apply(b, h, create(taps...))
	return h, taps
}
