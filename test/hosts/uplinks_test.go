package hosts

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"drawbridge/internal/nettest"
)

// stackedHost is a host whose own network manager makes the uplinks, which the kernel of
// the machine need not know: a bond of two NICs, a VLAN on a third.
type stackedHost struct {
	name  string
	files map[string]string
}

var stackedHosts = []stackedHost{
	{"ifupdown", map[string]string{
		"/etc/network/interfaces": "auto enp6s18\niface enp6s18 inet manual\n\nauto bond0\niface bond0 inet static\n\taddress 192.168.99.66/24\n\tgateway 192.168.99.1\n" +
			"\tbond-slaves enp6s18 enp6s19\n\tbond-mode active-backup\n\tbond-miimon 100\n\n" +
			"# The office\nauto vlan30\niface vlan30 inet static\n\tvlan-raw-device enp6s20\n\taddress 192.168.98.66/24\n",
	}},
	{"networkd", map[string]string{
		"/etc/systemd/network/10-bond0.netdev":   "[NetDev]\nName=bond0\nKind=bond\n\n[Bond]\nMode=active-backup\nMIIMonitorSec=100ms\n",
		"/etc/systemd/network/20-ports.network":  "[Match]\nName=enp6s18 enp6s19\n\n[Network]\nBond=bond0\n",
		"/etc/systemd/network/30-lan.network":    "[Match]\nName=bond0\n\n[Network]\nAddress=192.168.99.66/24\nGateway=192.168.99.1\n",
		"/etc/systemd/network/10-vlan30.netdev":  "[NetDev]\nName=vlan30\nKind=vlan\n\n[VLAN]\nId=30\n",
		"/etc/systemd/network/20-nic.network":    "[Match]\nName=enp6s20\n\n[Network]\nVLAN=vlan30\nLinkLocalAddressing=no\n",
		"/etc/systemd/network/30-office.network": "[Match]\nName=vlan30\n\n[Network]\nAddress=192.168.98.66/24\n",
	}},
}

// The networks of such a host, with uplink, bridge, the host's address, and who is asked
// whether it reaches the LAN.
var stackedNetworks = []struct{ name, uplink, bridge, address, other string }{
	{"lan", "bond0", "br0", "192.168.99.66", "192.168.99.1"},
	{"office", "vlan30", "br1", "192.168.98.66", "192.168.98.1"},
}

// stackedModules are loaded beforehand: to load them takes a while without KVM, and a
// change may not take long.
var stackedModules = []string{"bridge", "8021q", "veth", "bonding", "nf_tables", "nft_chain_nat", "nft_ct", "nft_masq", "nft_nat", "nft_reject_inet",
	"nft_reject_bridge", "nft_meta_bridge", "nf_conntrack_netlink", "nft_fib_inet", "inet_diag", "tcp_diag", "udp_diag", "cls_bpf", "sch_ingress", "act_mirred"}

const networkdProgram = "/lib/systemd/systemd-networkd"

// TestStackedUplinks lives through the story where the host's own manager makes the
// uplink: in, reboot, out, reboot. Debian's ifup and systemd-networkd run by themselves in
// a guest with Debian's kernel, as there is no room for all of a host.
func TestStackedUplinks(t *testing.T) {
	var with nettest.Inside
	if os.Getenv("DRAWBRIDGE_HOSTS") != "" { // not in the guest
		need(t)
		nettest.Need(t, "ping", "dbus-daemon", "run-parts")
		root := managersRoot(t, "ifupdown")
		program := filepath.Join(t.TempDir(), "drawbridge")
		build := exec.Command("go", "build", "-o", program, "./cmd/drawbridge")
		build.Dir, build.Env = tree(t), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the program: %v\n%s", err, out)
		}
		with = nettest.Inside{
			Modules:  stackedModules,
			Programs: []string{"ping", "dbus-daemon", "run-parts", "unshare", root + "/sbin/ifup", root + "/sbin/ifdown", root + networkdProgram},
			Files:    map[string]string{"/usr/bin/drawbridge": program},
		}
		for _, hook := range []string{"if-pre-up.d/ifenslave", "if-pre-up.d/vlan", "if-up.d/ifenslave", "if-post-down.d/ifenslave", "if-post-down.d/vlan"} {
			with.Files["/etc/network/"+hook] = root + "/etc/network/" + hook
		}
	} else if os.Getenv("DRAWBRIDGE_NETTEST_GUEST") == "" {
		need(t)
	}
	nettest.InGuest(t, with, func(t *testing.T) {
		h := &bare{}
		h.setUp(t)
		for _, c := range stackedHosts {
			t.Run(c.name, func(t *testing.T) { h.story(t, c) })
		}
	})
}

// bare is the guest as a host without systemd: who does what at boot is a test's matter.
type bare struct {
	lan     *nettest.Node
	running []*exec.Cmd
}

func (h *bare) setUp(t *testing.T) {
	for name, more := range map[string]string{
		"/etc/passwd": "messagebus:x:100:100::/:/bin/false\nsystemd-network:x:101:101::/:/bin/false\n",
		"/etc/group":  "messagebus:x:100:\nsystemd-network:x:101:\n",
	} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		h.write(t, name, string(b)+more)
	}
	h.sh(t, "modprobe -a "+strings.Join(stackedModules, " ")+" || true") // what is missing is told by what needs it
	h.write(t, "/etc/machine-id", "0123456789abcdef0123456789abcdef\n")  // who the DHCP clients are
	h.write(t, "/etc/dbus.conf", `<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth><policy context="default">`+
		`<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/><allow send_requested_reply="true"/><allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/></policy></busconfig>`)
	var err error
	if h.lan, err = nettest.NewNode(t.Context(), "lan", ""); err != nil {
		t.Fatal(err)
	}
	if err := h.lan.IP(t.Context(), "link add sw0 type bridge forward_delay 0", "link set sw0 up", "addr add 192.168.99.1/24 dev sw0",
		"link add link sw0 name sw0.30 type vlan id 30", "addr add 192.168.98.1/24 dev sw0.30", "link set sw0.30 up"); err != nil {
		t.Fatal(err)
	}
}

func (h *bare) write(t *testing.T, name, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func (h *bare) sh(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// run starts what goes on until the power is cut.
func (h *bare) run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.running = append(h.running, cmd)
}

// boot does what a boot does: NICs, the host's own manager, our daemon.
func (h *bare) boot(t *testing.T, c stackedHost) {
	t.Helper()
	h.sh(t, "rm -rf /run/*; mkdir -p /run/network /run/dbus /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp; chown -R 101:101 /run/systemd/netif")
	for i, nic := range []string{"enp6s18", "enp6s19", "enp6s20"} {
		h.sh(t, fmt.Sprintf("ip link add %s address 52:54:00:aa:bb:0%d type veth peer name t%d netns %d", nic, i+1, i, h.lan.PID()))
		if err := h.lan.IP(t.Context(), fmt.Sprintf("link set t%d master sw0 up", i)); err != nil {
			t.Fatal(err)
		}
	}
	if c.name == "ifupdown" {
		h.sh(t, "ifup -a")
	} else {
		h.run(t, "dbus-daemon", "--nofork", "--nopidfile", "--config-file=/etc/dbus.conf")
		within(t, 20*time.Second, func() error { _, err := os.Stat("/run/dbus/system_bus_socket"); return err })
		// Where /sys can be written, it waits for udev.
		h.run(t, "unshare", "--mount", "sh", "-ec", "mount -o remount,ro,bind /sys; exec systemd-networkd")
	}
	h.run(t, "drawbridge", "daemon", "--state-dir", "/var/lib/drawbridge", "--log-level", "warn")
	within(t, 30*time.Second, func() error { return exec.Command("drawbridge", "network", "ls").Run() })
}

// cut takes the power away.
func (h *bare) cut(t *testing.T) {
	t.Helper()
	for _, cmd := range h.running {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // killed
	}
	h.running = nil
	var links []struct {
		Ifname   string
		Linkinfo struct {
			Kind string `json:"info_kind"`
		}
	}
	if err := json.Unmarshal([]byte(h.sh(t, "ip -j -d link")), &links); err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Linkinfo.Kind != "" {
			h.sh(t, "ip link del "+l.Ifname+" 2>/dev/null || ! ip link show "+l.Ifname) // it may have gone with another
		}
	}
}

func (h *bare) story(t *testing.T, c stackedHost) {
	for name, text := range c.files {
		h.write(t, name, text)
	}
	defer h.sh(t, "rm -rf /etc/network/interfaces /etc/systemd/network /var/lib/drawbridge")
	defer h.cut(t)
	defer func() {
		if t.Failed() {
			out, _ := exec.Command("sh", "-c", "ip addr; ip route; cat /etc/network/interfaces /run/network/ifstate; ls /etc/systemd/network /run/systemd/network").CombinedOutput()
			t.Logf("the host:\n%s", out)
		}
	}()
	h.boot(t, c)
	h.has(t, false)
	for _, n := range stackedNetworks {
		h.confirmed(t, "network", "create", n.name, "--mode", "bridged", "--uplink", n.uplink)
	}
	h.has(t, true)
	h.cut(t)
	h.boot(t, c)
	h.has(t, true)
	if out := h.sh(t, "drawbridge network ls"); strings.Count(out, "running") != len(stackedNetworks) {
		t.Errorf("after the reboot:\n%s", out)
	}
	for _, n := range slices.Backward(stackedNetworks) {
		h.confirmed(t, "network", "rm", n.name)
	}
	h.has(t, false)
	for name, text := range c.files {
		if b, err := os.ReadFile(name); err != nil || string(b) != text {
			t.Errorf("%s is %v:\n%s", name, err, b)
		}
	}
	if left := h.sh(t, "find /etc -name '*drawbridge*'"); left != "" {
		t.Errorf("left:\n%s", left)
	}
	h.cut(t)
	h.boot(t, c)
	h.has(t, false)
}

// confirmed makes a change that waits, and confirms it.
func (h *bare) confirmed(t *testing.T, args ...string) {
	t.Helper()
	var ch pendingChange
	cmd := exec.Command("drawbridge", append(args, "--no-wait", "-o", "json")...)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &ch)
	}
	if err != nil || ch.Phase != "waiting" {
		t.Fatalf("drawbridge %s: %v: %s%s", strings.Join(args, " "), err, out, complaints.String())
	}
	h.sh(t, "drawbridge change confirm "+ch.ID)
}

// has waits until each address is where it shall be, on the bridge with the uplink in it
// or on the uplink, and the LAN is reached over that.
func (h *bare) has(t *testing.T, bridged bool) {
	t.Helper()
	for _, n := range stackedNetworks {
		link, master := n.uplink, ""
		if bridged {
			link, master = n.bridge, n.bridge
		}
		within(t, time.Minute, func() error {
			var seen []struct {
				Ifname, Master string
				AddrInfo       []struct{ Local string } `json:"addr_info"`
			}
			out, err := exec.Command("ip", "-j", "addr").Output()
			if err == nil {
				err = json.Unmarshal(out, &seen)
			}
			if err != nil {
				return err
			}
			var addressed []string
			for _, l := range seen {
				if l.Ifname == n.uplink && l.Master != master {
					return fmt.Errorf("%s is in %q", n.uplink, l.Master)
				}
				for _, a := range l.AddrInfo {
					if a.Local == n.address {
						addressed = append(addressed, l.Ifname)
					}
				}
			}
			if !slices.Equal(addressed, []string{link}) {
				return fmt.Errorf("%s is on %v and not on %s", n.address, addressed, link)
			}
			if out, err := exec.Command("ping", "-c1", "-W1", "-I", link, n.other).CombinedOutput(); err != nil {
				return fmt.Errorf("ping %s: %w: %s", n.other, err, out)
			}
			if out, err := exec.Command("ip", "route", "show", "default").Output(); n.uplink == "bond0" && (err != nil || !strings.Contains(string(out), " dev "+link)) {
				return fmt.Errorf("the default route is %q (%w)", out, err)
			}
			return nil
		})
	}
}
