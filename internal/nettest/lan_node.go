package nettest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Node is a machine of its own made of namespaces: network, mounts (its own /sys, /run and
// /etc/resolv.conf), host name. Nothing of it has a name on the machine below, so it is gone when
// its last process is, however the test ends.
type Node struct {
	Name string

	pid    int // of the process that holds the namespaces
	holder *exec.Cmd
	in     io.WriteCloser // closing it ends the holder
	ns     *os.File       // the network namespace
}

// holdScript makes a node's mounts, then holds its namespaces until standard input closes, which
// the kernel does when the test dies. $1 is the host name, $2 the content of resolv.conf.
const holdScript = `set -e
mount --make-rprivate /
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock
printf '%s' "$2" >/run/node.resolv.conf
resolv=$(readlink -m /etc/resolv.conf)
# A link into /run, as systemd-resolved makes it, leads to nothing now.
case $resolv in /run/*) mkdir -p "${resolv%/*}"; touch "$resolv" ;; esac
mount --bind /run/node.resolv.conf "$resolv"
hostname "$1"
ip link set lo up
echo ready
exec cat
`

// NewNode makes a node with nothing but a loopback link. It needs root. Close it.
func NewNode(ctx context.Context, name, resolvConf string) (*Node, error) {
	n := &Node{Name: name}
	// Not bound to ctx: a node lives until it is closed.
	n.holder = exec.Command("sh", "-c", holdScript, "hold-"+name, name, resolvConf)
	n.holder.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
		// Ctrl-C is for the test, which then closes its nodes in order.
		Setpgid: true,
	}
	var complaints bytes.Buffer
	n.holder.Stderr = &complaints
	in, err := n.holder.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make node %s: %w", name, err)
	}
	out, err := n.holder.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("make node %s: %w", name, err)
	}
	if err := n.holder.Start(); err != nil {
		return nil, fmt.Errorf("make node %s (needs root): %w", name, err)
	}
	n.in, n.pid = in, n.holder.Process.Pid
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		in.Close()
		err = errors.Join(err, n.holder.Wait())
		return nil, fmt.Errorf("make node %s: %w: %s", name, err, strings.TrimSpace(complaints.String()))
	}
	if n.ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", n.pid)); err != nil {
		return nil, errors.Join(fmt.Errorf("make node %s: %w", name, err), n.Close())
	}
	return n, nil
}

// PID is the process that holds the node's namespaces; `nsenter --target PID --net --mount` joins them.
func (n *Node) PID() int { return n.pid }

// Command is a command that will run on the node, in its root folder, and die with this process.
// The process started *is* the command, so signals and exit code are its own.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(n.pid), "--net", "--mount", "--uts", "--ipc", "--", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Run runs a command on the node and returns its standard output; what it said on standard error
// is in the error.
func (n *Node) Run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := n.Command(ctx, name, args...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %s %s: %w: %s", n.Name, name, strings.Join(args, " "), err,
			strings.TrimSpace(complaints.String()+out.String()))
	}
	return out.String(), nil
}

// IP carries out lines as `ip -batch` takes them.
func (n *Node) IP(ctx context.Context, lines ...string) error {
	cmd := n.Command(ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: ip: %w: %s", n.Name, err, strings.TrimSpace(complaints.String()))
	}
	return nil
}

// Do runs fn in the node's network namespace (of the namespaces, only that one). Sockets opened by
// fn stay there; goroutines started by fn do not run there.
func (n *Node) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer back.Close()
		if err := unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		err = fn()
		if undo := unix.Setns(int(back.Fd()), unix.CLONE_NEWNET); undo != nil {
			done <- errors.Join(err, undo)
			// The thread is in the wrong namespace, so nobody else may use it; and it must not
			// end either, because processes started by it with Pdeathsig would be killed.
			select {}
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	return nil
}

// Close ends every process that still runs on the node, and with them the node.
func (n *Node) Close() error {
	var err error
	if n.ns != nil {
		err = n.killAll()
		n.ns.Close()
	}
	n.in.Close()
	// It was killed or its input closed: how it ended says nothing.
	_ = n.holder.Wait()
	if err != nil {
		return fmt.Errorf("close node %s: %w", n.Name, err)
	}
	return nil
}

// closeLimit bounds how long a killed process may take to be gone.
const closeLimit = 5 * time.Second

// killAll ends the node's processes, daemons that left their parents included, and waits for them.
func (n *Node) killAll() error {
	var mine unix.Stat_t
	if err := unix.Fstat(int(n.ns.Fd()), &mine); err != nil {
		return err
	}
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		var st unix.Stat_t
		// Processes come and go: one that cannot be looked at is gone.
		if unix.Stat(link, &st) != nil || st.Ino != mine.Ino || st.Dev != mine.Dev {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil || pid == n.pid || pid == os.Getpid() {
			continue
		}
		errs = append(errs, killAndWait(pid))
	}
	return errors.Join(errs...)
}

// killAndWait ends any process, not only a child, and returns when it is gone.
func killAndWait(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	deadline := time.Now().Add(closeLimit)
	for {
		// The descriptor becomes readable when the process has ended, reaped or not.
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait for process %d: %w", pid, err)
		case ready == 0:
			return fmt.Errorf("wait for process %d: %w", pid, os.ErrDeadlineExceeded)
		}
		return nil
	}
}
