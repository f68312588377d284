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

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"drawbridge/internal/guard"
	"drawbridge/internal/hostconf"
	"drawbridge/internal/store"
	"drawbridge/internal/txn"
)

// guardCommand is the process that takes a change back if the daemon cannot.
// The daemon or its unit starts it.
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
	return c
}

func runGuard(ctx context.Context, s settings, id string, log *slog.Logger) error {
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
		Ready: func() {
			if _, err := daemon.SdNotify(true, daemon.SdNotifyReady); err != nil {
				log.Warn("service manager was not told", "err", err)
			}
		},
	}
	return p.Run(ctx)
}

// guards starts guards by their unit where there is one, else as processes that
// go on when the daemon, its session or its terminal ends.
func guards(s settings, log *slog.Logger) *guard.Guards {
	return guard.New(s.runDir, func(ctx context.Context, id string) error {
		if s.guardUnit != "" {
			return hostconf.StartUnit(ctx, strings.Replace(s.guardUnit, "@.", "@"+id+".", 1))
		}
		program, err := os.Executable()
		if err != nil {
			return err
		}
		cmd := exec.Command(program, "guard", id, "--run-dir", s.runDir, "--state-dir", s.stateDir)
		cmd.Stdout, cmd.Stderr, cmd.Dir = os.Stderr, os.Stderr, "/"
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		go func() {
			if err := cmd.Wait(); err != nil {
				log.Warn("guard ended", "id", id, "err", err)
			}
		}()
		return nil
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
