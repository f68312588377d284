package neighbours

import (
	"context"
	"errors"
	"fmt"
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

var program, root string

func TestMain(m *testing.M) {
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
}

// neighboursRoot makes the other programs' root once.
func neighboursRoot(t *testing.T) string {
	t.Helper()
	if root != "" {
		return root
	}
	cmd := exec.Command("../../scripts/neighbours-root")
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("make the root of the neighbours: %v\n%s", err, complaints.String())
	}
	root = strings.TrimSpace(string(out))
	return root
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getenv("DRAWBRIDGE_HOSTS") == "" {
		t.Skip("other programs' root takes minutes to make: run by make test-hosts")
	}
	nettest.Need(t, nettest.Root, "ip", "nft", "iptables", "busybox", "chroot", "debootstrap")
	lower := neighboursRoot(t)
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

// begin starts the daemon, the network and the guests.
func (w *world) begin() {
	ctx := context.Background()
	log, err := os.Create(filepath.Join(w.work, "daemon.log"))
	w.check(err)
	w.t.Cleanup(func() {
		log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && w.t.Failed() {
			w.t.Logf("daemon:\n%s", text)
		}
	})
	d := w.host.Command(ctx, program, "daemon", "--state-dir", filepath.Join(w.work, "state"))
	d.Stdout, d.Stderr = log, log
	w.check(d.Start())
	w.t.Cleanup(func() { _ = d.Process.Kill(); _ = d.Wait() })
	w.until("the daemon answers", func() error { _, err := w.host.Run(ctx, program, "status"); return err })
	w.on(program + " network create default --subnet 192.168.122.0/24 --ipv6 off")
	for name, g := range map[string]*nettest.Node{"tap1": w.guest, "tap2": w.new} {
		w.check(w.host.IP(ctx, fmt.Sprintf("link add %s type veth peer name eth0 netns %d", name, g.PID()), "link set "+name+" master virbr0 up"))
		w.check(g.IP(ctx, "link set eth0 up"))
	}
	w.check(w.guest.IP(ctx, "addr add 192.168.122.9/24 dev eth0", "route add default via 192.168.122.1"))
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
