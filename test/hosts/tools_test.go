package hosts

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"drawbridge/internal/hostconf"
	"drawbridge/internal/nettest/booted"
)

// managersRoot is the root of hosts with these managers, which nobody may change.
func managersRoot(t *testing.T, variant string) string {
	t.Helper()
	root, err := booted.Root(tree(t), "scripts/managers-root", variant)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// golden is one of the cases of hostconf's TestFilesOfUplinks, laid out as trees:
// before, what the manager is told meanwhile, and after.
type golden struct {
	name, manager, uplink string
	dir                   string
	files                 []txtar.File
}

func goldens(t *testing.T) (all []golden) {
	t.Helper()
	found, err := filepath.Glob("../../internal/hostconf/testdata/uplinks/*.txtar")
	if err != nil || len(found) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, f := range found {
		a, err := txtar.ParseFile(f)
		if err != nil {
			t.Fatal(err)
		}
		words := strings.Fields(string(a.Comment))
		g := golden{name: strings.TrimSuffix(filepath.Base(f), ".txtar"), manager: words[0], uplink: words[1], dir: t.TempDir(), files: a.Files}
		put := func(tree, name string, data []byte) {
			path := filepath.Join(g.dir, tree, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range a.Files { // those of before come first
			tree, name, _ := strings.Cut(f.Name, "/")
			if strings.HasPrefix(name, "run/") {
				tree = "recorded-" + tree
			}
			put(tree, name, f.Data)
			if tree == "before" {
				put("after", name, f.Data)
			}
		}
		all = append(all, g)
	}
	return all
}

func (g golden) is(managers ...string) bool { return slices.Contains(managers, g.manager) }

// text reads a file of the case's trees.
func (g golden) text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// beside runs a script with a manager's own programs; the case's trees are in /mnt.
func (g golden) beside(t *testing.T, root, script string) string {
	t.Helper()
	const enter = `mount --bind "$2" "$1/mnt"; mount -t tmpfs tmp "$1/run"; mount -t tmpfs tmp "$1/tmp"; mount -t proc proc "$1/proc"
mount -t sysfs -o ro sys "$1/sys"; mount --rbind /dev "$1/dev"; exec chroot "$1" sh -ec "$3"`
	cmd := exec.Command("unshare", "--mount", "--net", "--propagation", "private", "sh", "-ec", enter, "beside", root, g.dir, script)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// TestManagersReadTheirFiles asks the managers' own programs what they make of
// the files that are written for them.
func TestManagersReadTheirFiles(t *testing.T) {
	need(t)
	one, two := managersRoot(t, "ifupdown"), managersRoot(t, "ifupdown2")
	known := map[string]bool{}
	for _, g := range goldens(t) {
		known[g.manager] = true
		t.Run(g.name, func(t *testing.T) {
			switch g.manager {
			case hostconf.IfUpDown:
				g.inOrder(t, g.beside(t, one, "ifup --no-act --force --all --state-dir=/tmp --interfaces=/mnt/after/etc/network/interfaces"))
			case hostconf.IfUpDown2:
				g.ifquery(t, two)
			case hostconf.Networkd:
				g.networkd(t, one, "after")
			case hostconf.Netplan, hostconf.NetplanNM:
				g.netplan(t, one)
			case hostconf.NetworkManager:
				g.nmcli(t, one, "after/etc/NetworkManager/system-connections")
			}
		})
	}
	if len(known) != 6 {
		t.Errorf("there are only files of %v", slices.Collect(maps.Keys(known)))
	}
}

// inOrder: ifup makes the uplink, then the bridge, then puts the one into the other.
func (g golden) inOrder(t *testing.T, acts string) {
	at := 0
	for _, act := range []string{"ip link set dev " + g.uplink + " up", "ip link add name br0 address 52:54:00:aa:bb:01", "ip link set dev " + g.uplink + " master br0 up",
		"ip addr add 192.168.99.66/255.255.255.0", "default via 192.168.99.1  dev br0"} {
		i := strings.Index(acts[at:], act)
		if i < 0 {
			t.Fatalf("ifup does not do %q, or too early:\n%s", act, acts)
		}
		at += i
	}
	if strings.Contains(acts, "dev "+g.uplink+" label") {
		t.Errorf("the uplink gets the address too:\n%s", acts)
	}
}

func (g golden) ifquery(t *testing.T, root string) {
	said := g.beside(t, root, "ifquery --interfaces /mnt/after/etc/network/interfaces br0; ifquery --interfaces /mnt/after/etc/network/interfaces "+g.uplink+
		"; ifup --all --syntax-check --interfaces /mnt/after/etc/network/interfaces")
	bridge, port, found := strings.Cut(said, "iface "+g.uplink)
	if !found || !strings.Contains(bridge, "bridge-ports "+g.uplink) || !strings.Contains(bridge, "address 192.168.99.66/24") || strings.Contains(port, "address") ||
		strings.Contains(said, "error") || strings.Contains(said, "warning") {
		t.Errorf("ifupdown2 says:\n%s", said)
	}
}

// networkd reads its files as it is started; it says what it does not know.
func (g golden) networkd(t *testing.T, root, tree string) {
	said := g.beside(t, root, "mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp /run/systemd/network; chown -R systemd-network: /run/systemd/netif\n"+
		"chmod -R a+rX /mnt; for d in etc run; do [ ! -d /mnt/"+tree+"/$d/systemd/network ] || cp /mnt/"+tree+"/$d/systemd/network/* /run/systemd/network/; done\n"+
		"SYSTEMD_LOG_LEVEL=debug /lib/systemd/systemd-networkd >/tmp/said 2>&1 & n=0\n"+
		"until grep -q 'Enumeration completed' /tmp/said || [ $n -ge 300 ]; do sleep 0.1; n=$((n+1)); done; kill $!; cat /tmp/said")
	if !strings.Contains(said, "Enumeration completed") {
		t.Errorf("systemd-networkd did not start:\n%s", said)
	}
	for line := range strings.Lines(said) {
		if strings.Contains(line, "/systemd/network/") && !strings.Contains(line, "found but does not match") && (strings.Contains(line, "gnoring") || strings.Contains(line, "Failed") || strings.Contains(line, "Invalid")) {
			t.Errorf("systemd-networkd says %s", line)
		}
	}
}

// netplan makes of the YAML before what was recorded, and of the YAML after what the
// renderer was told meanwhile.
func (g golden) netplan(t *testing.T, root string) {
	if said := g.beside(t, root, "for t in before after; do netplan generate --root-dir /mnt/$t; done"); strings.TrimSpace(said) != "" {
		t.Errorf("netplan says: %s", said)
	}
	for _, f := range g.files {
		if name, ok := strings.CutPrefix(f.Name, "before/run/"); ok {
			if now := g.text(t, "before/run/"+name); strings.TrimSpace(now) != strings.TrimSpace(string(f.Data)) {
				t.Errorf("netplan makes another %s:\n%s\nrecorded:\n%s", name, now, f.Data)
			}
		}
	}
	if g.is(hostconf.Netplan) {
		if port := g.text(t, "after/run/systemd/network/10-netplan-"+g.uplink+".network"); !strings.Contains(port, "Bridge=br0") || strings.Contains(port, "Address=") || strings.Contains(port, "DHCP=") {
			t.Errorf("the port is:\n%s", port)
		}
		if dev := g.text(t, "after/run/systemd/network/10-netplan-br0.netdev"); !strings.Contains(dev, "MACAddress=52:54:00:aa:bb:01") || !strings.Contains(dev, "STP=false") {
			t.Errorf("the bridge is:\n%s", dev)
		}
		if made, told := addressing(g.text(t, "after/run/systemd/network/10-netplan-br0.network")), addressing(g.told(t, "br0.network")); made != told {
			t.Errorf("netplan will tell of the bridge:\n%s\nwe tell of it:\n%s", made, told)
		}
		g.networkd(t, root, "after")
		return
	}
	g.nmcli(t, root, "recorded-meanwhile/run/NetworkManager/system-connections")
	for _, f := range g.files {
		name, ok := strings.CutPrefix(f.Name, "meanwhile/run/NetworkManager/system-connections/")
		if !ok {
			continue
		}
		made, told := g.connection(t, root, "after/run/NetworkManager/system-connections/"+name), g.connection(t, root, "recorded-meanwhile/run/NetworkManager/system-connections/"+name)
		if made != told {
			t.Errorf("%s: netplan will tell NetworkManager:\n%s\nwe tell it meanwhile:\n%s", name, made, told)
		}
	}
}

// told is what networkd is told meanwhile.
func (g golden) told(t *testing.T, suffix string) string {
	t.Helper()
	for _, f := range g.files {
		if strings.HasPrefix(f.Name, "meanwhile/") && strings.HasSuffix(f.Name, suffix) {
			return string(f.Data)
		}
	}
	t.Fatalf("nothing is told of %s", suffix)
	return ""
}

// addressing is what a .network file says of addresses, in order of the alphabet.
func addressing(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		for _, key := range []string{"Address", "Gateway", "Destination", "DHCP", "RouteMetric", "DNS", "Domains"} {
			if strings.HasPrefix(line, key+"=") {
				out = append(out, line)
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// nmcli reads connections without NetworkManager, and says what is wrong with them.
func (g golden) nmcli(t *testing.T, root, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(g.dir, dir, "*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%s: %v, %v", dir, files, err)
	}
	var of []string
	for _, f := range files {
		of = append(of, g.connection(t, root, filepath.Join(dir, filepath.Base(f))))
	}
	all := strings.Join(of, "\n")
	for _, words := range []string{"type=bridge", "interface-name=br0", "master=br0", "slave-type=bridge", "mac-address=52:54:00:AA:BB:01"} {
		if strings.Count(all, " "+words+"\n") != 1 {
			t.Errorf("%q is not once in:\n%s", words, all)
		}
	}
}

// connection is a keyfile as NetworkManager's own library writes it, without what is
// said in another way or matters to nobody.
func (g golden) connection(t *testing.T, root, file string) string {
	t.Helper()
	text := g.beside(t, root, fmt.Sprintf("nmcli --offline connection modify connection.id same </mnt/%s", file))
	text = strings.ReplaceAll(text, "cloned-mac-address", "mac-address")
	var out []string
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "["):
			section = line
		case line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "timestamp="):
		case section == "[ipv6]" && strings.HasPrefix(line, "route-metric="):
		case strings.Contains(line, "mac-address="), strings.HasPrefix(line, "wake-on-lan=0"):
			out = append(out, "[link] "+line)
		default:
			out = append(out, section+" "+line)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n") + "\n"
}
