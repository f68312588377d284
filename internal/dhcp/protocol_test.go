package dhcp

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"drawbridge/internal/host"
)

func TestNewClientIsProbedOfferedAndBound(t *testing.T) {
	inWorld(t, func(w *world) {
		w.silent(w.exchange(message(1, dhcpv4.MessageTypeDiscover), probeWait-time.Millisecond))
		w.settle()
		w.pass(time.Millisecond)
		w.settle()
		var r Reply
		select {
		case r = <-w.conn.out:
		default:
			t.Fatal("no offer after the probe")
		}
		m, _ := w.want(dhcpv4.MessageTypeOffer, []Reply{r})
		asked := <-w.conn.ask
		if asked.String() != m.YourIPAddr.String() {
			t.Errorf("probed %s, offered %s", asked, m.YourIPAddr)
		}
		if r.Dst != asked || r.MAC != [6]byte(macOf(1)) || r.Relay || r.Src != thePool.Server.Addr() {
			t.Errorf("the offer goes %+v, want a frame to the client and address", r)
		}
		if got := w.leases.List(); len(got) != 0 {
			t.Errorf("an offer is stored: %v", got)
		}
		ack, _ := w.want(dhcpv4.MessageTypeAck, w.exchange(message(1, dhcpv4.MessageTypeRequest,
			requested(asked.String()), serverID("192.168.122.1"), text(12, "Guest_One.example")), 0))
		now := time.Now().Unix()
		want := []Lease{{Network: "default", Addr: asked, MAC: macText(1), Hostname: "guest-one", Expires: now + 3600, State: Bound}}
		if d := cmp.Diff(want, w.leases.List(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("leases (-want +got):\n%s", d)
		}
		wantOptions := map[uint8][]byte{
			1: {255, 255, 255, 0}, 3: {192, 168, 122, 1}, 6: {192, 168, 122, 1}, 15: []byte("default.test"),
			26: {1500 >> 8, 1500 & 255}, 28: {192, 168, 122, 255}, 51: {0, 0, 3600 >> 8, 3600 & 255}, 53: {5},
			54: {192, 168, 122, 1}, 58: {0, 0, 1800 >> 8, 1800 & 255}, 59: {0, 0, 3150 >> 8, 3150 & 255},
		}
		if d := cmp.Diff(wantOptions, map[uint8][]byte(ack.Options)); d != "" {
			t.Errorf("options (-want +got):\n%s", d)
		}
		if s := w.stats(); s.Discover != 1 || s.Offer != 1 || s.Request != 1 || s.Ack != 1 || s.Probes != 1 || s.PoolUsed != 1 || s.PoolSize != 10 {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestRequest is RFC 2131, section 4.3.2, a row for each state. Client 1 has
// the lease of *own* before each row.
func TestRequest(t *testing.T) {
	const us, own = "192.168.122.1", "own"
	const free, reservedOther = "192.168.122.18", "192.168.122.19"
	rows := []struct {
		name  string
		mac   byte
		edits []edit
		addr  string // given with requested(), unless ciaddr is set
		ci    string
		want  dhcpv4.MessageType // 0: silence
		probe bool
	}{
		{name: "selecting: the same again", mac: 1, edits: []edit{serverID(us)}, addr: own, want: dhcpv4.MessageTypeAck},
		{name: "selecting: another server", mac: 1, edits: []edit{serverID("192.168.122.9")}, addr: own},
		{name: "selecting: not what was offered", mac: 1, edits: []edit{serverID(us)}, addr: free, want: dhcpv4.MessageTypeNak},
		{name: "selecting: offered before our restart", mac: 2, edits: []edit{serverID(us)}, addr: free, want: dhcpv4.MessageTypeAck},
		{name: "selecting: somebody else's", mac: 2, edits: []edit{serverID(us)}, addr: own, want: dhcpv4.MessageTypeNak},
		{name: "selecting: nothing asked for", mac: 1, edits: []edit{serverID(us)}},
		{name: "init-reboot: its own", mac: 1, addr: own, want: dhcpv4.MessageTypeAck},
		{name: "init-reboot: not its own", mac: 1, addr: free, want: dhcpv4.MessageTypeNak},
		{name: "init-reboot: wrong network", mac: 1, addr: "10.0.0.7", want: dhcpv4.MessageTypeNak},
		{name: "init-reboot: wrong network, unknown client", mac: 2, addr: "10.0.0.7", want: dhcpv4.MessageTypeNak},
		{name: "init-reboot: free, unknown client", mac: 2, addr: free, want: dhcpv4.MessageTypeAck, probe: true},
		{name: "init-reboot: somebody else's", mac: 2, addr: own, want: dhcpv4.MessageTypeNak},
		{name: "init-reboot: reserved for somebody else", mac: 2, addr: reservedOther, want: dhcpv4.MessageTypeNak},
		{name: "init-reboot: outside the range", mac: 2, addr: "192.168.122.99", want: dhcpv4.MessageTypeNak},
		{name: "init-reboot: the server's", mac: 2, addr: us, want: dhcpv4.MessageTypeNak},
		{name: "init-reboot: broadcast", mac: 2, addr: "192.168.122.255", want: dhcpv4.MessageTypeNak},
		{name: "renewing: its own", mac: 1, ci: own, want: dhcpv4.MessageTypeAck},
		{name: "renewing: its own, with our identifier", mac: 1, ci: own, edits: []edit{serverID(us)}, want: dhcpv4.MessageTypeAck},
		{name: "renewing: another client's", mac: 2, ci: own, want: dhcpv4.MessageTypeNak},
		{name: "renewing: free, lease file was lost", mac: 2, ci: free, want: dhcpv4.MessageTypeAck, probe: true},
		{name: "renewing: wrong network", mac: 1, ci: "10.0.0.7", want: dhcpv4.MessageTypeNak},
		{name: "no address at all", mac: 1},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.apply(nil, host.Reservation{Bridge: "virbr0", MAC: macText(9), Addr: netip.MustParseAddr(reservedOther)})
				has := w.lease(1)
				<-w.conn.ask
				if has == free {
					t.Fatalf("client 1 has %s, which the table takes to be free", free)
				}
				subst := func(a string) string {
					if a == own {
						return has
					}
					return a
				}
				edits := row.edits
				if row.addr != "" {
					edits = append(edits, requested(subst(row.addr)))
				}
				if row.ci != "" {
					edits = append(edits, ciaddr(subst(row.ci)))
				}
				at := time.Now().Unix()
				replies := w.exchange(message(row.mac, dhcpv4.MessageTypeRequest, edits...), probeWait)
				if row.want == dhcpv4.MessageTypeNone {
					w.silent(replies)
					return
				}
				m, r := w.want(row.want, replies)
				if got := len(w.conn.ask) == 1; got != row.probe {
					t.Errorf("probed: %v, want %v", got, row.probe)
				}
				if row.want == dhcpv4.MessageTypeNak {
					if m.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || !m.YourIPAddr.IsUnspecified() || r.Dst.String() != "255.255.255.255" || r.MAC != [6]byte(macOf(row.mac)) {
						t.Errorf("NAK %+v %s", r, m.Summary())
					}
					return
				}
				expires := int64(0)
				for _, l := range w.leases.List() {
					if l.MAC == macText(row.mac) && l.Addr.String() == m.YourIPAddr.String() {
						expires = l.Expires
					}
				}
				if expires < at+3600 {
					t.Errorf("lease expires at %d, asked at %d", expires, at)
				}
			})
		})
	}
}

func TestWayOfReplies(t *testing.T) {
	inWorld(t, func(w *world) {
		addr := w.lease(1)
		_, r := w.want(dhcpv4.MessageTypeAck, w.exchange(message(1, dhcpv4.MessageTypeRequest, ciaddr(addr), broadcastFlag), 0))
		if r.Dst.String() != addr || r.MAC != [6]byte(macOf(1)) {
			t.Errorf("renewal is answered %+v, want unicast", r)
		}
		_, r = w.want(dhcpv4.MessageTypeOffer, w.exchange(message(1, dhcpv4.MessageTypeDiscover, broadcastFlag), 0))
		if r.Dst.String() != "255.255.255.255" || r.MAC != broadcastMAC {
			t.Errorf("client with the broadcast flag is answered %+v", r)
		}
		_, r = w.want(dhcpv4.MessageTypeNak, w.exchange(message(1, dhcpv4.MessageTypeRequest, requested("10.0.0.1"), broadcastFlag), 0))
		if r.MAC != broadcastMAC {
			t.Errorf("NAK with the broadcast flag goes to %x", r.MAC)
		}
		m, r := w.want(dhcpv4.MessageTypeOffer, w.exchange(message(1, dhcpv4.MessageTypeDiscover, giaddr("192.168.122.3"), text(82, "\x01\x04port"), text(61, "\x00id")), probeWait))
		if !r.Relay || r.Dst.String() != "192.168.122.3" || string(m.Options[82]) != "\x01\x04port" || string(m.Options[61]) != "\x00id" || m.GatewayIPAddr.String() != "192.168.122.3" {
			t.Errorf("relayed: %+v %s", r, m.Summary())
		}
		m, r = w.want(dhcpv4.MessageTypeNak, w.exchange(message(1, dhcpv4.MessageTypeRequest, requested("10.0.0.1"), giaddr("192.168.122.3")), 0))
		if !r.Relay || !m.IsBroadcast() {
			t.Errorf("relayed NAK: %+v broadcast %v, want the flag set", r, m.IsBroadcast())
		}
		for _, bad := range []string{"10.0.0.3", "192.168.122.1", "192.168.122.255"} {
			w.silent(w.exchange(message(1, dhcpv4.MessageTypeDiscover, giaddr(bad)), probeWait))
		}
		if got := w.stats().Dropped[dropRelay]; got != 3 {
			t.Errorf("dropped %d messages of strange relays, want 3", got)
		}
	})
}

func TestRequestedOptionsAreHonoured(t *testing.T) {
	inWorld(t, func(w *world) {
		w.apply(nil, host.Guest{Bridge: "virbr0", MAC: macText(1), Name: "ubuntu-cloud"})
		m, _ := w.want(dhcpv4.MessageTypeOffer, w.exchange(message(1, dhcpv4.MessageTypeDiscover, option(55, 1, 12), option(51, 0, 0, 2, 0)), probeWait))
		for code, there := range map[uint8]bool{1: true, 3: false, 6: false, 12: true, 15: false, 26: false, 28: false, 51: true} {
			if _, ok := m.Options[code]; ok != there {
				t.Errorf("option %d sent: %v, want %v", code, ok, there)
			}
		}
		if string(m.Options[12]) != "ubuntu-cloud" || m.IPAddressLeaseTime(0) != 512*time.Second {
			t.Errorf("name %q, lease %s, want ubuntu-cloud, 8m32s", m.Options[12], m.IPAddressLeaseTime(0))
		}
		small := thePool
		small.MTU = 1400
		w.apply(thePool, small)
		m, _ = w.want(dhcpv4.MessageTypeOffer, w.exchange(message(1, dhcpv4.MessageTypeDiscover, option(55, 1)), probeWait))
		if !bytes.Equal(m.Options[26], []byte{1400 >> 8, 1400 & 255}) {
			t.Errorf("MTU option %v, want 1400 unasked", m.Options[26])
		}
	})
}

func TestReleaseDeclineInform(t *testing.T) {
	inWorld(t, func(w *world) {
		addr := w.lease(1)
		w.silent(w.exchange(message(2, dhcpv4.MessageTypeRelease, ciaddr(addr), serverID("192.168.122.1")), 0))
		if l := w.leases.List()[0]; l.State != Bound {
			t.Fatalf("somebody else released the lease: %+v", l)
		}
		w.silent(w.exchange(message(1, dhcpv4.MessageTypeRelease, ciaddr(addr), serverID("192.168.122.1")), 0))
		if l := w.leases.List()[0]; l.State != Released || l.Live(time.Now()) {
			t.Fatalf("released lease: %+v", l)
		}
		if again := w.lease(1); again != addr {
			t.Errorf("after its release the client gets %s, had %s", again, addr)
		}

		w.silent(w.exchange(message(1, dhcpv4.MessageTypeDecline, requested(addr), serverID("192.168.122.1")), 0))
		if l := w.leases.List()[0]; l.State != Declined || l.MAC != "" {
			t.Fatalf("declined lease: %+v", l)
		}
		other := w.lease(1)
		if other == addr {
			t.Errorf("the client is given %s again, which it declined", addr)
		}
		w.silent(w.exchange(message(2, dhcpv4.MessageTypeDecline, requested(other), serverID("192.168.122.1")), 0))
		if s := w.stats(); s.Conflicts != 1 || s.Dropped[dropState] != 2 {
			t.Errorf("stats %+v, want 1 conflict, 2 dropped for their state", s)
		}

		m, r := w.want(dhcpv4.MessageTypeAck, w.exchange(message(5, dhcpv4.MessageTypeInform, ciaddr("192.168.122.77")), 0))
		if m.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || !m.YourIPAddr.IsUnspecified() || r.Dst.String() != "192.168.122.77" {
			t.Errorf("answer to INFORM: %+v %s", r, m.Summary())
		}
		w.silent(w.exchange(message(5, dhcpv4.MessageTypeInform, ciaddr("10.0.0.1")), 0))
	})
}

func TestConflictFoundByProbe(t *testing.T) {
	inWorld(t, func(w *world) {
		w.conn.in <- message(1, dhcpv4.MessageTypeDiscover)
		w.settle()
		first := <-w.conn.ask
		w.conn.arp <- ARPReply{Addr: first, MAC: [6]byte{2, 2, 2, 2, 2, 2}}
		w.settle()
		second := <-w.conn.ask
		// The client's own answer is no conflict, and ends the waiting.
		w.conn.arp <- ARPReply{Addr: second, MAC: [6]byte(macOf(1))}
		w.settle()
		m, _ := w.want(dhcpv4.MessageTypeOffer, []Reply{<-w.conn.out})
		if m.YourIPAddr.String() != second.String() || first == second {
			t.Errorf("offered %s after probing %s (in use) and %s", m.YourIPAddr, first, second)
		}
		if l := w.leases.List(); len(l) != 1 || l[0].Addr != first || l[0].State != Declined {
			t.Errorf("set aside: %v", l)
		}
		w.pass((asideSeconds + offerSeconds + 1) * time.Second)
		seen := map[string]bool{}
		for mac := byte(10); mac < 20; mac++ {
			seen[w.lease(mac)] = true
		}
		if !seen[first.String()] || len(seen) != 10 {
			t.Errorf("%s was not given away after its time, got %v", first, seen)
		}
	})
}

func TestProbesDoNotBlockOthersAndAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		big := thePool
		big.Server, big.First, big.Last = netip.MustParsePrefix("10.1.0.1/16"), netip.MustParseAddr("10.1.1.0"), netip.MustParseAddr("10.1.255.254")
		w.apply(thePool, big)
		for mac := range byte(200) {
			w.conn.in <- message(mac, dhcpv4.MessageTypeDiscover)
		}
		w.settle()
		if got := len(w.conn.out); got != 200-probeBurst {
			t.Errorf("%d offers at once, want %d", got, 200-probeBurst)
		}
		// A client that asks again while its address is probed gets one offer.
		w.conn.in <- message(0, dhcpv4.MessageTypeDiscover)
		w.pass(probeWait)
		w.settle()
		if got := len(w.conn.out); got != 200 {
			t.Errorf("%d offers after the probes, want 200", got)
		}
		if s := w.stats(); s.Probes != probeBurst || s.Unprobed != 200-probeBurst {
			t.Errorf("%d probes, %d without; want %d, %d", s.Probes, s.Unprobed, probeBurst, 200-probeBurst)
		}
	})
}

func TestSameClientKeepsItsAddress(t *testing.T) {
	inWorld(t, func(w *world) {
		addr := w.lease(1)
		w.pass(90 * 24 * time.Hour)
		if again := w.lease(1); again != addr {
			t.Errorf("long after its lease ended the client gets %s, had %s", again, addr)
		}
		w.restart(thePool)
		if again := w.lease(1); again != addr {
			t.Errorf("after a restart the client gets %s, had %s", again, addr)
		}
		if len(w.conn.ask) != 0 {
			t.Error("a known client's address was probed")
		}
		// Clones share the client id (made of /etc/machine-id) but not the MAC.
		one, two := w.lease(3, text(61, "\xffsame")), w.lease(4, text(61, "\xffsame"))
		if one == two {
			t.Errorf("two clients with one client id both have %s", one)
		}
		// Firmware and system differ in the id; the address comes along once free.
		w.exchange(message(3, dhcpv4.MessageTypeRelease, ciaddr(one), text(61, "\xffsame")), 0)
		if again := w.lease(3, text(61, "\x00other")); again != one {
			t.Errorf("MAC with a new client id gets %s, had %s", again, one)
		}
	})
}

func TestReservations(t *testing.T) {
	inWorld(t, func(w *world) {
		inside := host.Reservation{Bridge: "virbr0", MAC: macText(1), Addr: netip.MustParseAddr("192.168.122.12"), Hostname: "web"}
		outside := host.Reservation{Bridge: "virbr0", MAC: macText(2), Addr: netip.MustParseAddr("192.168.122.200")}
		w.apply(nil, inside)
		w.apply(nil, outside)
		if a := w.lease(1); a != "192.168.122.12" {
			t.Errorf("reserved inside the range: got %s", a)
		}
		if a := w.lease(2, text(61, "\x00firmware")); a != "192.168.122.200" {
			t.Errorf("reserved outside the range: got %s", a)
		}
		if a := w.lease(2, text(61, "\x00system")); a != "192.168.122.200" {
			t.Errorf("reserved, another client id of the same MAC: got %s", a)
		}
		for mac := byte(10); mac < 19; mac++ {
			if a := w.lease(mac); a == "192.168.122.12" {
				t.Errorf("client %d was given the reserved address", mac)
			}
		}
		w.silent(w.exchange(message(30, dhcpv4.MessageTypeDiscover), time.Second)) // full: 10 minus the reserved one

		// An address in use is reserved for somebody else: its holder has to go first.
		holder := w.leases.List()[1] // by address: .10, .11; neither is reserved
		mac, _ := parseMAC(holder.MAC)
		stolen := host.Reservation{Bridge: "virbr0", MAC: macText(40), Addr: holder.Addr}
		w.apply(nil, stolen)
		w.silent(w.exchange(message(40, dhcpv4.MessageTypeDiscover), time.Second))
		w.want(dhcpv4.MessageTypeNak, w.exchange(message(mac[5], dhcpv4.MessageTypeRequest, ciaddr(holder.Addr.String())), 0))
		if a := w.lease(40); a != holder.Addr.String() {
			t.Errorf("the new owner gets %s, want %s", a, holder.Addr)
		}
		// The reservation changes while its owner has a lease: it is moved.
		moved := stolen
		moved.Addr = netip.MustParseAddr("192.168.122.201")
		w.apply(stolen, moved)
		w.want(dhcpv4.MessageTypeNak, w.exchange(message(40, dhcpv4.MessageTypeRequest, ciaddr(holder.Addr.String())), 0))
		if a := w.lease(40); a != "192.168.122.201" {
			t.Errorf("after the change: got %s", a)
		}
		// Without it, the address is like any other outside the range.
		w.apply(moved, nil)
		w.want(dhcpv4.MessageTypeNak, w.exchange(message(40, dhcpv4.MessageTypeRequest, ciaddr("192.168.122.201")), 0))
		if a := w.lease(40); a != holder.Addr.String() {
			t.Errorf("after its end: got %s, want the free %s", a, holder.Addr)
		}
	})
}

func TestFullPoolReusesTheLongestOver(t *testing.T) {
	inWorld(t, func(w *world) {
		var first string
		for mac := byte(1); mac <= 10; mac++ {
			a := w.lease(mac)
			if mac == 1 {
				first = a
			}
			w.pass(10 * time.Second)
		}
		w.silent(w.exchange(message(99, dhcpv4.MessageTypeDiscover), time.Second))
		if s := w.stats(); s.Dropped[dropFull] != 1 || s.PoolUsed != 10 {
			t.Errorf("stats %+v", s)
		}
		w.pass(3600 * time.Second)
		if a := w.lease(99); a != first {
			t.Errorf("new client gets %s, want %s, whose lease ended first", a, first)
		}
		if a := w.lease(5); a == first {
			t.Error("two clients have one address")
		}
	})
}

func TestAnOfferedAddressIsNotOfferedToAnother(t *testing.T) {
	inWorld(t, func(w *world) {
		m, _ := w.want(dhcpv4.MessageTypeOffer, w.exchange(message(1, dhcpv4.MessageTypeDiscover), probeWait))
		addr := m.YourIPAddr.String()
		m, _ = w.want(dhcpv4.MessageTypeOffer, w.exchange(message(2, dhcpv4.MessageTypeDiscover, requested(addr)), probeWait))
		if m.YourIPAddr.String() == addr {
			t.Errorf("%s is offered to two clients", addr)
		}
		w.want(dhcpv4.MessageTypeNak, w.exchange(message(3, dhcpv4.MessageTypeRequest, requested(addr), serverID("192.168.122.1")), 0))
	})
}

func TestOffersLapse(t *testing.T) {
	inWorld(t, func(w *world) {
		for mac := byte(1); mac <= 10; mac++ {
			w.want(dhcpv4.MessageTypeOffer, w.exchange(message(mac, dhcpv4.MessageTypeDiscover), probeWait))
		}
		w.pass((offerSeconds + 1) * time.Second)
		if s := w.stats(); s.PoolUsed != 0 {
			t.Errorf("%d addresses still offered", s.PoolUsed)
		}
		for mac := byte(20); mac < 30; mac++ {
			w.lease(mac)
		}
		if got := len(w.leases.List()); got != 10 {
			t.Errorf("%d leases, want 10", got)
		}
	})
}

func TestRapidCommit(t *testing.T) {
	inWorld(t, func(w *world) {
		m, _ := w.want(dhcpv4.MessageTypeAck, w.exchange(message(1, dhcpv4.MessageTypeDiscover, option(80)), probeWait))
		if _, ok := m.Options[80]; !ok || len(w.leases.List()) != 1 {
			t.Errorf("rapid commit: %s, leases %v", m.Summary(), w.leases.List())
		}
	})
}

func TestPoolChanges(t *testing.T) {
	inWorld(t, func(w *world) {
		addr := w.lease(1)
		longer := thePool
		longer.LeaseSeconds, longer.Last = 7200, netip.MustParseAddr("192.168.122.50")
		w.apply(thePool, longer)
		m, _ := w.want(dhcpv4.MessageTypeAck, w.exchange(message(1, dhcpv4.MessageTypeRequest, ciaddr(addr)), 0))
		if m.IPAddressLeaseTime(0) != 2*time.Hour {
			t.Errorf("lease time %s after the change", m.IPAddressLeaseTime(0))
		}
		moved := thePool
		moved.Server, moved.First, moved.Last = netip.MustParsePrefix("10.9.0.1/24"), netip.MustParseAddr("10.9.0.10"), netip.MustParseAddr("10.9.0.20")
		w.apply(longer, moved)
		w.want(dhcpv4.MessageTypeNak, w.exchange(message(1, dhcpv4.MessageTypeRequest, ciaddr(addr)), 0))
		w.want(dhcpv4.MessageTypeOffer, w.exchange(message(1, dhcpv4.MessageTypeDiscover), probeWait))

		w.apply(moved, longer)
		m, _ = w.want(dhcpv4.MessageTypeOffer, w.exchange(message(2, dhcpv4.MessageTypeDiscover, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(netip.MustParseAddr(addr).AsSlice()))), probeWait))
		if m.YourIPAddr.String() == addr {
			t.Errorf("the old subnet is back, and another client is offered %s, whose lease is not over", addr)
		}
		w.apply(longer, moved)

		w.apply(moved, nil)
		w.silent(w.exchange(message(1, dhcpv4.MessageTypeDiscover), probeWait))
		if got := w.server.Observe(); len(got) != 0 {
			t.Errorf("observed %v after the pool went", got)
		}
		if got := w.stats().Dropped[dropNoPool]; got != 1 {
			t.Errorf("%d messages without a pool, want 1", got)
		}
		w.apply(nil, thePool)
		if again := w.lease(1); again != addr {
			t.Errorf("back on the old subnet the client gets %s, had %s", again, addr)
		}
	})
}

func TestObserveShowsWhatWasApplied(t *testing.T) {
	inWorld(t, func(w *world) {
		want := host.NewState(thePool,
			host.Reservation{Bridge: "virbr0", MAC: macText(1), Addr: netip.MustParseAddr("192.168.122.12")},
			host.Reservation{Bridge: "virbr0", MAC: macText(2), Addr: netip.MustParseAddr("fd00::2")},
			host.Guest{Bridge: "virbr1", MAC: macText(1), Name: "a"})
		for range 2 { // steps are idempotent
			for _, k := range want.Keys() {
				w.apply(nil, want[k])
			}
		}
		got := w.server.Observe()
		for _, k := range want.Keys() {
			if got[k] != want[k] {
				t.Errorf("%s: observed %v, want %v", k, got[k], want[k])
			}
		}
		for _, k := range want.Keys() {
			w.apply(want[k], nil)
			w.apply(want[k], nil)
		}
		if got := w.server.Observe(); len(got) != 0 {
			t.Errorf("observed %v after all was taken out", got)
		}
	})
}

func TestMessagesThatGetNoAnswer(t *testing.T) {
	rows := []struct {
		name, reason string
		data         []byte
	}{
		{"empty", dropMalformed, nil},
		{"short", dropMalformed, make([]byte, 100)},
		{"no cookie", dropMalformed, make([]byte, 300)},
		{"a reply", dropNotRequest, message(1, dhcpv4.MessageTypeDiscover, func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply })},
		{"an offer as request", dropNotRequest, message(1, dhcpv4.MessageTypeOffer)},
		{"BOOTP", dropBOOTP, message(1, dhcpv4.MessageTypeDiscover, func(m *dhcpv4.DHCPv4) { delete(m.Options, 53) })},
		{"message type of two bytes", dropMalformed, message(1, dhcpv4.MessageTypeDiscover, option(53, 1, 1))},
		{"unknown message type", "unknown-type", message(1, 77)},
		{"token ring", dropHardware, message(1, dhcpv4.MessageTypeDiscover, func(m *dhcpv4.DHCPv4) { m.HWType = 6 })},
		{"multicast client", dropHardware, message(1, dhcpv4.MessageTypeDiscover, func(m *dhcpv4.DHCPv4) { m.ClientHWAddr[0] |= 1 })},
		{"client without address", dropHardware, message(1, dhcpv4.MessageTypeDiscover, func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = make([]byte, 6) })},
		{"requested address of three bytes", dropMalformed, message(1, dhcpv4.MessageTypeDiscover, option(50, 1, 2, 3))},
		{"huge client id", dropMalformed, message(1, dhcpv4.MessageTypeDiscover, option(61, make([]byte, 300)...))},
		{"bad overload", dropMalformed, message(1, dhcpv4.MessageTypeDiscover, option(52, 9))},
	}
	inWorld(t, func(w *world) {
		count := map[string]uint64{}
		for _, row := range rows {
			w.silent(w.exchange(row.data, 0))
			count[row.reason]++
			if got := w.stats().Dropped[row.reason]; got != count[row.reason] {
				t.Errorf("%s: counters %v, want %s to be %d", row.name, w.stats().Dropped, row.reason, count[row.reason])
			}
		}
	})
}

func TestOverloadedOptionsAreRead(t *testing.T) {
	b := message(1, dhcpv4.MessageTypeDiscover, option(52, 3))
	copy(b[108:], []byte{50, 4, 192, 168, 122, 15, 255})
	copy(b[44:], []byte{12, 3, 'w', 'e', 'b', 255})
	r, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if toAddr(r.requested).String() != "192.168.122.15" || r.hostname != "web" {
		t.Errorf("requested %s, hostname %q", toAddr(r.requested), r.hostname)
	}
}

func TestHostname(t *testing.T) {
	for said, want := range map[string]string{
		"": "", "web": "web", "Web.Example.ORG": "web", "a_b c": "a-b-c", "--x--": "x", "ünï": "n", "localhost": "",
		"WPAD": "", "wpad.example": "", "isatap": "", "-": "", "web\x00\x00": "web", ".": "", "123": "123",
		string(bytes.Repeat([]byte("a"), 80)): string(bytes.Repeat([]byte("a"), 63)),
	} {
		if got := Hostname(said); got != want {
			t.Errorf("Hostname(%q) = %q, want %q", said, got, want)
		}
	}
	if got := Hostname(fqdn([]byte("\x04\x00\x00\x03web\x07example\x00"))); got != "web" {
		t.Errorf("wire format FQDN: %q", got)
	}
	if got := Hostname(fqdn([]byte("\x00\x00\x00web.example"))); got != "web" {
		t.Errorf("plain FQDN: %q", got)
	}
}
