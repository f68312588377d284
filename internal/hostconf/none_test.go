package hostconf

import (
	"strings"
	"testing"
)

// What ip(8) of Debian 12 says of a link.
func TestWhatNobodyManagesIsTakenOver(t *testing.T) {
	d := Description{Link: "eth0"}
	err := readAddresses(&d, []byte(`[{"ifname":"eth0","addr_info":[
		{"family":"inet","local":"192.168.99.66","prefixlen":24,"broadcast":"192.168.99.255","scope":"global","label":"eth0","valid_life_time":4294967295,"preferred_life_time":4294967295},
		{"family":"inet","local":"10.0.0.1","address":"10.0.0.2","prefixlen":32,"scope":"global","noprefixroute":true,"metric":7,"valid_life_time":4294967295},
		{"family":"inet6","local":"2001:db8::5","prefixlen":64,"scope":"global","dynamic":true,"valid_life_time":86400},
		{"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link","valid_life_time":4294967295}]}]`))
	if err != nil {
		t.Fatal(err)
	}
	readRoutes(&d, "-4", "default via 192.168.99.1 proto static linkdown \n192.168.99.0/24 proto kernel scope link src 192.168.99.66 \n"+
		"10.9.0.0/16 via 192.168.99.2 table 77 mtu 1400 \nlocal 192.168.99.66 table local proto kernel scope host src 192.168.99.66 \n")
	readRoutes(&d, "-6", "fe80::/64 proto kernel metric 256 pref medium\n2001:db8::/64 proto ra metric 1024 expires 86000sec pref medium\n2001:db8:7::/48 via fe80::9 metric 1024 pref medium\n")
	want := `addr replace 192.168.99.66/24 broadcast 192.168.99.255 scope global
addr replace 10.0.0.1 peer 10.0.0.2/32 metric 7 noprefixroute scope global
-4 route replace 192.168.99.0/24 proto kernel scope link src 192.168.99.66
-4 route replace default via 192.168.99.1 proto static
-4 route replace 10.9.0.0/16 via 192.168.99.2 table 77 mtu 1400
-6 route replace 2001:db8:7::/48 via fe80::9 metric 1024`
	if got := strings.Join(d.Lines, "\n"); got != want || !d.IPv6.RA || len(d.Cannot) > 0 {
		t.Errorf("%+v\ngot:\n%s", d, got)
	}
}

func TestWhatNobodyWouldRenewIsRefused(t *testing.T) {
	d := Description{Link: "eth0"}
	if err := readAddresses(&d, []byte(`[{"addr_info":[{"family":"inet","local":"192.0.2.5","prefixlen":24,"dynamic":true,"valid_life_time":600}]}]`)); err != nil {
		t.Fatal(err)
	}
	readRoutes(&d, "-4", "default \\\tnexthop via 192.0.2.1 dev eth0 weight 1 \\\tnexthop via 192.0.2.2 dev eth0 weight 1 \n192.0.2.128/25 nhid 7 via 192.0.2.9 \n")
	if len(d.Cannot) != 3 || len(d.Lines) != 0 {
		t.Errorf("cannot %q, lines %q", d.Cannot, d.Lines)
	}
	if err := readAddresses(&d, []byte("{")); err == nil {
		t.Error("nonsense was read")
	}
}
