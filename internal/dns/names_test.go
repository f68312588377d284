package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"drawbridge/internal/host"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// say is one thing that the table is told.
type say func(*Names)

func port(bridge, mac, name string) say {
	return func(n *Names) {
		if name == "" {
			n.RemoveGuest(bridge, mac)
		} else {
			n.SetGuest(bridge, mac, name)
		}
	}
}

func reserve(bridge, mac, a, name string) say {
	return func(n *Names) {
		n.SetReservation(host.Reservation{Bridge: bridge, MAC: mac, Addr: addr(a), Hostname: name})
	}
}

func leaseTo(bridge, mac, a, name string) say {
	return func(n *Names) { n.SetLease(bridge, mac, addr(a), name) }
}

func unlease(bridge, mac, a string) say {
	return func(n *Names) { n.RemoveLease(bridge, mac, addr(a)) }
}

func neighbour(bridge, mac, a string) say {
	return func(n *Names) { n.SetNeighbour(bridge, mac, addr(a)) }
}

const (
	m1 = "52:54:00:00:00:01"
	m2 = "52:54:00:00:00:02"
	m3 = "52:54:00:00:00:03"
)

func TestNames(t *testing.T) {
	tests := []struct {
		name string
		says []say
		// want maps "bridge label" to addresses, ptr maps "bridge address" to a label.
		want map[string][]string
		ptr  map[string]string
	}{
		{
			name: "a lease names its client",
			says: []say{leaseTo("b", m1, "10.0.0.5", "Web.example.org")},
			want: map[string][]string{"b web": {"10.0.0.5"}, "b web.example.org": nil, "c web": nil},
			ptr:  map[string]string{"b 10.0.0.5": "web", "c 10.0.0.5": ""},
		},
		{
			name: "the port's name goes before what the client says",
			says: []say{leaseTo("b", m1, "10.0.0.5", "ubuntu"), port("b", m1, "db")},
			want: map[string][]string{"b db": {"10.0.0.5"}, "b ubuntu": nil},
			ptr:  map[string]string{"b 10.0.0.5": "db"},
		},
		{
			name: "the client's word counts again when the port's name is gone",
			says: []say{leaseTo("b", m1, "10.0.0.5", "ubuntu"), port("b", m1, "db"), port("b", m1, "")},
			want: map[string][]string{"b db": nil, "b ubuntu": {"10.0.0.5"}},
			ptr:  map[string]string{"b 10.0.0.5": "ubuntu"},
		},
		{
			name: "the operator's two names both stand, the port's in reverse",
			says: []say{reserve("b", m1, "10.0.0.9", "mail"), port("b", m1, "vm17"), leaseTo("b", m1, "10.0.0.9", "x")},
			want: map[string][]string{"b mail": {"10.0.0.9"}, "b vm17": {"10.0.0.9"}, "b x": nil},
			ptr:  map[string]string{"b 10.0.0.9": "vm17"},
		},
		{
			name: "among leases the first keeps the name",
			says: []say{leaseTo("b", m1, "10.0.0.5", "web"), leaseTo("b", m2, "10.0.0.6", "web"), leaseTo("b", m2, "10.0.0.6", "web")},
			want: map[string][]string{"b web": {"10.0.0.5"}},
			ptr:  map[string]string{"b 10.0.0.5": "web", "b 10.0.0.6": ""},
		},
		{
			name: "also across bridges, and the next has it when the first is gone",
			says: []say{leaseTo("b", m1, "10.0.0.5", "web"), leaseTo("c", m2, "10.1.0.6", "web"), unlease("b", m1, "10.0.0.5")},
			want: map[string][]string{"b web": nil, "c web": {"10.1.0.6"}},
			ptr:  map[string]string{"b 10.0.0.5": "", "c 10.1.0.6": "web"},
		},
		{
			name: "a client cannot take a reserved name, even if it was there first",
			says: []say{leaseTo("b", m1, "10.0.0.5", "web"), reserve("b", m2, "10.0.0.6", "web")},
			want: map[string][]string{"b web": {"10.0.0.6"}},
			ptr:  map[string]string{"b 10.0.0.5": "", "b 10.0.0.6": "web"},
		},
		{
			name: "a reservation cannot take a port's name on another NIC",
			says: []say{reserve("b", m2, "10.0.0.6", "web"), port("b", m1, "web"), leaseTo("b", m1, "10.0.0.5", "")},
			want: map[string][]string{"b web": {"10.0.0.5"}},
			ptr:  map[string]string{"b 10.0.0.5": "web", "b 10.0.0.6": ""},
		},
		{
			name: "a guest with three NICs",
			says: []say{
				port("b", m1, "web"), port("b", m2, "web"), port("c", m3, "web"),
				leaseTo("b", m1, "10.0.0.5", "web"), leaseTo("b", m2, "10.0.0.6", "web"), leaseTo("c", m3, "10.1.0.7", ""),
			},
			want: map[string][]string{"b web": {"10.0.0.5", "10.0.0.6"}, "c web": {"10.1.0.7"}},
			ptr:  map[string]string{"b 10.0.0.5": "web", "b 10.0.0.6": "web", "c 10.1.0.7": "web"},
		},
		{
			name: "nobody is called like the host, localhost or wpad",
			says: []say{
				leaseTo("b", m1, "10.0.0.5", "hosta"), leaseTo("b", m2, "10.0.0.6", "WPAD"),
				port("b", m3, "localhost"), leaseTo("b", m3, "10.0.0.7", "HostA.lan"),
			},
			want: map[string][]string{"b hosta": nil, "b wpad": nil, "b localhost": nil},
			ptr:  map[string]string{"b 10.0.0.5": "", "b 10.0.0.6": "", "b 10.0.0.7": ""},
		},
		{
			name: "what is no host name is no name",
			says: []say{
				leaseTo("b", m1, "10.0.0.5", "-a"), leaseTo("b", m2, "10.0.0.6", "a b"), leaseTo("b", m3, "10.0.0.7", "\x00\n."),
			},
			want: map[string][]string{"b -a": nil, "b a b": nil, "b ": nil},
		},
		{
			name: "all addresses of the NIC, but none that are no use",
			says: []say{
				port("b", m1, "web"), leaseTo("b", m1, "10.0.0.5", ""), neighbour("b", m1, "fd00::5"),
				neighbour("b", m1, "fe80::5"), neighbour("b", m1, "2001:db8::5"), neighbour("b", m1, "ff02::1"), neighbour("b", m1, "10.0.0.77"),
			},
			want: map[string][]string{"b web": {"10.0.0.5", "fd00::5", "2001:db8::5"}},
			ptr:  map[string]string{"b fd00::5": "web", "b fe80::5": ""},
		},
		{
			name: "a neighbour's address moves, a reserved one does not",
			says: []say{
				port("b", m1, "one"), port("b", m2, "two"), neighbour("b", m1, "fd00::5"), neighbour("b", m2, "fd00::5"),
				reserve("b", m1, "fd00::9", ""), neighbour("b", m2, "fd00::9"),
			},
			want: map[string][]string{"b one": {"fd00::9"}, "b two": {"fd00::5", "fd00::9"}},
			ptr:  map[string]string{"b fd00::5": "two", "b fd00::9": "one"},
		},
		{
			name: "an address that is reserved and leased counts once and outlives the lease",
			says: []say{reserve("b", m1, "10.0.0.5", "web"), leaseTo("b", m1, "10.0.0.5", ""), unlease("b", m1, "10.0.0.5")},
			want: map[string][]string{"b web": {"10.0.0.5"}},
			ptr:  map[string]string{"b 10.0.0.5": "web"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := NewNames("hostA.example.org")
			for _, s := range tt.says {
				s(n)
			}
			for where, want := range tt.want {
				var bridge, label string
				fmt.Sscanf(where, "%s", &bridge)
				label = where[len(bridge)+1:]
				v4, v6, ok := n.Addrs(bridge, label)
				var got []string
				for _, a := range slices.Concat(v4, v6) {
					got = append(got, a.String())
				}
				if !slices.Equal(got, want) || ok != (want != nil) {
					t.Errorf("%s resolves to %q (%v), want %q", where, got, ok, want)
				}
			}
			for where, want := range tt.ptr {
				var bridge, a string
				fmt.Sscanf(where, "%s %s", &bridge, &a)
				if got, _ := n.Name(bridge, addr(a)); got != want {
					t.Errorf("%s is called %q, want %q", where, got, want)
				}
			}
		})
	}
}

// A guest that makes up addresses fills neither the table nor the answers.
func TestNeighboursAreBounded(t *testing.T) {
	n := NewNames("h")
	n.SetGuest("b", m1, "web")
	for i := range 1000 {
		n.SetNeighbour("b", m1, netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)}))
	}
	_, v6, _ := n.Addrs("b", "web")
	if len(v6) != maxNeighbours || v6[len(v6)-1] != addr("fd00::3e7") {
		t.Errorf("%d addresses, last %s; want the newest %d", len(v6), v6[len(v6)-1], maxNeighbours)
	}
	if got := len(n.bridges["b"].owners); got != maxNeighbours {
		t.Errorf("%d owners left, want %d", got, maxNeighbours)
	}
}

// Whatever was said and taken back leaves nothing behind.
func TestNamesForget(t *testing.T) {
	n := NewNames("h")
	for range 2 {
		n.SetGuest("b", m1, "web")
		n.SetLease("b", m1, addr("10.0.0.5"), "x")
		n.SetLease("b", m2, addr("10.0.0.6"), "x")
		n.SetNeighbour("b", m2, addr("fd00::6"))
		n.SetReservation(host.Reservation{Bridge: "c", MAC: m3, Addr: addr("10.1.0.7"), Hostname: "x"})
		n.RemoveLease("b", m2, addr("10.0.0.6"))
		n.RemoveNeighbour("b", m2, addr("fd00::6"))
		n.RemoveReservation("c", m3)
		n.RemoveLease("b", m1, addr("10.0.0.5"))
		n.RemoveGuest("b", m1)
	}
	if len(n.stations)+len(n.claims)+len(n.bridges) != 0 {
		t.Errorf("left: %v %v %v", n.stations, n.claims, n.bridges)
	}
}

// Ten thousand leases on one network, all clients with the same name as cloud
// images come, must not take time that grows with their square.
func TestTenThousandNames(t *testing.T) {
	n := NewNames("h")
	began := time.Now()
	for i := range 10_000 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		n.SetLease("b", fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255), a, "ubuntu")
	}
	for i := range 10_000 {
		n.SetGuest("b", fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255), fmt.Sprintf("vm%d", i))
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("feeding took %v", took)
	}
	v4, _, ok := n.Addrs("b", "vm9999")
	if want := addr("10.0.39.15"); !ok || len(v4) != 1 || v4[0] != want {
		t.Errorf("vm9999 is %v, want %v", v4, want)
	}
	if _, _, ok := n.Addrs("b", "ubuntu"); ok {
		t.Error("somebody is still called ubuntu")
	}
}
