package hostconf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drawbridge/internal/host"
)

// files makes a tree in which these files are.
func filesIn(t *testing.T, files map[string]string) tree {
	t.Helper()
	tr := tree{root: t.TempDir()}
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(tr.path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(tr.path(name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

// Which of the two is installed decides: they read the same files.
func TestIfUpDown2IsToldFromIfUpDown(t *testing.T) {
	files := map[string]string{"/etc/network/interfaces": "auto eth0\niface eth0\n\taddress 192.0.2.5/24\n\tgateway 192.0.2.1\n"}
	for _, two := range []bool{false, true} {
		if two {
			files[ifupdown2Program] = "# python\n"
		}
		tr := filesIn(t, files)
		one, d := Description{Link: "eth0"}, Description{Link: "eth0"}
		has1, err1 := ifupdown{}.describe(t.Context(), tr, &one)
		has2, err2 := ifupdown2{}.describe(t.Context(), tr, &d)
		if err1 != nil || err2 != nil || has1 == two || has2 != two {
			t.Errorf("ifupdown2 installed: %v; ifupdown has it: %v %v, ifupdown2: %v %v", two, has1, err1, has2, err2)
		}
		if two && (!d.IPv4.Static || len(d.Evidence) != 2 || len(d.Cannot) > 0) {
			t.Errorf("described as %+v", d)
		}
	}
	files["/etc/network/interfaces"] = "%for i in range(2):\nauto eth0\n%endfor\niface eth0\n\taddress 192.0.2.5/24\n"
	d := Description{Link: "eth0"}
	if _, err := (ifupdown2{}).describe(t.Context(), filesIn(t, files), &d); err != nil || len(d.Cannot) != 1 {
		t.Errorf("a template: %v, %+v", err, d)
	}
}

func TestInterfacesOfABridgeForIfUpDown2(t *testing.T) {
	tr := filesIn(t, map[string]string{
		ifupdown2Program: "",
		"/etc/network/interfaces": `# by hand
auto lo
iface lo inet loopback

auto eth0
iface eth0 inet static
	address 192.0.2.5/24
	gateway 192.0.2.1
	ethtool-ethernet-wol g
	post-up ip route add 198.51.100.0/24 via 192.0.2.1 dev eth0

iface eth0 inet6 static
	address 2001:db8::5/64
`,
	})
	d := Description{Link: "eth0"}
	if has, err := (ifupdown2{}).describe(t.Context(), tr, &d); err != nil || !has || len(d.Cannot) > 0 {
		t.Fatalf("%v, %v, %+v", has, err, d)
	}
	got, err := ifupdown2{}.permanent(tr, host.Profile{Bridge: "br0", Uplinks: "eth0 eth1", MAC: "52:54:00:aa:bb:01", MTU: 1500, STP: true}, d)
	want := `# by hand
auto lo
iface lo inet loopback

auto br0
iface br0 inet static
	bridge-ports eth0 eth1
	bridge-stp on
	bridge-fd 0
	bridge-ports-condone-regex .*
	hwaddress 52:54:00:aa:bb:01
	address 192.0.2.5/24
	gateway 192.0.2.1
	post-up ip route add 198.51.100.0/24 via 192.0.2.1 dev br0

iface br0 inet6 static
	address 2001:db8::5/64

auto eth0
# Drawbridge: a port of br0.
iface eth0 inet manual
    ethtool-ethernet-wol g

# Drawbridge: a port of br0.
iface eth1 inet manual
`
	if err != nil || len(got) != 1 || string(got[0].After) != want {
		t.Errorf("%v\n%s\nwanted:\n%s", err, strings.ReplaceAll(string(got[0].After), " \n", "_\n"), want)
	}
}
