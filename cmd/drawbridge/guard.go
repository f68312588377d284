package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"drawbridge/internal/guard"
	"drawbridge/internal/hostconf"
	"drawbridge/internal/store"
	"drawbridge/internal/txn"
)

// guardCommand is the process that takes a change back if the daemon cannot.
// The daemon starts it.
func guardCommand() *cobra.Command {
	var s settings
	c := &cobra.Command{
		Use: "guard ID", Hidden: true, Args: cobra.ExactArgs(1),
		Short: "Take a change back if the daemon dies or hangs (started by the daemon)",
		RunE: func(c *cobra.Command, args []string) error {
			// Whatever ends the daemon, or the terminal, is not for the guard.
			signal.Ignore(unix.SIGINT, unix.SIGHUP)
			log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "guard")
			return runGuard(c.Context(), s, args[0], log)
		},
	}
	s.flags(c)
	c.Flags().StringVar(&s.guestsUnit, guestsUnitFlag, "", guestsUnitHelp)
	return c
}

func runGuard(ctx context.Context, s settings, id string, log *slog.Logger) error {
	if err := killedLast(lastOfAll); err != nil {
		log.Debug("may be killed for memory like others", "err", err)
	}
	d := &running{settings: s, log: log}
	defer d.close()
	if err := d.openHost(); err != nil {
		return err
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	p := guard.Process{
		RunDir: s.runDir, ID: id, Log: log,
		Runner: txn.Runner{Host: d.host, Log: log, Boottime: boottime, BootID: boot},
		Journal: func() (txn.Journal, func() error, error) {
			j, err := store.Open(s.stateDir)
			if err != nil {
				return nil, nil, err
			}
			return j, j.Close, nil
		},
	}
	return p.Run(ctx)
}

// guards starts guards as processes that go on when the daemon, its session, its
// terminal or its unit ends.
//
// A unit for them would say the same as the daemon's of what the process may do, and
// systemd would have to prepare all of it anew before the process runs, which takes as
// long as all else of a change. What the daemon may not do, its child may not either.
func guards(s settings, log *slog.Logger) *guard.Guards {
	return guard.New(s.runDir, func(ctx context.Context, id string) error {
		program, err := os.Executable()
		if err != nil {
			return err
		}
		cmd := exec.Command(program, "guard", id, "--run-dir", s.runDir, "--state-dir", s.stateDir, "--"+guestsUnitFlag, s.guestsUnit)
		cmd.Stdout, cmd.Stderr, cmd.Dir = os.Stderr, os.Stderr, "/"
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := cmd.Wait(); err != nil {
				log.Warn("guard ended", "id", id, "err", err)
			}
		}()
		if !s.guardScope {
			return nil
		}
		err = hostconf.StartScope(ctx, hostconf.Scope{
			// Another one for the same change may come before systemd has forgotten this.
			Name:        fmt.Sprintf("drawbridge-guard-%s-%d.scope", id, cmd.Process.Pid),
			Description: "Drawbridge guard of change " + id + ": takes it back if the daemon cannot",
			PID:         cmd.Process.Pid, Devices: []string{"/dev/net/tun"},
		})
		if err != nil {
			// It would end with the daemon, and must not be taken for one that stands.
			err = errors.Join(err, cmd.Process.Kill())
			<-ended
		}
		return err
	})
}

// bootCommand is the check before the host's network comes up.
func bootCommand() *cobra.Command {
	var s settings
	c := &cobra.Command{
		Use: "boot-check", Hidden: true, Args: cobra.NoArgs,
		Short: "End what an earlier boot left unfinished (started before the host's network)",
		RunE: func(c *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "boot-check")
			return runBootCheck(c.Context(), s, log)
		},
	}
	s.flags(c)
	return c
}

func runBootCheck(ctx context.Context, s settings, log *slog.Logger) error {
	if _, err := os.Stat(filepath.Join(s.stateDir, store.File)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.MkdirAll(s.runDir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	lock, err := guard.Wait(ctx, s.runDir, guard.Command)
	if err != nil {
		return err
	}
	defer lock.Release()
	d := &running{settings: s, log: log}
	defer d.close()
	if err := d.openHost(); err != nil {
		return err
	}
	if d.store, err = store.Open(s.stateDir); err != nil {
		return err
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	runner := txn.Runner{Host: d.host, Journal: d.store, Log: log, Boottime: boottime, BootID: boot}
	return runner.RecoverBoot(ctx)
}
