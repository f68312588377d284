package linux

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
)

// wait reads events until one is as wanted.
func wait(t *testing.T, events <-chan Event, what string, is func(Event) bool) Event {
	t.Helper()
	timeout := time.After(limit)
	var seen []Event
	for {
		select {
		case e, open := <-events:
			if !open {
				t.Fatalf("waiting for %s, the channel was closed after %v", what, seen)
			}
			if is(e) {
				return e
			}
			seen = append(seen, e)
		case <-timeout:
			t.Fatalf("%s was not told; the last of %d events: %v", what, len(seen), seen[max(0, len(seen)-20):])
		}
	}
}

func about(kind EventKind, link string) func(Event) bool {
	return func(e Event) bool { return e.Kind == kind && e.Link == link }
}

func TestWatchTellsWhatOthersDo(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip", "nft")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	br := aBridge("wbr0")
	apply(t, h, create(br))
	events, err := h.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ipText(t, "link", "set", br.Name, "alias", "mine now")
	wait(t, events, "a changed link", about(LinkChanged, br.Name))
	ipText(t, "addr", "add", "192.168.50.1/24", "dev", br.Name)
	wait(t, events, "a new address", about(AddressChanged, br.Name))
	ipText(t, "route", "add", "203.0.113.0/24", "via", "192.168.50.9")
	wait(t, events, "a new route", about(RouteChanged, br.Name))
	if out, err := exec.Command("nft", "add", "table", "inet", "somebody").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() { _ = exec.Command("nft", "delete", "table", "inet", "somebody").Run() }()
	e := wait(t, events, "a new table", func(e Event) bool { return e.Kind == RulesChanged })
	if !strings.HasPrefix(e.Who, "nft (pid ") {
		t.Errorf("nft changed the rules, and %q is said to", e.Who)
	}
	ipText(t, "link", "delete", br.Name)
	wait(t, events, "a deleted link", about(LinkChanged, br.Name))
	cancel()
	for range events { // closed in the end
	}
}

// TestWatchNamesWho has ip wait for more, so that it still runs when it is named.
func TestWatchNamesWho(t *testing.T) {
	h := newHost(t)
	nettest.Need(t, "ip")
	events, err := h.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	br := aBridge("wbr1")
	br.Up = false // no link-local address of the kernel's
	apply(t, h, create(br))
	defer apply(t, h, remove(br))
	ip := exec.Command("ip", "-batch", "-")
	in, err := ip.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ip.Start(); err != nil {
		t.Fatal(err)
	}
	who := fmt.Sprintf("ip (pid %d)", ip.Process.Pid)
	for kind, line := range map[EventKind]string{
		AddressChanged: "addr add 192.168.62.1/24 dev wbr1",
		LinkChanged:    "link set wbr1 mtu 1400",
	} {
		fmt.Fprintln(in, line)
		e := wait(t, events, line, about(kind, br.Name))
		if e.Who != who && (kind == AddressChanged || e.Who != "") {
			t.Errorf("%s was done by %q, not %q", line, e.Who, who)
		}
	}
	in.Close()
	if err := ip.Wait(); err != nil {
		t.Error(err)
	}
}

func TestWatchLeavesOutOurOwn(t *testing.T) {
	h := newHost(t)
	events, err := h.Watch(t.Context(), AddressChanged)
	if err != nil {
		t.Fatal(err)
	}
	br, last := aBridge("wbr2"), aBridge("wbr3")
	br.Up, last.Up = false, false // no link-local address of the kernel's
	apply(t, h, create(br, last))
	defer apply(t, h, remove(br, last))
	apply(t, h, create(host.Address{Link: br.Name, Addr: netip.MustParsePrefix("192.168.70.1/24")}))
	ipText(t, "addr", "add", "192.168.71.1/24", "dev", last.Name)
	if e := wait(t, events, "an address", func(Event) bool { return true }); e.Link != last.Name {
		t.Errorf("our own change was told: %+v", e)
	}
}

// TestWatchSurvivesAFlood overflows a subscription that is not read: the loss is
// told, and so is what comes after it.
func TestWatchSurvivesAFlood(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &watch{host: h, kinds: []EventKind{LinkChanged}, wake: make(chan struct{}, 1), out: make(chan Event)}
	if err := w.dial(); err != nil {
		t.Fatal(err)
	}
	if err := w.conn.SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	other := newHost(t)
	var flood []host.Resource
	for i := range 50 {
		flood = append(flood, host.Link{Name: fmt.Sprintf("flood%d", i), Type: host.TypeBridge, MTU: 1500})
	}
	apply(t, other, create(flood...))
	go w.read(ctx)
	go w.deliver(ctx)
	wait(t, w.out, "the loss", func(e Event) bool { return e.Kind == Lost })
	apply(t, other, create(aBridge("wbr4")))
	wait(t, w.out, "what came after the flood", about(LinkChanged, "wbr4"))
	cancel()
	for range w.out { // closed in the end
	}
	apply(t, other, remove(append(flood, aBridge("wbr4"))...))
}

// TestWatchOutlivesItsSocket breaks the subscription.
func TestWatchOutlivesItsSocket(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &watch{host: h, kinds: []EventKind{LinkChanged}, wake: make(chan struct{}, 1), out: make(chan Event)}
	if err := w.dial(); err != nil {
		t.Fatal(err)
	}
	w.conn.Close()
	go w.read(ctx)
	go w.deliver(ctx)
	wait(t, w.out, "the loss", func(e Event) bool { return e.Kind == Lost })
	br := aBridge("wbr5")
	other := newHost(t)
	apply(t, other, create(br))
	defer apply(t, other, remove(br))
	wait(t, w.out, "what came after", about(LinkChanged, br.Name))
}

// TestWatchKeepsLittleForASlowReceiver queues more than it is to keep.
func TestWatchKeepsLittleForASlowReceiver(t *testing.T) {
	w := &watch{wake: make(chan struct{}, 1)}
	for i := range 3 * maxPending {
		w.put(Event{Kind: LinkChanged, Link: fmt.Sprint(i)})
		w.put(Event{Kind: LinkChanged, Link: fmt.Sprint(i)})
	}
	events := w.take()
	if len(events) > maxPending {
		t.Errorf("%d events are kept", len(events))
	}
	if events[0].Kind != Lost {
		t.Errorf("what was dropped is not told: %+v", events[0])
	}
	if last := events[len(events)-1]; last.Link != fmt.Sprint(3*maxPending-1) {
		t.Errorf("the last event is %+v", last)
	}
	w.put(Event{Kind: Lost})
	w.put(Event{Kind: Lost})
	if events = w.take(); len(events) != 1 {
		t.Errorf("two equal events are %d", len(events))
	}
}

func TestNeighbours(t *testing.T) {
	h := newHost(t)
	n := newNetwork(t, h)
	events, err := h.Watch(t.Context(), NeighbourChanged)
	if err != nil {
		t.Fatal(err)
	}
	udp, _, err := OpenDNS("virbr0", n.v6)
	if err != nil {
		t.Fatal(err)
	}
	c := packetConn(t, udp)
	say(t, n.guest, netip.AddrPortFrom(n.v6, portDNS), "hello")
	b := make([]byte, 64)
	_, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteToUDPAddrPort(b[:1], from); err != nil { // now the host asks for the guest
		t.Fatal(err)
	}
	wait(t, events, "a neighbour", about(NeighbourChanged, "virbr0"))
	out, err := n.guest.Run(t.Context(), "cat", "/sys/class/net/eth0/address")
	if err != nil {
		t.Fatal(err)
	}
	mac, err := net.ParseMAC(strings.TrimSpace(out))
	if err != nil {
		t.Fatal(err)
	}
	want := Neighbour{Link: "virbr0", MAC: mac.String(), Addr: netip.MustParseAddr("fd00:122::50"), Reachable: true}
	for _, link := range []string{"virbr0", ""} {
		list, err := h.Neighbours(t.Context(), link)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, n := range list {
			n.Reachable = true // may be stale by the clock of a slow machine
			found = found || n == want
		}
		if !found {
			t.Errorf("on %q: %+v is not among %+v", link, want, list)
		}
	}
	if _, err := h.Neighbours(t.Context(), "no-such-link"); err == nil {
		t.Error("neighbours of a missing link")
	}
}
