// Package nettest is what tests of the network stand on: a fake host with the
// kernel's cascades, a suite that the fake and the real one both pass, network
// namespaces, a LAN, and guests.
//
// It owns how the needs of a test are met or refused. It is imported by tests
// and by the demonstration only, and knows no modes, documents' meaning or faces.
//
// Start reading at Main and Need in namespace.go, Fake in fake.go and Contract
// in contract.go.
package nettest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// insideEnv marks a test binary that runs in namespaces of its own; its value is
// "root" where it has full privileges there.
const insideEnv = "DRAWBRIDGE_NETTEST_INSIDE"

// Main runs a package's tests inside a network and mount namespace that nobody
// else is in: fresh sysfs, loopback up, nothing else. Call it from TestMain and
// do nothing after it. The binary is started again, so that every goroutine and
// child is inside. Where a user may make no namespaces the tests run where they
// are, and Need(t, Namespace) tells those that must not; root is refused then.
func Main(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "nettest: prepare the namespace:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	flag.Parse()
	code, err := rerun()
	if err != nil {
		fmt.Fprintln(os.Stderr, "nettest: no namespace of our own:", err)
		if os.Geteuid() == 0 {
			// With these privileges a test that forgot Need would change the
			// machine's own network.
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	os.Exit(code)
}

// rerun starts the binary again in fresh namespaces and returns its exit code.
func rerun() (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	// go test's timeout and ^C mean the tests, which are in the child.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// furnish makes the fresh namespaces usable. A test binary that is started from
// inside (a fuzz worker) finds them so already.
func furnish() error {
	if os.Getenv(insideEnv) == "ready" {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	// The old one shows the links of the namespace that it was mounted in.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount sysfs: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	return os.Setenv(insideEnv, "ready")
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// What a test can need, besides the names of programs.
const (
	// Namespace is a network namespace made by Main, where links, rules and
	// parameters may be changed at will.
	Namespace = "a network namespace of its own"
	// Root is user id 0.
	Root = "root"
	// Tun is /dev/net/tun.
	Tun = "/dev/net/tun"
)

// Need ends the test unless the machine has all that is named: one of the
// constants, a path that begins with a slash, or a program. Missing needs are a
// skip on a desk, and fatal where CI is set: a test that CI does not run is none.
func Need(t testing.TB, what ...string) {
	t.Helper()
	missing := slices.DeleteFunc(slices.Clone(what), present)
	if len(missing) == 0 {
		return
	}
	text := "this test needs " + strings.Join(missing, ", ")
	if os.Getenv("CI") != "" {
		t.Fatal(text)
	}
	t.Skip(text)
}

func present(what string) bool {
	switch {
	case what == Namespace:
		return os.Getenv(insideEnv) == "ready"
	case what == Root:
		return os.Geteuid() == 0
	case strings.HasPrefix(what, "/"):
		_, err := os.Stat(what)
		return err == nil
	}
	_, err := exec.LookPath(what)
	return err == nil
}
