package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/nettest"
)

// The guests of the story.
const (
	first  = "ubuntu-cloud"
	second = "debian-cloud"
)

const (
	stateDir = scratch + "/state"
	runDir   = "/run/drawbridge" // host A's own /run
	logFile  = scratch + "/daemon.log"
	// patience bounds every single look: enough for a slow machine, too short to hang.
	patience = 10 * time.Second
	// bootPatience is for two guests at once without KVM.
	bootPatience = 40 * time.Second
)

// story is what has been built so far.
type story struct {
	*telling
	ctx    context.Context
	binary string
	lan    *nettest.LAN
	guests *nettest.Guests
	daemon *exec.Cmd
	ended  chan error // the daemon's end

	network  api.Network
	subnet   netip.Prefix // the network's IPv4
	gateway  netip.Addr
	gateway6 netip.Addr
	vms      map[string]*nettest.Guest
	addr4    map[string]netip.Addr
	addr6    map[string]netip.Addr
}

// errStop ends the story early: what comes next needs what has just failed.
var errStop = errors.New("the story cannot go on")

// tellStory runs inside the sandbox and returns the exit code.
func tellStory(ctx context.Context, binary string) int {
	s := &story{
		telling: newTelling(os.Stdout, startTime()), ctx: ctx, binary: binary,
		vms: make(map[string]*nettest.Guest), addr4: make(map[string]netip.Addr), addr6: make(map[string]netip.Addr),
	}
	err := s.tell()
	if err != nil || s.failed > 0 {
		s.showLog()
	}
	err = errors.Join(err, s.close())
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "demo: interrupted")
		return 130
	case err != nil:
		return complain(err)
	case s.failed > 0:
		return complain(fmt.Errorf("%d of %d sentences are not true", s.failed, s.failed+s.passed))
	}
	return 0
}

func (s *story) tell() error {
	for _, chapter := range []func() error{
		s.buildLAN, s.startDaemon, s.bootGuests, s.devices, s.leases, s.outward, s.names, s.refusals,
		s.neighbours, s.pictures, s.forwards, s.bridged, s.guestsEnd, s.networkEnds,
	} {
		if err := chapter(); err != nil {
			return err
		}
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
	}
	return nil
}

func (s *story) buildLAN() error {
	s.step("Building the LAN: host A, a router and another machine, each in a namespace")
	log := slog.New(slog.DiscardHandler)
	made := make(chan error, 1)
	go func() {
		var err error
		s.guests, err = nettest.NewGuests(s.ctx, log)
		made <- err
	}()
	var err error
	s.lan, err = nettest.NewLAN(s.ctx, log)
	if err := errors.Join(err, <-made); err != nil {
		return err
	}
	s.expect("host A is 192.168.99.66 on enp6s18, beside a router (.1) and another machine (.10)", func() (string, error) {
		out, err := s.onA("ip", "-brief", "address", "show", "dev", nettest.HostANIC)
		if err != nil {
			return out, err
		}
		seen, err := get(s.ctx, s.lan.HostA, nettest.Machine4)
		if err == nil && !strings.HasSuffix(seen, " "+nettest.HostA4) {
			err = fmt.Errorf("another source address than %s", nettest.HostA4)
		}
		return out + "asked http://" + nettest.Machine4 + ": " + seen, err
	})
	return nil
}

// startDaemon waits until the daemon says that it is ready, as systemd would.
func (s *story) startDaemon() error {
	s.step("Starting the daemon on host A: drawbridge daemon --default-network")
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: scratch + "/notify", Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("listen for the daemon's word: %w", err)
	}
	log, err := os.Create(logFile)
	if err != nil {
		return fmt.Errorf("write the daemon's log: %w", err)
	}
	defer log.Close()
	s.daemon = s.lan.HostA.Command(context.WithoutCancel(s.ctx), s.binary, "daemon",
		"--state-dir", stateDir, "--run-dir", runDir, "--socket", s.socket(), "--default-network")
	s.daemon.Env = append(os.Environ(), "NOTIFY_SOCKET="+scratch+"/notify")
	s.daemon.Stdout, s.daemon.Stderr = log, log
	if err := s.daemon.Start(); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	s.ended = make(chan error, 1)
	go func() {
		s.ended <- s.daemon.Wait()
		ready.Close() // so that nobody waits for its word
	}()
	if err := awaitReady(ready); err != nil {
		select {
		case end := <-s.ended:
			return fmt.Errorf("the daemon ended before it was ready: %w", cmp.Or(end, errors.New("with exit code 0")))
		default:
		}
		return fmt.Errorf("wait for the daemon: %w", err)
	}
	// What it has to say later is heard too: its queue is short.
	go io.Copy(io.Discard, ready) //nolint:errcheck // it ends with the daemon
	if !s.expect("the NAT network \"default\" runs: a bridge, a subnet, DHCP and DNS for guests", s.lookAtNetwork) {
		return errStop
	}
	return nil
}

func (s *story) socket() string { return runDir + "/drawbridge.sock" }

func awaitReady(from *net.UnixConn) error {
	if err := from.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return err
		}
		for line := range strings.SplitSeq(string(buf[:n]), "\n") {
			if line == "READY=1" {
				return nil
			}
		}
	}
}

func (s *story) lookAtNetwork() (string, error) {
	table, err := s.drawbridge("network", "ls")
	if err != nil {
		return table, err
	}
	if err := s.ask(&s.network, "network", "show", "default"); err != nil {
		return table, err
	}
	n := s.network
	for _, sub := range n.Subnets {
		prefix, err := netip.ParsePrefix(sub.CIDR)
		if err != nil {
			return table, err
		}
		gateway, err := netip.ParseAddr(sub.Gateway)
		if err != nil {
			return table, err
		}
		if prefix.Addr().Is4() {
			s.subnet, s.gateway = prefix.Masked(), gateway
		} else {
			s.gateway6 = gateway
		}
	}
	ips, err := s.onA("ip", "-brief", "address", "show", "dev", n.Bridge)
	switch {
	case err != nil:
	case n.Mode != "nat" || n.Bridge != "virbr0" || n.State != "running":
		err = fmt.Errorf("it is in mode %s on %s and %s", n.Mode, n.Bridge, n.State)
	case s.subnet != netip.MustParsePrefix("192.168.122.0/24"):
		err = fmt.Errorf("its subnet is %s although 192.168.122.0/24 is free", s.subnet)
	case !strings.Contains(ips, s.gateway.String()+"/24"):
		err = fmt.Errorf("%s has no address %s/24", n.Bridge, s.gateway)
	case !s.gateway6.IsValid() || !strings.Contains(ips, s.gateway6.String()+"/64"):
		err = fmt.Errorf("%s has no IPv6 address of the network", n.Bridge)
	case n.PoolSize == 0:
		err = errors.New("DHCP has no addresses to give")
	}
	return table + ips, err
}

func (s *story) bootGuests() error {
	s.step("Booting two guests with QEMU (%s): drawbridge qemu --nic network=default,name=%s -- qemu-system-x86_64 …",
		s.guests.Accel(), first)
	ctx, cancel := context.WithTimeout(s.ctx, bootPatience)
	defer cancel()
	monitor, err := s.watchLinks(ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for i, name := range []string{first, second} {
		wg.Go(func() {
			vm, err := s.guests.Boot(ctx, nettest.Spec{Name: name, Command: func(args []string) *exec.Cmd {
				return s.lan.HostA.Command(context.WithoutCancel(ctx), s.binary, append([]string{
					"--socket", s.socket(), "qemu", "--nic", "network=default,name=" + name, "--",
				}, args...)...)
			}})
			mu.Lock()
			defer mu.Unlock()
			s.vms[name], errs = vm, append(errs, err)
			if err != nil {
				cancel()
			}
		})
		// The names of taps follow the order in which guests start.
		if err := monitor.await(ctx, fmt.Sprintf("vnet%d:", i)); err != nil {
			errs = append(errs, fmt.Errorf("wait for tap vnet%d: %w", i, err))
			cancel()
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// drawbridge runs the client on host A and returns what it prints.
func (s *story) drawbridge(args ...string) (string, error) {
	return s.onA(s.binary, append([]string{"--socket", s.socket()}, args...)...)
}

// ask reads the client's JSON answer.
func (s *story) ask(into any, args ...string) error {
	out, err := s.drawbridge(append([]string{"-o", "json"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("read the answer to %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// onA runs a command on host A.
func (s *story) onA(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	return s.lan.HostA.Run(ctx, name, args...)
}

// in runs a command in a guest.
func (s *story) in(guest, command string) (string, error) {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	return s.vms[guest].Run(ctx, command)
}

// showLog prints the end of the daemon's log and of the guests' consoles.
func (s *story) showLog() {
	log, err := os.ReadFile(logFile)
	if err != nil {
		return // it never started
	}
	const most = 60
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	lines = lines[max(0, len(lines)-most):]
	fmt.Fprintf(s.out, "         the daemon's log, last %d lines:\n%s\n", len(lines), bytes.Join(lines, []byte("\n")))
}

// close ends what runs; what it misses ends with the sandbox.
func (s *story) close() error {
	for _, vm := range s.vms {
		if vm != nil {
			vm.Kill()
		}
	}
	var errs []error
	if s.lan != nil {
		errs = append(errs, s.lan.Close())
	}
	if s.guests != nil {
		errs = append(errs, s.guests.Close())
	}
	return errors.Join(errs...)
}

// linkWatch is `ip monitor link`.
type linkWatch struct{ lines chan string }

// watchLinks follows the links of host A until the context ends.
func (s *story) watchLinks(ctx context.Context) (*linkWatch, error) {
	cmd := s.lan.HostA.Command(ctx, "ip", "-o", "monitor", "link")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("watch links: %w", err)
	}
	w := &linkWatch{lines: make(chan string, 256)}
	go func() {
		defer close(w.lines)
		splitLines(out, func(line string) {
			select {
			case w.lines <- line:
			default: // nobody looks any more
			}
		})
		_ = cmd.Wait() // ended by the context
	}()
	return w, nil
}

// await returns when a link is mentioned by the name, colon included.
func (w *linkWatch) await(ctx context.Context, name string) error {
	for {
		select {
		case line, ok := <-w.lines:
			if !ok {
				return io.ErrUnexpectedEOF
			}
			if strings.Contains(line, name) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stopDaemon ends the daemon as systemd would.
func (s *story) stopDaemon() error {
	if err := s.daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the daemon: %w", err)
	}
	select {
	case err := <-s.ended:
		return err
	case <-time.After(patience):
		return fmt.Errorf("stop the daemon: it still runs after %v", patience)
	}
}
