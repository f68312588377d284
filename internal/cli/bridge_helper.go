package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"drawbridge/internal/api"
)

// bridgeHelper is QEMU's helper for -netdev bridge,helper=PATH: it is called
// with --br=BRIDGE, --fd=N and, where QEMU wants the virtio header, --use-vnet,
// and passes the descriptor of a tap over unix socket N with one byte
// (qemu-bridge-helper.c, send_fd). It needs no privileges: the daemon decides.
func (a *app) bridgeHelper(ctx context.Context, args []string) int {
	if err := a.help(ctx, args); err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		fmt.Fprintln(a.stderr, HelperName+": "+clean(first))
		return ExitFailed
	}
	return ExitDone
}

func (a *app) help(ctx context.Context, args []string) error {
	r := api.PortRequest{NoMAC: true, Made: "bridge-helper"}
	fd := -1
	for _, arg := range args {
		key, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch key {
		case "use-vnet":
			// Taps always have the virtio header; QEMU asks each whether it does
			// (tap_probe_vnet_hdr) and adds or strips it for other NICs.
		case "br":
			r.Bridge = value
		case "fd":
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 {
				return fmt.Errorf("--fd=%s is not a descriptor", value)
			}
			fd = n
		default:
			return fmt.Errorf("unknown argument %q; QEMU gives [--use-vnet] --br=BRIDGE --fd=N", arg)
		}
	}
	if r.Bridge == "" || fd < 0 {
		return errors.New("QEMU gives [--use-vnet] --br=BRIDGE --fd=N; one is missing")
	}
	r.Guest = callerGuest(os.Getppid())
	socket := api.DefaultSocket
	if s := os.Getenv("DRAWBRIDGE_SOCKET"); s != "" {
		socket = s
	}
	to, err := qemuSocket(fd)
	if err != nil {
		return err
	}
	defer to.Close()
	_, taps, vhosts, err := api.Dial(socket).OpenPort(ctx, r)
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range append(taps, vhosts...) {
			f.Close()
		}
	}()
	return sendTap(to, taps[0])
}

func qemuSocket(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "qemu")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("descriptor %d is not a unix socket", fd)
	}
	return uc, nil
}

// callerGuest is the name of the guest whose QEMU called us. A path with blanks
// is run through a shell, so the parent may be one; then its parent is asked.
func callerGuest(pid int) string {
	for range 3 {
		raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err != nil {
			return ""
		}
		argv := strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
		if name := guestName(argv); name != "" {
			return name
		}
		if strings.Contains(argv[0], "qemu") {
			return ""
		}
		if pid = parentOf(pid); pid <= 1 {
			return ""
		}
	}
	return ""
}

func parentOf(pid int) int {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "PPid:"); ok {
			ppid, _ := strconv.Atoi(strings.TrimSpace(value))
			return ppid
		}
	}
	return 0
}

// guestName finds -name in QEMU's arguments, "guest=NAME,…" or "NAME,…", and
// makes a DNS label of it: the network names guests so, and a name that QEMU
// takes shall not keep the guest off it.
func guestName(argv []string) string {
	for i := 0; i+1 < len(argv); i++ {
		if argv[i] != "-name" && argv[i] != "--name" {
			continue
		}
		for part := range strings.SplitSeq(argv[i+1], ",") {
			key, value, ok := strings.Cut(part, "=")
			switch {
			case !ok:
				return label(part)
			case key == "guest":
				return label(value)
			}
		}
	}
	return ""
}

// label turns a name into a lower-case host label (RFC 1123), "" if nothing of
// it is left.
func label(name string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(name) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else {
			b.WriteByte('-')
		}
	}
	text := b.String()
	return strings.Trim(text[:min(len(text), 63)], "-")
}

// sendTap passes the descriptor as QEMU expects it: with a single zero byte.
func sendTap(to *net.UnixConn, tap *os.File) error {
	if _, _, err := to.WriteMsgUnix([]byte{0}, unix.UnixRights(int(tap.Fd())), nil); err != nil {
		return fmt.Errorf("pass the tap to QEMU: %w", err)
	}
	return nil
}
