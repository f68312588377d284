package hostconf

import (
	"slices"
	"strings"
	"testing"

	"drawbridge/internal/host"
)

const keyfileBefore = `# by hand
[connection]
id=Office
uuid=11111111-2222-3333-4444-555555555555
type=ethernet
interface-name=enp6s18
autoconnect-priority=5
zone=work

[802-3-ethernet]
mtu=1400
wake-on-lan=64

[ethtool]
ring-rx=512

[ipv4]
method=manual
address1=192.168.99.66/24,192.168.99.1
dns=192.168.99.1;192.168.99.2;

[ipv6]
method=auto
addr-gen-mode=stable-privacy
route-metric=7
`

func TestKeyfilesOfABridge(t *testing.T) {
	d := Description{Link: "enp6s18", Connection: "11111111-2222-3333-4444-555555555555", RouteMetric: 100,
		Files: []string{nmEtc + "Office.nmconnection"}, Generated: keyfileBefore}
	readKeyfile(&d, parseSections(keyfileBefore))
	if !d.IPv4.Static || d.IPv4.DHCP || !d.IPv6.RA || d.MTU != 1400 || len(d.DNS) != 2 || len(d.Gateways) != 1 || len(d.Cannot) > 0 {
		t.Errorf("read as %+v", d)
	}
	p := host.Profile{Bridge: "br0", Uplinks: "enp6s18 enp7s0", MAC: "52:54:00:aa:bb:01", MTU: 1400}
	files := nmFiles(nmRun, p, d)
	first := portUUID(d, "br0", "enp6s18")
	want := []struct{ path, text string }{
		{nmRun + "Office.nmconnection", `# Drawbridge: what enp6s18 had, now for the bridge that it is in. "drawbridge network rm" puts things back.

[connection]
id=Office
uuid=11111111-2222-3333-4444-555555555555
autoconnect-priority=5
zone=work
type=bridge
interface-name=br0

[bridge]
mac-address=52:54:00:AA:BB:01
stp=false
forward-delay=0

[ethernet]
mtu=1400

[ipv4]
method=manual
address1=192.168.99.66/24,192.168.99.1
dns=192.168.99.1;192.168.99.2;
route-metric=100

[ipv6]
method=auto
addr-gen-mode=stable-privacy
route-metric=7
`},
		{nmRun + "drawbridge-br0-enp6s18.nmconnection", `# Drawbridge: enp6s18 is a port of br0. "drawbridge network rm" puts things back.

[connection]
id=br0 port enp6s18
uuid=` + first + `
type=ethernet
interface-name=enp6s18
master=br0
slave-type=bridge
autoconnect-priority=5

[802-3-ethernet]
mtu=1400
wake-on-lan=64

[ethtool]
ring-rx=512
`},
		{nmRun + "drawbridge-br0-enp7s0.nmconnection", `# Drawbridge: enp7s0 is a port of br0. "drawbridge network rm" puts things back.

[connection]
id=br0 port enp7s0
uuid=` + portUUID(d, "br0", "enp7s0") + `
type=ethernet
interface-name=enp7s0
master=br0
slave-type=bridge
`},
	}
	if len(files) != len(want) {
		t.Fatalf("%d files", len(files))
	}
	for i, w := range want {
		if files[i].Path != w.path || string(files[i].After) != w.text || files[i].Mode != 0o600 {
			t.Errorf("%s %o:\n%s--- want %s:\n%s", files[i].Path, files[i].Mode, files[i].After, w.path, w.text)
		}
	}
	if len(first) != 36 || first != portUUID(d, "br0", "enp6s18") || first == portUUID(d, "br1", "enp6s18") {
		t.Errorf("the UUID of a port is %s", first)
	}
}

func TestKeyfilesThatCannotMove(t *testing.T) {
	for text, word := range map[string]string{
		"[connection]\ntype=wifi\n":                      "type wifi",
		"[connection]\ntype=ethernet\nmaster=bond0\n":    "port of bond0",
		"[connection]\ntype=ethernet\ncontroller=bond0":  "port of bond0",
		"[connection]\ntype=ethernet\nsecondaries=a;b\n": "secondaries",
		"[802-1x]\neap=tls;\n":                           "802.1X",
		"[ipv4]\nmethod=shared\n":                        "ipv4.method=shared",
	} {
		var d Description
		readKeyfile(&d, parseSections(text))
		if !slices.ContainsFunc(d.Cannot, func(s string) bool { return strings.Contains(s, word) }) {
			t.Errorf("%q: refused for %q", text, d.Cannot)
		}
	}
}
