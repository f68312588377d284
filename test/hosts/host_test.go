package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/nettest"
)

// The host's own address; nettest.HostA is not used here, its namespace would
// outlive a reboot.
const hostAddr = "192.168.99.67"

// need ends the test unless whole hosts are wanted and possible.
func need(t *testing.T) {
	t.Helper()
	if os.Getenv("DRAWBRIDGE_HOSTS") == "" {
		t.Skip("whole hosts are booted by: make test-hosts")
	}
	nettest.Need(t, nettest.Root, nettest.Tun, "debootstrap", "systemd-nspawn", "make", "dpkg-deb", "ip", "nsenter", "unshare", "busybox")
}

// tree is the project's folder.
func tree(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// whole is a host under systemd: a container with a root, a network namespace
// and processes of its own, in a LAN with a router.
type whole struct {
	lan  *nettest.LAN
	base string // the root that nobody changes
	dir  string // what this host has written, kept over reboots
	deb  string // a folder that the host sees as /deb
	src  string // the project, seen as /src

	node   *nettest.Node // this boot's network
	cable  string        // the port of the LAN's switch that the host is plugged into
	nspawn *exec.Cmd
	leader int // the host's process 1, as seen from outside
	boots  int
}

// newWhole prepares a host that is off.
func newWhole(t *testing.T) *whole {
	t.Helper()
	src := tree(t)
	made := exec.Command(filepath.Join(src, "scripts/host-root"))
	made.Stderr = os.Stderr
	base, err := made.Output()
	if err != nil {
		t.Fatalf("make the root of a host: %v", err)
	}
	h := &whole{base: strings.TrimSpace(string(base)), src: src}
	// Not below /tmp, which may be a file system that an overlay cannot lie on.
	if h.dir, err = os.MkdirTemp(filepath.Dir(h.base), "host-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(h.dir) })
	h.deb = filepath.Join(h.dir, "deb")
	for _, name := range []string{"upper", "work", "root", "deb"} {
		if err := os.Mkdir(filepath.Join(h.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if h.lan, err = nettest.NewLAN(t.Context(), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.lan.Close() })
	t.Cleanup(func() {
		if t.Failed() && h.leader != 0 {
			out, _ := h.try("journalctl", "--no-pager", "-b", "-u", "drawbridge", "-u", "drawbridge-guests", "-u", "systemd-resolved", "-n", "80")
			t.Logf("journal:\n%s", out)
		}
		h.off(t)
	})
	// LLMNR waits seconds for a name of one word that nobody has.
	for name, content := range map[string]string{
		"hostname":                         "host\n",
		"systemd/resolved.conf.d/lan.conf": "[Resolve]\nLLMNR=no\nDNS=" + nettest.Router4 + "\n",
	} {
		path := filepath.Join(h.dir, "upper/etc", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// cgroups makes control groups of the host's own, so that hosts can stand side by
// side and leave nothing: in the hierarchies that systemd uses, version 1 or 2.
func (h *whole) cgroups(t *testing.T) []string {
	t.Helper()
	var made []string
	for _, top := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(top, "cgroup.procs")); err != nil {
			continue
		}
		dir := filepath.Join(top, fmt.Sprintf("drawbridge-%s-%d", filepath.Base(h.dir), h.boots))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		made = append(made, dir)
		t.Cleanup(func() {
			// Deepest first; they are empty when the host is off.
			var dirs []string
			_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for i := len(dirs) - 1; i >= 0; i-- {
				_ = os.Remove(dirs[i])
			}
		})
	}
	return made
}

// bootScript runs in mounts of its own. $1 is the folder of the host, $2 the root
// below, $3 the network namespace, $4 the project; then come the control groups.
const bootScript = `set -e
dir=$1 base=$2 net=$3 src=$4
shift 4
for group; do echo $$ >"$group/cgroup.procs"; done
mount -t overlay overlay -o "lowerdir=$base,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
exec systemd-nspawn --quiet --boot --register=no --keep-unit --notify-ready=yes --console=read-only --capability=CAP_NET_ADMIN,CAP_BPF --system-call-filter=bpf \
	--network-namespace-path="$net" --resolv-conf=off --timezone=off --link-journal=no --hostname=host \
	--bind=/dev/net/tun --property=DeviceAllow="/dev/net/tun rw" \
	--bind-ro="$dir/deb:/deb" --bind-ro="$src:/src" -D "$dir/root"
`

// bootLimit is many times what a boot takes.
const bootLimit = time.Minute

// boot starts the host with a fresh network and waits until systemd says that
// all is up. It returns how long that took.
func (h *whole) boot(t *testing.T) time.Duration {
	t.Helper()
	ctx := context.Background()
	h.boots++
	var err error
	if h.node, err = nettest.NewNode(ctx, "whole-host", ""); err != nil {
		t.Fatal(err)
	}
	h.cable = fmt.Sprintf("p-whole%d", h.boots)
	if err := h.lan.Switch.IP(ctx,
		fmt.Sprintf("link add %s type veth peer name eth0 netns %d", h.cable, h.node.PID()),
		fmt.Sprintf("link set %s master lan0 up", h.cable)); err != nil {
		t.Fatal(err)
	}
	if err := h.node.IP(ctx, "link set eth0 up", "addr add "+hostAddr+"/24 dev eth0", "route add default via "+nettest.Router4); err != nil {
		t.Fatal(err)
	}
	notify := filepath.Join(h.dir, "notify")
	os.Remove(notify)
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	args := []string{"--mount", "--propagation", "private", "sh", "-c", bootScript, "boot",
		h.dir, h.base, fmt.Sprintf("/proc/%d/ns/net", h.node.PID()), h.src}
	h.nspawn = exec.Command("unshare", append(args, h.cgroups(t)...)...)
	h.nspawn.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	h.nspawn.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	console, err := os.Create(filepath.Join(h.dir, "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	h.nspawn.Stdout, h.nspawn.Stderr = console, console
	began := time.Now()
	if err := h.nspawn.Start(); err != nil {
		t.Fatal(err)
	}
	if err := h.waitReady(told, began.Add(bootLimit)); err != nil {
		out, _ := os.ReadFile(console.Name())
		t.Fatalf("boot: %v\n%s", err, out)
	}
	return time.Since(began)
}

// waitReady follows what nspawn tells (sd_notify(3)): first its child, then that
// the host has booted.
func (h *whole) waitReady(told *net.UnixConn, deadline time.Time) error {
	buf := make([]byte, 4096)
	if err := told.SetReadDeadline(deadline); err != nil {
		return err
	}
	for {
		n, err := told.Read(buf)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(buf[:n])) {
			line = strings.TrimSpace(line)
			if pid, ok := strings.CutPrefix(line, "X_NSPAWN_LEADER_PID="); ok {
				if h.leader, err = strconv.Atoi(pid); err != nil {
					return err
				}
			}
			if line == "READY=1" {
				return nil
			}
		}
	}
}

// off shuts the host down in order; what it wrote is kept.
func (h *whole) off(t *testing.T) {
	t.Helper()
	if h.nspawn == nil {
		return
	}
	ended := make(chan error, 1)
	go func(cmd *exec.Cmd) { ended <- cmd.Wait() }(h.nspawn)
	_ = h.nspawn.Process.Signal(unix.SIGTERM) // it may be gone already
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("the host does not shut down")
		_ = h.nspawn.Process.Kill()
		<-ended
	}
	h.nspawn, h.leader = nil, 0
	h.unplug(t)
}

// unplug takes a host that is off from the LAN. The kernel ends its network at its
// leisure: an old boot's NIC would go on to answer for a second beside the new
// one, with the same addresses, and the switch would not know whom to believe.
func (h *whole) unplug(t *testing.T) {
	t.Helper()
	if err := errors.Join(h.lan.Switch.IP(context.Background(), "link del "+h.cable), h.node.Close()); err != nil {
		t.Error(err)
	}
}

// cut takes the power away.
func (h *whole) cut(t *testing.T) {
	t.Helper()
	// The host's process 1 ends with nspawn (PR_SET_PDEATHSIG), and with it all.
	_ = h.nspawn.Process.Kill()
	_ = h.nspawn.Wait() // killed
	h.nspawn, h.leader = nil, 0
	h.unplug(t)
}

// command is a command that will run on the host.
func (h *whole) command(name string, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(h.leader), "--all", "--",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive", name}
	cmd := exec.Command("nsenter", append(enter, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// try runs a command on the host and returns all that it said.
func (h *whole) try(name string, args ...string) (string, error) {
	out, err := h.command(name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// run is try for what must succeed.
func (h *whole) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := h.try(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// sh runs a shell script on the host.
func (h *whole) sh(t *testing.T, script string) string {
	t.Helper()
	return h.run(t, "sh", "-ec", script)
}

// property reads one property of a unit.
func (h *whole) property(t *testing.T, unit, name string) string {
	t.Helper()
	return strings.TrimSpace(h.run(t, "systemctl", "show", "--value", "-p", name, unit))
}

// within repeats a look until it finds no fault, and says how long that took.
func within(t *testing.T, limit time.Duration, look func() error) time.Duration {
	t.Helper()
	began := time.Now()
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for {
		err := look()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %v", limit, err)
		}
		<-ticks.C
	}
}

// says is a look that wants a command's output to have all words.
func (h *whole) says(words []string, name string, args ...string) func() error {
	return func() error {
		out, err := h.try(name, args...)
		if err != nil {
			return err
		}
		for _, w := range words {
			if !strings.Contains(out, w) {
				return fmt.Errorf("%s %s does not say %q:\n%s", name, strings.Join(args, " "), w, out)
			}
		}
		return nil
	}
}

// fails is a look that wants a command to fail.
func (h *whole) fails(name string, args ...string) func() error {
	return func() error {
		if out, err := h.try(name, args...); err == nil {
			return errors.New(name + " " + strings.Join(args, " ") + " succeeds: " + out)
		}
		return nil
	}
}
