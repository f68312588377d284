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
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	roleEnv  = "DRAWBRIDGE_DEMO_ROLE"  // init or story, inside; empty on the machine
	startEnv = "DRAWBRIDGE_DEMO_START" // when it began, Unix milliseconds
)

// sandbox runs this program again, in a process, mount and network namespace of its own, to tell
// the story there. When the first process inside ends, for whatever reason, the kernel kills all
// others, and with them every namespace, link and rule goes. It returns the exit code and the
// identity of the process namespace.
func sandbox(binary string, start time.Time) (code int, inside uint64, err error) {
	cmd := exec.Command("/proc/self/exe", "--drawbridge", binary)
	cmd.Env = append(os.Environ(), roleEnv+"=init", startEnv+"="+strconv.FormatInt(start.UnixMilli(), 10))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, 0, fmt.Errorf("make namespaces for the demonstration: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/pid", cmd.Process.Pid), &st); err != nil {
		return 0, 0, errors.Join(fmt.Errorf("look at the demonstration: %w", err), cmd.Process.Kill(), cmd.Wait())
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
				return 0, st.Ino, fmt.Errorf("run the demonstration: %w", err)
			}
			code := cmd.ProcessState.ExitCode()
			if code < 0 { // by a signal
				code = 1
			}
			return code, st.Ino, nil
		}
	}
}

// beInit is the first process inside: it furnishes the namespaces, starts the story and buries
// whoever is orphaned, as the first process must.
func beInit() int {
	if err := furnish(); err != nil {
		return complain(fmt.Errorf("furnish the namespaces: %w", err))
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := os.Setenv(roleEnv, "story"); err != nil {
		return complain(err)
	}
	story, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return complain(fmt.Errorf("start the story: %w", err))
	}
	go func() {
		for s := range signals {
			_ = story.Signal(s)
		}
	}()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return complain(fmt.Errorf("wait for the story: %w", err))
		case pid == story.Pid && status.Exited():
			return status.ExitStatus()
		case pid == story.Pid && status.Signaled():
			return 128 + int(status.Signal())
		}
	}
}

// scratch is where temporary files go: a file system of the sandbox's own, in a place that every
// Linux system has and that the nodes do not cover with theirs.
const scratch = "/dev/shm"

func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	for _, m := range []struct{ kind, at, data string }{{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"tmpfs", scratch, "mode=755"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return os.Setenv("TMPDIR", scratch)
}

// startTime is when the whole demonstration began.
func startTime() time.Time {
	ms, err := strconv.ParseInt(os.Getenv(startEnv), 10, 64)
	if err != nil {
		return time.Now()
	}
	return time.UnixMilli(ms)
}

// traces is what the demonstration could leave behind on the machine.
type traces struct {
	links, namespaces, tables, forwarding []string
}

func takeTraces() (traces, error) {
	var t traces
	links, err := net.Interfaces()
	if err != nil {
		return t, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		t.links = append(t.links, l.Name)
	}
	slices.Sort(t.links)
	if t.namespaces, err = filepath.Glob("/run/netns/*"); err != nil {
		return t, fmt.Errorf("list namespaces: %w", err)
	}
	out, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		return t, fmt.Errorf("list nft tables: %w", err)
	}
	t.tables = strings.Split(strings.TrimSpace(string(out)), "\n")
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		value, err := os.ReadFile("/proc/sys/net/" + name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return t, fmt.Errorf("read %s: %w", name, err)
		}
		t.forwarding = append(t.forwarding, name+" "+strings.TrimSpace(string(value)))
	}
	return t, nil
}

// compare looks again, and for processes that were started inside.
func (t traces) compare(inside uint64) (string, error) {
	now, err := takeTraces()
	if err != nil {
		return "", err
	}
	var errs []error
	for _, c := range []struct {
		what        string
		before, now []string
	}{
		{"links", t.links, now.links}, {"named namespaces", t.namespaces, now.namespaces},
		{"nft tables", t.tables, now.tables}, {"forwarding", t.forwarding, now.forwarding},
	} {
		if !slices.Equal(c.before, c.now) {
			errs = append(errs, fmt.Errorf("%s before: %s; now: %s", c.what, strings.Join(c.before, ", "), strings.Join(c.now, ", ")))
		}
	}
	left, err := processesIn(inside)
	if err != nil {
		return "", err
	}
	if len(left) > 0 {
		errs = append(errs, fmt.Errorf("processes of the demonstration still run: %s", strings.Join(left, ", ")))
	}
	return fmt.Sprintf("links %s as before; no process of the demonstration runs", strings.Join(now.links, " ")), errors.Join(errs...)
}

// processesIn lists the processes of a process namespace.
func processesIn(ns uint64) ([]string, error) {
	all, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var left []string
	for _, link := range all {
		var st unix.Stat_t
		if unix.Stat(link, &st) != nil || st.Ino != ns {
			continue // gone, or of somebody else
		}
		dir := filepath.Dir(filepath.Dir(link))
		name, _ := os.ReadFile(filepath.Join(dir, "comm")) // gone meanwhile: without a name
		left = append(left, filepath.Base(dir)+" "+strings.TrimSpace(string(name)))
	}
	return left, nil
}
