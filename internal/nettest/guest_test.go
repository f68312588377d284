package nettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// bootLimit is how long a guest may take to boot on a busy machine without KVM.
const bootLimit = 60 * time.Second

// plainHost is a node with a bridge, two taps on it and busybox's DHCP server: nothing of ours.
func plainHost(t *testing.T, ctx context.Context) *Node {
	t.Helper()
	host, err := NewNode(ctx, "plain", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := host.IP(ctx,
		"link add br0 type bridge forward_delay 0", "addr add 192.168.150.1/24 dev br0", "link set br0 up",
		"tuntap add tap0 mode tap", "link set tap0 master br0 up",
		"tuntap add tap1 mode tap", "link set tap1 master br0 up"); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, host, "sh", "-c", `cat >/run/udhcpd.conf <<end
start 192.168.150.10
end 192.168.150.20
interface br0
lease_file /run/udhcpd.leases
pidfile /run/udhcpd.pid
option subnet 255.255.255.0
option router 192.168.150.1
option dns 192.168.150.1
option domain plain.example
option lease 3600
end
touch /run/udhcpd.leases`)
	dhcp := host.Command(ctx, "busybox", "udhcpd", "-f", "/run/udhcpd.conf")
	if err := dhcp.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dhcp.Process.Kill(); _ = dhcp.Wait() })
	return host
}

func newTestGuests(t *testing.T, ctx context.Context) *Guests {
	t.Helper()
	guests, err := NewGuests(ctx, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := guests.Close(); err != nil {
			t.Error(err)
		}
	})
	return guests
}

func TestGuestsBootAndPing(t *testing.T) {
	Need(t, Root, "ip", "nsenter", "busybox", "qemu-system-x86_64", "apt-get", "dpkg-deb", Tun)
	ctx := testContext(t, 2*bootLimit)
	guests := newTestGuests(t, ctx)
	host := plainHost(t, ctx)
	start := time.Now()
	var vms [2]*Guest
	var wg sync.WaitGroup
	for i := range vms {
		wg.Go(func() {
			vm, err := guests.Boot(ctx, Spec{Name: fmt.Sprintf("guest-%d", i), Command: func(args []string) *exec.Cmd {
				args = append(args, "-netdev", fmt.Sprintf("tap,id=n,ifname=tap%d,script=no,downscript=no", i),
					"-device", fmt.Sprintf("virtio-net-pci,netdev=n,mac=52:54:00:00:00:0%d", i+1))
				return host.Command(ctx, args[0], args[1:]...)
			}})
			if err != nil {
				t.Error(err)
				return
			}
			vms[i] = vm
		})
	}
	wg.Wait()
	for _, vm := range vms {
		if vm == nil {
			t.FailNow()
		}
		t.Cleanup(vm.Kill)
	}
	t.Logf("both agents answered after %v", time.Since(start))
	var leases [2]Lease
	for i, vm := range vms {
		var err error
		if leases[i], err = vm.Lease(ctx); err != nil {
			t.Fatal(err)
		}
		if !netip.MustParsePrefix("192.168.150.0/24").Contains(leases[i].Address.Addr()) || leases[i].Address.Bits() != 24 ||
			leases[i].Router != netip.MustParseAddr("192.168.150.1") || leases[i].Domain != "plain.example" || leases[i].Seconds != 3600 {
			t.Errorf("guest %d has lease %+v", i, leases[i])
		}
	}
	if leases[0].Address == leases[1].Address {
		t.Errorf("both guests have %s", leases[0].Address)
	}
	t.Logf("both have leases after %v: %s, %s", time.Since(start), leases[0].Address, leases[1].Address)

	out, err := vms[0].Run(ctx, "ping -c 2 -W 2 "+leases[1].Address.Addr().String())
	if err != nil || !strings.Contains(out, "2 packets received") {
		t.Errorf("guest 0 pings guest 1: %v: %s", err, out)
	}
	out, err = vms[1].Run(ctx, "timeout 5 wget -qO- http://"+leases[0].Address.Addr().String()+"/")
	if want := "guest-0 saw " + leases[1].Address.Addr().String() + "\n"; err != nil || out != want {
		t.Errorf("guest 1 asks guest 0: %v: %q, want %q", err, out, want)
	}
	mustRun(t, ctx, host, "ping", "-c", "1", "-W", "2", leases[0].Address.Addr().String())
	if out := mustRun(t, ctx, host, "ip", "neigh", "show", "dev", "br0"); !strings.Contains(out, leases[0].Address.Addr().String()+" lladdr 52:54:00:00:00:01") {
		t.Errorf("the host sees another MAC than guest 0 was given: %q", out)
	}
	if out, err := vms[1].Run(ctx, "wget -qO- http://localhost/"); err != nil || out != "guest-1 saw 127.0.0.1\n" {
		t.Errorf("a guest looks a name up: %q, %v", out, err)
	}
	checkAgent(t, ctx, vms[0])
	checkStops(t, ctx, vms[0], vms[1])
	t.Logf("done after %v", time.Since(start))
}

// checkAgent looks at what the agent must not get wrong.
func checkAgent(t *testing.T, ctx context.Context, vm *Guest) {
	t.Helper()
	_, err := vm.Run(ctx, "echo broken; exit 7")
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 7 || exit.Output != "broken\n" {
		t.Errorf("exit code 7 came back as %v", err)
	}
	if out, err := vm.Run(ctx, "true"); err != nil || out != "" {
		t.Errorf("no output came back as %q, %v", out, err)
	}
	// More than the serial port's and the pipe's buffers, and every byte.
	out, err := vm.Run(ctx, "cat /bin/busybox | head -c 100000 | md5sum; head -c 100000 /bin/busybox")
	if err != nil || len(out) < 100000 {
		t.Errorf("100000 bytes came back as %d, %v", len(out), err)
	}
	short, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
	defer cancel()
	if _, err := vm.Run(short, "sleep 100"); err == nil {
		t.Error("a command of 100 s ended in 1.5 s without an error")
	}
	if out, err := vm.Run(ctx, "echo alive"); err != nil || out != "alive\n" {
		t.Errorf("after a command that took too long: %q, %v", out, err)
	}
}

// checkStops ends one guest in order and the other as a power cut would.
func checkStops(t *testing.T, ctx context.Context, first, second *Guest) {
	t.Helper()
	if err := first.Stop(ctx); err != nil {
		t.Errorf("%v\n%s", err, first.Console())
	}
	if _, err := first.Run(ctx, "true"); err == nil {
		t.Error("a stopped guest runs a command")
	}
	second.Kill()
	select {
	case <-second.Gone():
	default:
		t.Error("a killed guest is not gone")
	}
}

func TestGuestWithBadArgumentsSaysSo(t *testing.T) {
	Need(t, "busybox", "qemu-system-x86_64", "apt-get", "dpkg-deb")
	ctx := testContext(t, bootLimit)
	guests := newTestGuests(t, ctx)
	_, err := guests.Boot(ctx, Spec{Name: "bad", Command: func(args []string) *exec.Cmd {
		return exec.Command(args[0], append(args[1:], "-netdev", "nonsense")...)
	}})
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("QEMU's complaint is not in the error: %v", err)
	}
}

func TestArchiveIsReadByCpio(t *testing.T) {
	Need(t, "cpio")
	var a archive
	a.add("folder", modeDir|0o755, nil)
	a.add("folder/five", modeFile|0o640, []byte("12345"))
	a.add("empty", modeFile|0o755, nil)
	dir := t.TempDir()
	cmd := exec.Command("cpio", "-i", "--quiet")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(a.bytes())
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "folder/five")); err != nil || string(data) != "12345" {
		t.Errorf("folder/five holds %q, %v", data, err)
	}
	for name, want := range map[string]os.FileMode{"folder": os.ModeDir | 0o755, "folder/five": 0o640, "empty": 0o755} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != want {
			t.Errorf("%s has mode %v, want %v (%v)", name, st.Mode(), want, err)
		}
	}
}

func TestVersionedPicksRealPackages(t *testing.T) {
	const depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n" +
		"linux-image-6.1.0-56-cloud-amd64\n  Depends: kmod\nkmod\nlinux-base\nlinux-modules-6.8.0-1-generic\nlinux-image-generic\n"
	got := strings.Join(versioned(depends, "linux-image-cloud-amd64"), " ")
	if want := "linux-image-6.1.0-56-cloud-amd64 linux-modules-6.8.0-1-generic"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseLease(t *testing.T) {
	l, err := parseLease("ip=192.0.2.5/24\nrouter=192.0.2.1\ndns=192.0.2.1 192.0.2.2\ndomain=\nserver=192.0.2.1\nseconds=60\nmtu=\n")
	if err != nil || l.Address.String() != "192.0.2.5/24" || len(l.DNS) != 2 || l.Seconds != 60 || l.Domain != "" || l.MTU != 0 {
		t.Errorf("got %+v, %v", l, err)
	}
	if _, err := parseLease("ip=192.0.2.5/240\n"); err == nil {
		t.Error("a bad prefix is no error")
	}
}
