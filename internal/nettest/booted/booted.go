// Package booted boots whole hosts under systemd in containers, each on a network
// of its own.
//
// It owns the container: its root over one that nobody changes, its control groups,
// how it is turned on and off, and commands on it. It does not know what the host is
// for, nor who configures its network; a nettest.Node is where that is.
//
// Start reading at New, then Boot.
package booted

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/nettest"
)

// Host is a whole host, which is off at first.
type Host struct {
	// Dir has what the host writes, kept over reboots; Deb is in it, a folder that the
	// host sees as /deb.
	Dir, Deb string
	// Src is the project, seen as /src.
	Src string

	base   string // the root that nobody changes
	nspawn *exec.Cmd
	leader int // the host's process 1, as seen from outside
	boots  int
	groups []string
}

// Root has a script of the project's make a root, or find it, and returns its path.
func Root(src, script string, args ...string) (string, error) {
	base, err := nettest.Fetch(func() *exec.Cmd { return exec.Command(filepath.Join(src, script), args...) })
	if err != nil {
		return "", fmt.Errorf("make the root of a host: %w", err)
	}
	return strings.TrimSpace(string(base)), nil
}

// New prepares a host whose root is base, with all that it writes in dir, which is
// empty and not below /tmp: that may be a file system that an overlay cannot lie on.
func New(src, base, dir string) (*Host, error) {
	h := &Host{Dir: dir, Deb: filepath.Join(dir, "deb"), Src: src, base: base}
	for _, name := range []string{"upper", "work", "root", "deb"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Upper is where a host that is off has a file that is laid over its root.
func (h *Host) Upper(name string) string { return filepath.Join(h.Dir, "upper", name) }

// Write puts a file on a host that is off. Connections of NetworkManager's and
// netplan's may have keys in them: only root reads those.
func (h *Host) Write(name, content string) error {
	if err := os.MkdirAll(filepath.Dir(h.Upper(name)), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if strings.HasSuffix(name, ".nmconnection") || strings.HasSuffix(name, ".yaml") {
		mode = 0o600
	}
	return os.WriteFile(h.Upper(name), []byte(content), mode)
}

// Enable has services started at boot.
func (h *Host) Enable(services ...string) error {
	const wants = "/etc/systemd/system/multi-user.target.wants/"
	if err := os.MkdirAll(h.Upper(wants), 0o755); err != nil {
		return err
	}
	for _, s := range services {
		if err := os.Symlink("/lib/systemd/system/"+s+".service", h.Upper(wants+s+".service")); err != nil {
			return err
		}
	}
	return nil
}

// makeGroups makes control groups of the host's own, so that hosts can stand side by
// side and leave nothing: in the hierarchies that systemd uses, version 1 or 2.
func (h *Host) makeGroups() (groups []string, err error) {
	h.dropGroups()
	for _, top := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(top, "cgroup.procs")); err != nil {
			continue
		}
		dir := filepath.Join(top, fmt.Sprintf("drawbridge-%d-%s-%d", os.Getpid(), filepath.Base(h.Dir), h.boots))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		groups, h.groups = append(groups, dir), append(h.groups, dir)
	}
	return groups, nil
}

// dropGroups removes them, deepest first. They are empty when the host is off; after a
// power cut its processes may take a moment to be gone, and the next call does it.
func (h *Host) dropGroups() {
	h.groups = slices.DeleteFunc(h.groups, func(top string) bool {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		var err error
		for i := len(dirs) - 1; i >= 0; i-- {
			err = os.Remove(dirs[i])
		}
		return err == nil || errors.Is(err, fs.ErrNotExist)
	})
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

// Boot starts the host on the network of a node and waits until systemd says that all
// is up. It returns how long that took.
func (h *Host) Boot(node *nettest.Node) (time.Duration, error) {
	h.boots++
	notify := filepath.Join(h.Dir, "notify")
	if err := os.Remove(notify); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		return 0, err
	}
	defer told.Close()
	groups, err := h.makeGroups()
	if err != nil {
		return 0, err
	}
	args := []string{"--mount", "--propagation", "private", "sh", "-c", bootScript, "boot",
		h.Dir, h.base, fmt.Sprintf("/proc/%d/ns/net", node.PID()), h.Src}
	h.nspawn = exec.Command("unshare", append(args, groups...)...)
	h.nspawn.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	h.nspawn.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	console, err := os.Create(filepath.Join(h.Dir, "console"))
	if err != nil {
		return 0, err
	}
	defer console.Close()
	h.nspawn.Stdout, h.nspawn.Stderr = console, console
	began := time.Now()
	if err := h.nspawn.Start(); err != nil {
		h.nspawn = nil
		return 0, err
	}
	if err := h.waitReady(told, began.Add(bootLimit)); err != nil {
		out, _ := os.ReadFile(console.Name())
		return 0, fmt.Errorf("boot: %w\n%s", err, out)
	}
	return time.Since(began), nil
}

// waitReady follows what nspawn tells (sd_notify(3)): first its child, then that
// the host has booted.
func (h *Host) waitReady(told *net.UnixConn, deadline time.Time) error {
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

// Running says whether the host is on, or being booted.
func (h *Host) Running() bool { return h.nspawn != nil }

// Path is where a file of a host that is on is seen from outside.
func (h *Host) Path(name string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", h.leader), name)
}

// Off shuts the host down in order; what it wrote is kept. A host that is off stays so.
func (h *Host) Off() error {
	if h.nspawn == nil {
		h.dropGroups()
		return nil
	}
	ended := make(chan struct{})
	go func(cmd *exec.Cmd) { _ = cmd.Wait(); close(ended) }(h.nspawn)
	_ = h.nspawn.Process.Signal(unix.SIGTERM) // it may be gone already
	var err error
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		err = errors.New("the host does not shut down")
		_ = h.nspawn.Process.Kill()
		<-ended
	}
	h.nspawn, h.leader = nil, 0
	h.dropGroups()
	return err
}

// Cut takes the power away.
func (h *Host) Cut() {
	// The host's process 1 ends with nspawn (PR_SET_PDEATHSIG), and with it all.
	_ = h.nspawn.Process.Kill()
	_ = h.nspawn.Wait() // killed
	h.nspawn, h.leader = nil, 0
	h.dropGroups()
}

// Command is a command that will run on the host.
func (h *Host) Command(name string, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(h.leader), "--all", "--",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive", name}
	cmd := exec.Command("nsenter", append(enter, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Try runs a command on the host and returns all that it said.
func (h *Host) Try(name string, args ...string) (string, error) {
	out, err := h.Command(name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}
