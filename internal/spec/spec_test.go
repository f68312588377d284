package spec

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestNewSubnetFillsInWhatIsOpen(t *testing.T) {
	for in, want := range map[string]struct{ prefix, gateway, pool string }{
		"192.168.122.0/24":   {"192.168.122.0/24", "192.168.122.1", "192.168.122.2-192.168.122.254"},
		"192.168.122.254/24": {"192.168.122.0/24", "192.168.122.254", "192.168.122.1-192.168.122.253"},
		"10.0.0.0/30":        {"10.0.0.0/30", "10.0.0.1", "10.0.0.2-10.0.0.2"},
		"172.16.0.0/12":      {"172.16.0.0/12", "172.16.0.1", "172.16.0.2-172.31.255.254"},
		"fd00:1::/64":        {"fd00:1::/64", "fd00:1::1", ""},
	} {
		s := NewSubnet(pfx(in))
		if s.Prefix.String() != want.prefix || s.Gateway.String() != want.gateway || s.Range.String() != want.pool {
			t.Errorf("%s: got %s %s %s", in, s.Prefix, s.Gateway, s.Range)
		}
		if err := s.validate(); err != nil {
			t.Errorf("%s: what is filled in is not valid: %v", in, err)
		}
	}
}

func TestLastAddr(t *testing.T) {
	for in, want := range map[string]string{
		"192.168.122.0/24": "192.168.122.255", "10.0.0.0/8": "10.255.255.255", "10.0.0.4/30": "10.0.0.7", "1.2.3.4/32": "1.2.3.4",
		"fd00::/64": "fd00::ffff:ffff:ffff:ffff", "10.0.128.0/17": "10.0.255.255",
	} {
		if got := LastAddr(pfx(in)).String(); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func good() Network {
	return Network{Name: "default", Mode: "nat", Bridge: "virbr0", Subnets: []Subnet{NewSubnet(pfx("192.168.122.0/24"))}, Domain: "default.internal"}
}

func TestValidateNamesTheFieldThatIsWrong(t *testing.T) {
	addr := netip.MustParseAddr
	for name, c := range map[string]struct {
		spoil func(*Network)
		field string
	}{
		"empty name":        {func(n *Network) { n.Name = "" }, "name"},
		"name with dot":     {func(n *Network) { n.Name = "a.b" }, "name"},
		"upper case":        {func(n *Network) { n.Name = "Lab" }, "name"},
		"name too long":     {func(n *Network) { n.Name = NetworkName(strings.Repeat("a", 64)) }, "name"},
		"bridge 16 long":    {func(n *Network) { n.Bridge = "abcdefghijklmnop" }, "bridge"},
		"bridge lo":         {func(n *Network) { n.Bridge = "lo" }, "bridge"},
		"bridge with slash": {func(n *Network) { n.Bridge = "a/b" }, "bridge"},
		"bridge with space": {func(n *Network) { n.Bridge = "a b" }, "bridge"},
		"mtu small":         {func(n *Network) { n.MTU = 67 }, "mtu"},
		"mtu small for v6":  {func(n *Network) { n.MTU = 1279; n.Subnets = []Subnet{NewSubnet(pfx("fd00::/64"))} }, "mtu"},
		"mtu large":         {func(n *Network) { n.MTU = 65536 }, "mtu"},
		"domain":            {func(n *Network) { n.Domain = "a..b" }, "domain"},
		"ipv6":              {func(n *Network) { n.IPv6 = "perhaps" }, "ipv6"},
		"v4 /31":            {func(n *Network) { n.Subnets[0].Prefix = pfx("10.0.0.0/31") }, "subnet"},
		"v6 /48":            {func(n *Network) { n.Subnets[0] = NewSubnet(pfx("fd00::/48")) }, "subnet"},
		"loopback":          {func(n *Network) { n.Subnets[0] = NewSubnet(pfx("127.1.0.0/24")) }, "subnet"},
		"multicast":         {func(n *Network) { n.Subnets[0] = NewSubnet(pfx("224.1.0.0/24")) }, "subnet"},
		"gateway outside":   {func(n *Network) { n.Subnets[0].Gateway = addr("10.0.0.1") }, "subnet"},
		"gateway broadcast": {func(n *Network) { n.Subnets[0].Gateway = addr("192.168.122.255") }, "subnet"},
		"two of a family":   {func(n *Network) { n.Subnets = append(n.Subnets, NewSubnet(pfx("10.0.0.0/24"))) }, "subnet"},
		"range outside":     {func(n *Network) { n.Subnets[0].Range.Last = addr("192.168.123.5") }, "dhcp-range"},
		"range reversed": {func(n *Network) {
			n.Subnets[0].Range = Range{addr("192.168.122.9"), addr("192.168.122.3")}
		}, "dhcp-range"},
		"range with broadcast": {func(n *Network) { n.Subnets[0].Range.Last = addr("192.168.122.255") }, "dhcp-range"},
		"lease time":           {func(n *Network) { n.Subnets[0].LeaseSeconds = 5 }, "lease-time"},
		"uuid":                 {func(n *Network) { n.UUID = "DE36A9E2-f68e-82dd-b8fd-fc3197e1b4ae" }, "uuid"},
		"user":                 {func(n *Network) { n.AllowUsers = []string{"a b"} }, "allow-users"},
		"reserved outside":     {func(n *Network) { n.Reservations = []Reservation{{MAC: "52:54:00:00:00:01", Addr: addr("10.9.9.9")}} }, "ip"},
		"reserved gateway": {func(n *Network) {
			n.Reservations = []Reservation{{MAC: "52:54:00:00:00:01", Addr: addr("192.168.122.1")}}
		}, "ip"},
		"reserved twice": {func(n *Network) {
			n.Reservations = []Reservation{{MAC: "52:54:00:00:00:01", Addr: addr("192.168.122.5")}, {MAC: "52:54:00:00:00:02", Addr: addr("192.168.122.5")}}
		}, "ip"},
		"bad mac": {func(n *Network) { n.Reservations = []Reservation{{MAC: "52:54", Addr: addr("192.168.122.5")}} }, "mac"},
		"hostname": {func(n *Network) {
			n.Reservations = []Reservation{{MAC: "52:54:00:00:00:01", Addr: addr("192.168.122.5"), Hostname: "a_b"}}
		}, "hostname"},
	} {
		t.Run(name, func(t *testing.T) {
			n := good()
			c.spoil(&n)
			var bad *InvalidError
			if err := n.Validate(); !errors.As(err, &bad) || bad.Field != c.field {
				t.Errorf("got %v, want a complaint about %s", err, c.field)
			}
		})
	}
	if err := good().Validate(); err != nil {
		t.Errorf("the good one is refused: %v", err)
	}
}

func TestParseMAC(t *testing.T) {
	for in, want := range map[string]string{
		"52:54:00:AB:cd:01": "52:54:00:ab:cd:01", "52-54-00-ab-cd-01": "52:54:00:ab:cd:01", "5254.00ab.cd01": "52:54:00:ab:cd:01",
		"ff:ff:ff:ff:ff:ff": "", "01:00:5e:00:00:01": "", "00:00:00:00:00:00": "", "52:54:00:ab:cd": "", "": "", "hello": "", "52:54:00:ab:cd:0g": "",
	} {
		got, err := ParseMAC(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
	}
}

func TestEditsLeaveTheOldDocumentAlone(t *testing.T) {
	d := Document{}.Clone().With(good())
	before := d.Clone()
	n, err := d.Network("default")
	if err != nil {
		t.Fatal(err)
	}
	n.Subnets[0].LeaseSeconds = 999
	n = n.Reserve(Reservation{MAC: "52:54:00:00:00:09", Addr: netip.MustParseAddr("192.168.122.9")})
	e := d.With(n)
	if !reflect.DeepEqual(d, before) {
		t.Error("an edit changed the document that it was given")
	}
	if e.Equal(d) || !d.Equal(before) {
		t.Error("Equal does not tell")
	}
	if _, err := d.Network("nope"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestReservationsStayInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := good()
		for range rapid.IntRange(0, 20).Draw(t, "n") {
			mac := FormatMAC([6]byte{0x52, 0x54, 0, 0, 0, byte(rapid.IntRange(0, 8).Draw(t, "mac"))})
			n = n.Reserve(Reservation{MAC: mac, Addr: netip.AddrFrom4([4]byte{192, 168, 122, byte(rapid.IntRange(2, 250).Draw(t, "ip"))})})
			seen := map[string]bool{}
			for i, r := range n.Reservations {
				if seen[r.MAC] {
					t.Fatalf("%s is there twice", r.MAC)
				}
				seen[r.MAC] = true
				if i > 0 && r.Addr.Less(n.Reservations[i-1].Addr) {
					t.Fatal("out of order")
				}
			}
		}
	})
}
