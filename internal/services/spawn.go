package services

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Command is how to run the process by hand where no service manager does.
type Command struct {
	// Program is the path of this binary.
	Program string
	// Socket is the control socket, StateDir where leases are kept.
	Socket, StateDir string
	// UID and GID are what the process becomes.
	UID, GID int
	// Log is where the process writes its log.
	Log *os.File
}

// The descriptors that the process is started with.
const (
	fdListener = 3
	fdStateDir = 4
)

// Spawn starts the process detached from the daemon, so that it goes on when
// the daemon ends. The control socket is open before the process runs: a
// connection made right after Spawn is answered as soon as it is up.
func (c Command) Spawn(context.Context) error {
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return err
	}
	if os.Getuid() == 0 {
		if err := chownAll(c.StateDir, c.UID, c.GID); err != nil {
			return err
		}
	}
	ln, err := listen(c.Socket)
	if err != nil {
		return err
	}
	defer ln.Close()
	dir, err := os.Open(c.StateDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	cmd := exec.Command(c.Program, "serve-guests", "--inherit", "--uid", strconv.Itoa(c.UID), "--gid", strconv.Itoa(c.GID))
	cmd.ExtraFiles = []*os.File{ln, dir}
	cmd.Stdout, cmd.Stderr = c.Log, c.Log
	cmd.Dir = "/"
	// What the service manager told the daemon is not for its child: a READY=1
	// of the child would count as the daemon's (sd_notify(3)).
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // reaped; its end is seen on the control socket
	return nil
}

func listen(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	ln.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	return ln.File()
}

// chownAll gives the directory and the files right in it to the process.
func chownAll(dir string, uid, gid int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if err := os.Lchown(dir, uid, gid); err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Lchown(filepath.Join(dir, e.Name()), uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// Inherited returns what Spawn passed on: the listener and the state directory,
// by a path that works although the process may not walk there by itself.
func Inherited() (*net.UnixListener, string, error) {
	f := os.NewFile(fdListener, "control socket")
	ln, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return nil, "", fmt.Errorf("control socket: %w", err)
	}
	syscall.CloseOnExec(fdStateDir)
	unix, ok := ln.(*net.UnixListener)
	if !ok {
		return nil, "", fmt.Errorf("control socket: it is a %T", ln)
	}
	unix.SetUnlinkOnClose(false)
	return unix, fmt.Sprintf("/proc/self/fd/%d", fdStateDir), nil
}

// DropPrivileges makes the process an ordinary user without a way back: no
// capabilities, no supplementary groups, no gain by exec.
func DropPrivileges(uid, gid int) error {
	if err := noNewPrivileges(); err != nil {
		return fmt.Errorf("drop privileges: %w", err)
	}
	if os.Getuid() != 0 || uid == 0 {
		return nil
	}
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("drop privileges: setgroups: %w", err)
	}
	if err := syscall.Setgid(gid); err != nil {
		return fmt.Errorf("drop privileges: setgid: %w", err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return fmt.Errorf("drop privileges: setuid: %w", err)
	}
	return nil
}
