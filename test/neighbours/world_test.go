package neighbours

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/nettest"
)

// limit is how long anything may take; it costs nothing while things go well.
const limit = 30 * time.Second

var program string

func TestMain(m *testing.M) {
	if os.Getenv(zonesIn) != "" { // a program runs already
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "drawbridge-neighbours")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "drawbridge")
	build := exec.Command("go", "build", "-o", program, "drawbridge/cmd/drawbridge")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	if err := os.Chmod(dir, 0o755); err != nil { // guest services run as nobody
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// world is a host with a LAN on one side and a guest on the other.
type world struct {
	t                     *testing.T
	host, lan, guest, new *nettest.Node
	work                  string
	// log is the daemon's, daemon its process.
	log    *os.File
	daemon *exec.Cmd
	// bridge of network default, and the addresses of the host and the guest on it.
	bridge      string
	gateway, at netip.Addr
	// permits: the firewall that the test is about lets the LAN have the host's echo.
	permits bool
}

// script runs one of the tree's scripts that makes something once, and prints where
// it is.
func script(t *testing.T, path string) string {
	t.Helper()
	if os.Getenv("DRAWBRIDGE_HOSTS") == "" {
		t.Skip("what other programs need takes minutes to make: run by make test-hosts")
	}
	out, err := nettest.Fetch(func() *exec.Cmd { return exec.Command(path) })
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t, script(t, "../../scripts/neighbours-root"))
}

// newWorldOn makes a world in which the other programs are those of a root.
func newWorldOn(t *testing.T, lower string) *world {
	t.Helper()
	nettest.Need(t, nettest.Root, "ip", "nft", "iptables", "busybox", "chroot", "debootstrap")
	ctx := context.Background()
	w := &world{t: t, work: t.TempDir()}
	if err := os.Chmod(w.work, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range []struct {
		node **nettest.Node
		name string
	}{{&w.host, "host"}, {&w.lan, "lan"}, {&w.guest, "guest"}, {&w.new, "new"}} {
		node, err := nettest.NewNode(ctx, n.name, "nameserver 192.168.99.1\n")
		if err != nil {
			t.Fatal(err)
		}
		*n.node = node
		t.Cleanup(func() { _ = node.Close() })
	}
	cable := func(a *nettest.Node, aName string, b *nettest.Node, bName string) error {
		return a.IP(ctx, fmt.Sprintf("link add %s type veth peer name %s netns %d", aName, bName, b.PID()))
	}
	w.check(cable(w.host, "eth0", w.lan, "eth0"))
	w.check(w.host.IP(ctx, "addr add 192.168.99.66/24 dev eth0", "link set eth0 up", "route add default via 192.168.99.1"))
	w.check(w.lan.IP(ctx, "addr add 192.168.99.1/24 dev eth0", "addr add 203.0.113.1/32 dev lo", "link set eth0 up"))
	// The programs see a root of their own, which may be written to.
	w.on(fmt.Sprintf(`set -e; mkdir -p /run/nb; mount -t tmpfs tmpfs /run/nb; cd /run/nb; mkdir up work root
mount -t overlay overlay -o lowerdir=%s,upperdir=/run/nb/up,workdir=/run/nb/work root
mount -t proc proc root/proc; mount -t sysfs sysfs root/sys; mount --rbind /dev root/dev; mount -t tmpfs tmpfs root/run
mount -t cgroup2 cgroup2 root/sys/fs/cgroup; sysctl -qw net.ipv4.ip_forward=0`, lower))
	return w
}

// begin starts the daemon, the network and the guests. subnet is that of the
// network, "" for the one that drawbridge chooses.
func (w *world) begin(subnet string) {
	w.t.Helper()
	ctx := context.Background()
	log, err := os.Create(filepath.Join(w.work, "daemon.log"))
	w.check(err)
	w.t.Cleanup(func() {
		log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && w.t.Failed() {
			w.t.Logf("daemon:\n%s", text)
		}
	})
	w.log = log
	w.run()
	w.t.Cleanup(func() { _ = w.daemon.Process.Kill(); _ = w.daemon.Wait() })
	if subnet != "" {
		subnet = " --subnet " + subnet
	}
	w.on(program + " network create default --ipv6 off" + subnet)
	var n struct {
		Bridge  string
		Subnets []struct{ Subnet, Gateway string }
	}
	w.check(json.Unmarshal([]byte(w.on(program+" network show default -o json")), &n))
	w.bridge, w.gateway = n.Bridge, netip.MustParseAddr(n.Subnets[0].Gateway)
	bytes := w.gateway.As4()
	bytes[3] = 9
	w.at = netip.AddrFrom4(bytes)
	for name, g := range map[string]*nettest.Node{"tap1": w.guest, "tap2": w.new} {
		w.check(w.host.IP(ctx, fmt.Sprintf("link add %s type veth peer name eth0 netns %d", name, g.PID()), "link set "+name+" master "+w.bridge+" up"))
		w.check(g.IP(ctx, "link set eth0 up"))
	}
	w.check(w.guest.IP(ctx, fmt.Sprintf("addr add %s/24 dev eth0", w.at), fmt.Sprintf("route add default via %s", w.gateway)))
	w.runs()
}

// runs waits for the guest's traffic: a new port forwards once the kernel has said that
// it has a carrier, which takes up to a second (net/core/link_watch.c) and is nobody's
// gap.
func (w *world) runs() {
	w.t.Helper()
	w.until("the guest's traffic runs", func() error {
		_, err := w.guest.Run(context.Background(), "ping", "-c1", "-W1", internet.String())
		return err
	})
}

// run starts the daemon.
func (w *world) run() {
	w.t.Helper()
	ctx := context.Background()
	w.daemon = w.host.Command(ctx, program, "daemon", "--state-dir", filepath.Join(w.work, "state"), "--firewalld-files", "/run/nb/root")
	w.daemon.Stdout, w.daemon.Stderr = w.log, w.log
	w.check(w.daemon.Start())
	w.until("the daemon answers", func() error { _, err := w.host.Run(ctx, program, "status"); return err })
}

// restart ends the daemon, and starts it again after something was done.
func (w *world) restart(between func()) {
	w.t.Helper()
	w.check(w.daemon.Process.Signal(os.Interrupt))
	w.check(w.daemon.Wait())
	between()
	w.run()
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// on runs a shell command on the host, beside runs one in the neighbours' root.
func (w *world) on(script string) string {
	w.t.Helper()
	out, err := w.host.Run(context.Background(), "sh", "-c", script)
	w.check(err)
	return out
}

func (w *world) beside(script string) string {
	w.t.Helper()
	out, err := w.host.Run(context.Background(), "chroot", "/run/nb/root", "sh", "-c", script)
	w.check(err)
	return out
}

// start runs a program of the neighbours' root until stop, or the test, ends it.
func (w *world) start(script string) (stop func()) {
	w.t.Helper()
	cmd := w.host.Command(context.Background(), "chroot", "/run/nb/root", "sh", "-c", "exec "+script)
	w.check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	gone := false
	w.t.Cleanup(func() {
		if !gone {
			_ = cmd.Process.Kill()
		}
	})
	return func() {
		w.t.Helper()
		gone = true
		w.check(cmd.Process.Signal(os.Interrupt))
		select {
		case <-ended:
		case <-time.After(limit):
			w.t.Fatalf("%s does not end", script)
		}
	}
}

// until waits for something to become true.
func (w *world) until(what string, try func() error) {
	w.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	err := errors.New("never tried")
	for end := time.Now().Add(limit); time.Now().Before(end); <-tick.C {
		if err = try(); err == nil {
			return
		}
	}
	w.t.Fatalf("%s: not within %s: %v", what, limit, err)
}
