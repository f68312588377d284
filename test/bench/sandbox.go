package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	roleEnv    = "DRAWBRIDGE_BENCH_ROLE" // init or bench, inside; empty on the machine
	scratchEnv = "DRAWBRIDGE_BENCH_SCRATCH"
)

// sandbox runs this program again in a process, mount and network namespace of its own. When its
// first process ends, for whatever reason, the kernel kills all others, and every namespace, link
// and rule goes with them.
func sandbox(scratch string) (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleEnv+"=init", scratchEnv+"="+scratch)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // ^C comes through here, once
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("make namespaces for measuring: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s) // it may have ended just now
		case err := <-done:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return 0, fmt.Errorf("measure: %w", err)
			}
			if code := cmd.ProcessState.ExitCode(); code >= 0 {
				return code, nil
			}
			return 1, nil // by a signal
		}
	}
}

// beInit is the first process inside. It buries whoever is orphaned: libvirtd waits until a dnsmasq
// that it ended is really gone.
func beInit() int {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return complain(fmt.Errorf("keep mounts to ourselves: %w", err))
	}
	if err := mounts(os.Getenv(scratchEnv)); err != nil {
		return complain(err)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := os.Setenv(roleEnv, "bench"); err != nil {
		return complain(err)
	}
	bench, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return complain(err)
	}
	go func() {
		for s := range signals {
			_ = bench.Signal(s)
		}
	}()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return complain(fmt.Errorf("wait for the measurements: %w", err))
		case pid == bench.Pid && status.Exited():
			return status.ExitStatus()
		case pid == bench.Pid && status.Signaled():
			return 128 + int(status.Signal())
		}
	}
}

// mounts makes /proc and /sys those of the namespaces. The control groups are the machine's: a whole
// host under systemd stands on them.
func mounts(scratch string) error {
	const groups = "/sys/fs/cgroup"
	kept := filepath.Join(scratch, "cgroup")
	if err := os.Mkdir(kept, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(groups, kept, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep control groups: %w", err)
	}
	for _, kind := range []string{"proc", "sysfs"} {
		at := "/" + strings.TrimSuffix(kind, "fs")
		if err := unix.Mount(kind, at, kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", at, err)
		}
	}
	if err := unix.Mount(kept, groups, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("keep control groups: %w", err)
	}
	return nil
}

// traces is what measuring could leave behind on the machine.
type traces struct{ links, tables, forwarding string }

func takeTraces() (traces, error) {
	var t traces
	links, err := net.Interfaces()
	if err != nil {
		return t, fmt.Errorf("list links: %w", err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	slices.Sort(names)
	t.links = strings.Join(names, " ")
	tables, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		return t, fmt.Errorf("list nft tables: %w", err)
	}
	t.tables = string(tables)
	forwarding, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil {
		return t, fmt.Errorf("read ip_forward: %w", err)
	}
	t.forwarding = string(forwarding)
	return t, nil
}

func (t traces) compare() error {
	now, err := takeTraces()
	if err != nil {
		return err
	}
	if now != t {
		return fmt.Errorf("before %+v, now %+v", t, now)
	}
	return nil
}
