package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"drawbridge/internal/hostconf"
	"drawbridge/internal/linux"
	"drawbridge/internal/services"
)

// guestsCommand is the process that talks to guests: DHCP, DNS and router
// advertisements, without privileges. The daemon or its unit starts it.
func guestsCommand() *cobra.Command {
	var inherit bool
	var uid, gid int
	var socket, stateDir string
	c := &cobra.Command{
		Use: "serve-guests", Hidden: true, Args: cobra.NoArgs,
		Short: "Serve DHCP, DNS and router advertisements to guests (started by the daemon)",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), unix.SIGTERM)
			defer stop()
			signal.Ignore(unix.SIGINT, unix.SIGHUP)
			if err := services.DropPrivileges(uid, gid); err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "guests")
			ln, dir, err := controlSocket(inherit, socket, stateDir)
			if err != nil {
				return err
			}
			hostname, err := os.Hostname()
			if err != nil {
				return err
			}
			p, err := services.NewProcess(dir, hostname, log)
			if err != nil {
				return err
			}
			go giveBack(ctx, log)
			if _, err := daemon.SdNotify(true, daemon.SdNotifyReady); err != nil {
				log.Warn("service manager was not told", "err", err)
			}
			return p.Run(ctx, ln)
		},
	}
	f := c.Flags()
	f.BoolVar(&inherit, "inherit", false, "use the socket and the directory passed as descriptors 3 and 4")
	f.IntVar(&uid, "uid", os.Getuid(), "user id to become")
	f.IntVar(&gid, "gid", os.Getgid(), "group id to become")
	f.StringVar(&socket, "control", unitSocket, "control socket")
	f.StringVar(&stateDir, "state-dir", "/var/lib/drawbridge-guests", "where leases are kept")
	return c
}

func controlSocket(inherit bool, socket, stateDir string) (*net.UnixListener, string, error) {
	if inherit {
		return services.Inherited()
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return nil, "", fmt.Errorf("control socket: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, "", fmt.Errorf("control socket: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, "", fmt.Errorf("control socket: %w", err)
	}
	// The daemon may come without the right to override modes; who may talk is
	// decided by peer credentials.
	if err := os.Chmod(socket, 0o666); err != nil {
		ln.Close()
		return nil, "", fmt.Errorf("control socket: %w", err)
	}
	return ln, stateDir, nil
}

// unitSocket is where the guest services listen when systemd runs them; it is
// what packaging/drawbridge-guests.service says.
const unitSocket = "/run/drawbridge-guests/control.sock"

func guestServices(s settings, h *linux.Host, log *slog.Logger) (*services.Adapter, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	uid, gid := serviceUser()
	a := &services.Adapter{Socket: filepath.Join(s.runDir, "guests", "control.sock"), Opener: opener{h}, Log: log}
	a.Spawn = services.Command{
		Program: program, Socket: a.Socket, StateDir: filepath.Join(s.stateDir, "guests"), UID: uid, GID: gid, Log: os.Stderr,
	}.Spawn
	if s.guestsUnit != "" {
		a.Socket = unitSocket
		a.Spawn = func(ctx context.Context) error { return hostconf.StartUnit(ctx, s.guestsUnit) }
	}
	return a, nil
}

// serviceUser is the system user that the guest services become, or nobody
// where it is not installed.
func serviceUser() (uid, gid int) {
	const nobody = 65534
	u, err := user.Lookup("drawbridge-guests")
	if err != nil {
		return nobody, nobody
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err1 != nil || err2 != nil {
		return nobody, nobody
	}
	return uid, gid
}
