package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/api"
	"drawbridge/internal/nettest"
)

// Host is one side: a machine of namespaces with a daemon, and the command that talks to it.
type Host struct {
	node   *nettest.Node
	dir    string // its state, on the disk
	start  func(context.Context) *exec.Cmd
	daemon *exec.Cmd
	tool   string // drawbridge or virsh
	flags  []string
	ready  []string // arguments of tool that succeed once the daemon is ready
	log    string

	// ours only
	socket string
	client *api.Client
}

const resolvConf = "nameserver " + upstreamAddr + "\n"

// newOurs makes a host on which drawbridge runs, its daemon with these flags.
func newOurs(ctx context.Context, b *Bench, name string, flags ...string) (*Host, error) {
	h := &Host{dir: filepath.Join(b.scratch, name), tool: b.binary, ready: []string{"status"}}
	h.socket = filepath.Join(h.dir, "run", "drawbridge.sock")
	h.flags = []string{"--socket", h.socket}
	h.client = api.Dial(h.socket)
	h.start = func(ctx context.Context) *exec.Cmd {
		args := []string{"daemon", "--state-dir", filepath.Join(h.dir, "state"), "--run-dir", filepath.Join(h.dir, "run")}
		return h.node.Command(ctx, b.binary, append(args, flags...)...)
	}
	// The run directory is on a tmpfs, as /run is.
	if err := os.MkdirAll(filepath.Join(h.dir, "run"), 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", filepath.Join(h.dir, "run"), "tmpfs", 0, "mode=0755"); err != nil {
		return nil, fmt.Errorf("make a run directory: %w", err)
	}
	return h, h.boot(ctx, name, "")
}

// libvirtMounts gives the node a Debian host's libvirt directories of its own, and the users that
// the package libvirt-daemon-system makes. $1 is a directory; $2, if there, the iptables to use.
const libvirtMounts = `set -e
cd "$1"
mkdir -p lib/libvirt cache log etc sock
{ cat /etc/passwd; echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin'
  echo 'libvirt-dnsmasq:x:64054:64054::/var/lib/libvirt/dnsmasq:/usr/sbin/nologin'; } >passwd
{ cat /etc/group; echo 'libvirt-qemu:x:64055:'; echo 'libvirt-dnsmasq:x:64054:'; getent group kvm >/dev/null || echo 'kvm:x:64109:'; } >group
mount --bind passwd /etc/passwd
mount --bind group /etc/group
mount --bind lib /var/lib
mount --bind cache /var/cache
mount --bind log /var/log
mount --bind etc /etc/libvirt
[ -z "$2" ] || mount --bind "$2" "$(readlink -f /usr/sbin/iptables)"
`

// newPeer makes a host on which Debian's libvirtd runs, as its package sets it up. iptables is the
// program to use in place of the default, or "".
func newPeer(ctx context.Context, b *Bench, name, iptables string) (*Host, error) {
	h := &Host{dir: filepath.Join(b.scratch, name), tool: "virsh", ready: []string{"net-list"}}
	socket := filepath.Join(h.dir, "sock")
	h.flags = []string{"-q", "-c", "qemu+unix:///system?socket=" + filepath.Join(socket, "libvirt-sock")}
	conf := filepath.Join(h.dir, "libvirtd.conf")
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("unix_sock_dir = %q\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n", socket)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	h.start = func(ctx context.Context) *exec.Cmd { return h.node.Command(ctx, "libvirtd", "-f", conf) }
	return h, h.boot(ctx, name, libvirtMounts, h.dir, iptables)
}

func (h *Host) boot(ctx context.Context, name, script string, args ...string) error {
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return err
	}
	h.log = filepath.Join(h.dir, "daemon.log")
	var err error
	if h.node, err = nettest.NewNode(ctx, name, resolvConf); err != nil {
		return err
	}
	// Both sides see an uplink: what goes nowhere is still routed somewhere.
	err = h.node.IP(ctx, "addr add "+upstreamAddr+"/32 dev lo", "link add enp6s18 type veth peer name lan0",
		"addr add 192.168.99.66/24 dev enp6s18", "link set lan0 up", "link set enp6s18 up", "route add default via 192.168.99.1")
	if err == nil && script != "" {
		_, err = h.node.Run(ctx, "sh", append([]string{"-c", script, "mounts"}, args...)...)
	}
	if err == nil {
		_, err = h.startDaemon(ctx)
	}
	if err != nil {
		return errors.Join(err, h.Close())
	}
	return nil
}

// startDaemon starts the daemon and returns how long it took until the first command succeeded.
func (h *Host) startDaemon(ctx context.Context) (time.Duration, error) {
	log, err := os.OpenFile(h.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	h.daemon = h.start(ctx)
	h.daemon.Stdout, h.daemon.Stderr = log, log
	began := time.Now()
	if err := h.daemon.Start(); err != nil {
		return 0, err
	}
	for {
		_, err := h.run(ctx, h.ready...)
		if err == nil {
			return time.Since(began), nil
		}
		if time.Since(began) > 60*time.Second || ctx.Err() != nil {
			text, _ := os.ReadFile(h.log) // the first error says more
			return 0, fmt.Errorf("wait for %s: %w\n%s", h.node.Name, err, text)
		}
	}
}

// stopDaemon ends the daemon alone; what it made stays.
func (h *Host) stopDaemon(sig os.Signal) error {
	if err := h.daemon.Process.Signal(sig); err != nil {
		return err
	}
	_ = h.daemon.Wait() // how a killed daemon ended says nothing
	return nil
}

// run runs a command of the tool, whole, and returns how long it took. The command runs outside the
// host's namespaces; it only talks to the socket.
func (h *Host) run(ctx context.Context, args ...string) (time.Duration, error) {
	return h.feed(ctx, "", args...)
}

// feed is run with something on standard input.
func (h *Host) feed(ctx context.Context, input string, args ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, h.tool, append(h.flags[:len(h.flags):len(h.flags)], args...)...)
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err != nil {
		return took, fmt.Errorf("%s %s: %w: %s", filepath.Base(h.tool), strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return took, nil
}

// settle is how long after a host is gone the kernel may still take its links down.
const settle = 2 * time.Second

// Close ends the host and everything on it.
func (h *Host) Close() error {
	if h.client != nil {
		h.client.Close()
	}
	if h.node == nil {
		return nil
	}
	err := h.node.Close()
	if h.daemon != nil && h.daemon.Process != nil {
		_ = h.daemon.Wait()
	}
	h.node = nil
	time.Sleep(settle)
	return err
}

// network is a NAT network's definition for libvirt, number i, with its own bridge and subnet.
func libvirtNetwork(i int) string {
	return fmt.Sprintf(`<network><name>n%d</name><forward mode='nat'/><bridge name='virbr%d' stp='on' delay='0'/>
<ip address='10.80.%d.1' netmask='255.255.255.0'><dhcp><range start='10.80.%d.2' end='10.80.%d.254'/></dhcp></ip></network>`, i, i, i, i, i)
}

// define makes n networks known to the peer.
func (h *Host) define(ctx context.Context, n int) error {
	var lines strings.Builder
	for i := range n {
		path := filepath.Join(h.dir, fmt.Sprintf("n%d.xml", i))
		if err := os.WriteFile(path, []byte(libvirtNetwork(i)), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&lines, "net-define %s\n", path)
	}
	_, err := h.feed(ctx, lines.String())
	return err
}

// document is the same for ours.
func document(n int) string {
	var b strings.Builder
	b.WriteString("networks:\n")
	for i := range n {
		fmt.Fprintf(&b, "- name: n%d\n  mode: nat\n  bridge: virbr%d\n  subnets: [10.80.%d.0/24]\n", i, i, i)
	}
	return b.String()
}

// memory sums what the processes of a host hold, without the one that holds its namespaces: the
// proportional set size, in which shared pages are shared, and the resident set size.
func (h *Host) memory() (pss, rss float64, processes int, err error) {
	var mine unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", h.node.PID()), &mine); err != nil {
		return 0, 0, 0, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, 0, 0, err
	}
	for _, dir := range dirs {
		var st unix.Stat_t
		if filepath.Base(dir) == strconv.Itoa(h.node.PID()) || unix.Stat(dir+"/ns/net", &st) != nil || st.Ino != mine.Ino {
			continue
		}
		text, err := os.ReadFile(dir + "/smaps_rollup")
		if err != nil || len(text) == 0 {
			continue // gone meanwhile
		}
		processes++
		for line := range strings.Lines(string(text)) {
			var kb float64
			if n, _ := fmt.Sscanf(line, "Pss: %f kB", &kb); n == 1 {
				pss += kb / 1024
			} else if n, _ := fmt.Sscanf(line, "Rss: %f kB", &kb); n == 1 {
				rss += kb / 1024
			}
		}
	}
	if processes == 0 || pss == 0 {
		return 0, 0, 0, fmt.Errorf("read memory of %s: no process there", h.node.Name)
	}
	return pss, rss, processes, nil
}

// newGuest makes a guest of namespaces: eth0, plugged into a bridge of a host by a veth, with an
// address and a default route.
func newGuest(ctx context.Context, h *Host, bridge, cidr, gateway string) (*nettest.Node, error) {
	g, err := nettest.NewNode(ctx, "guest-"+h.node.Name, "")
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		h.node.IP(ctx, fmt.Sprintf("link add vguest type veth peer name eth0 netns %d", g.PID()), "link set vguest master "+bridge, "link set vguest up"),
		g.IP(ctx, "link set eth0 up", "addr add "+cidr+" dev eth0", "route add default via "+gateway))
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}
