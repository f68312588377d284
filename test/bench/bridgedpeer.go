package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"drawbridge/internal/nettest"
)

// peer is another program that moves a NIC into a bridge. Its scripts run on host A, in the root of
// a Debian host that has it.
type peer struct {
	name string
	// prepare is run once: the NIC is managed, and the bridge known. in and out move the NIC.
	prepare, in, out string
}

// peerRoot gives a node the root $1, with a directory to change it in, $2.
const peerRoot = `set -e
mkdir -p "$2"
mount -t tmpfs tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
cd "$2/root"
mount --rbind /proc proc
mount --rbind /dev dev
mount -t sysfs -o ro sysfs sys # nobody waits for udev then
mount -t tmpfs tmpfs run
`

func ifupdown() peer {
	return peer{name: "ifupdown", prepare: fmt.Sprintf(`mkdir -p /run/network
cat >/etc/network/interfaces <<END
iface enp6s18 inet static
	address %[1]s/24
	gateway %[2]s
iface enp6s18 inet6 static
	address %[3]s/64
	gateway %[4]s
	dad-attempts 0
iface br0 inet static
	bridge_ports enp6s18
	bridge_stp off
	bridge_fd 0
	address %[1]s/24
	gateway %[2]s
iface br0 inet6 static
	address %[3]s/64
	gateway %[4]s
	dad-attempts 0
END
ip addr flush dev enp6s18
ifup enp6s18`, nettest.HostA4, nettest.Router4, nettest.HostA6, nettest.Router6),
		in: "ifdown enp6s18 && ifup br0", out: "ifdown br0 && ifup enp6s18"}
}

func networkManager() peer {
	return peer{name: "nmcli", prepare: fmt.Sprintf(`mkdir -p /run/dbus
rm -f /etc/network/interfaces
printf '[main]\nplugins=keyfile\nno-auto-default=*\n' >/etc/NetworkManager/conf.d/bench.conf
dbus-uuidgen --ensure
dbus-daemon --system --fork --nopidfile
ip addr flush dev enp6s18
NetworkManager --no-daemon >/run/nm.log 2>&1 </dev/null &
n=0; until nmcli -t general status >/dev/null 2>&1; do n=$((n+1)); [ $n -lt 100 ] || exit 1; sleep 0.1; done
static="ipv4.method manual ipv4.addresses %[1]s/24 ipv4.gateway %[2]s ipv6.method manual ipv6.addresses %[3]s/64 ipv6.gateway %[4]s"
nmcli con add type ethernet ifname enp6s18 con-name nic autoconnect no $static
nmcli con add type bridge ifname br0 con-name br0 autoconnect no bridge.stp no bridge.mac-address $(cat /sys/class/net/enp6s18/address) connection.autoconnect-slaves 1 $static
nmcli con add type bridge-slave ifname enp6s18 con-name port autoconnect no master br0
nmcli con up nic`, nettest.HostA4, nettest.Router4, nettest.HostA6, nettest.Router6),
		in: "nmcli con up br0", out: "nmcli con down br0 && nmcli con up nic"}
}

func bridgedPeer(ctx context.Context, b *Bench, p peer, in, out, took, tcp *Row) (err error) {
	root := os.Getenv(rootEnv)
	if root == "" {
		return errors.New("there is no root with it (scripts/managers-root)")
	}
	lan, err := newLAN(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lan.Close()) }()
	dir := filepath.Join(b.scratch, "peer-"+p.name)
	if _, err := lan.HostA.Run(ctx, "sh", "-c", peerRoot, "root", root, dir); err != nil {
		return fmt.Errorf("make a host: %w", err)
	}
	sh := func(script string) error {
		_, err := lan.HostA.Run(ctx, "chroot", filepath.Join(dir, "root"), "sh", "-ec", script)
		return err
	}
	if err := sh(p.prepare); err != nil {
		return err
	}
	return p.moves(ctx, lan, b.runs(5, 1), sh, in, out, took, tcp)
}

// moves moves the NIC of a LAN's host in and out some times, by scripts that sh runs on the host.
func (p peer) moves(ctx context.Context, lan *nettest.LAN, runs int, sh func(string) error, in, out, took, tcp *Row) error {
	for range runs {
		if err := p.alone(ctx, lan, sh, took); err != nil {
			return err
		}
		if err := settled(ctx, lan, nettest.HostANIC); err != nil {
			return err
		}
		stream, err := startStream(lan)
		if err != nil {
			return err
		}
		lost, err := lossless(ctx, lan, 2*pingsEach, func() error { return sh(p.in) })
		if err != nil {
			return err
		}
		in.Peer.Counted(Packets, float64(lost))
		if err := errors.Join(onBridge(ctx, lan), settled(ctx, lan, "br0")); err != nil {
			return err
		}
		if lost, err = lossless(ctx, lan, 2*pingsEach, func() error { return sh(p.out) }); err != nil {
			return err
		}
		out.Peer.Counted(Packets, float64(lost))
		timeouts, err := stream.end()
		if err != nil {
			return err
		}
		tcp.Peer.Counted(Times, float64(timeouts))
	}
	return nil
}

// alone moves the NIC in and out while nothing else goes on, and times how long it takes until the
// NIC is in the bridge.
func (p peer) alone(ctx context.Context, lan *nettest.LAN, sh func(string) error, took *Row) error {
	if err := settled(ctx, lan, nettest.HostANIC); err != nil {
		return err
	}
	began := time.Now()
	if err := sh(p.in); err != nil {
		return err
	}
	if err := plugged(ctx, lan); err != nil {
		return err
	}
	took.Peer.Took(time.Since(began))
	if err := settled(ctx, lan, "br0"); err != nil {
		return err
	}
	return sh(p.out)
}

// plugged waits until host A's NIC is in its bridge. nmcli returns before: it has brought up the
// bridge, and its port comes later.
func plugged(ctx context.Context, lan *nettest.LAN) error {
	master := fmt.Sprintf("/proc/%d/root/sys/class/net/%s/master", lan.HostA.PID(), nettest.HostANIC)
	for range 10000 {
		if to, err := os.Readlink(master); err == nil && filepath.Base(to) == "br0" {
			return nil
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("the NIC does not come into the bridge")
}

// settled waits until host A has both its addresses on a link.
func settled(ctx context.Context, lan *nettest.LAN, link string) error {
	for range 500 {
		text, err := lan.HostA.Run(ctx, "ip", "addr", "show", "dev", link)
		if err != nil {
			return err
		}
		if strings.Contains(text, nettest.HostA4+"/") && strings.Contains(text, nettest.HostA6+"/") && !strings.Contains(text, "tentative") {
			return nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s does not get its addresses", link)
}

// onBridge checks that the peer did what was asked.
func onBridge(ctx context.Context, lan *nettest.LAN) error {
	text, err := lan.HostA.Run(ctx, "ip", "-j", "link", "show", nettest.HostANIC)
	if err != nil {
		return err
	}
	var links []struct{ Master string }
	if err := json.Unmarshal([]byte(text), &links); err != nil || len(links) != 1 || links[0].Master != "br0" {
		return fmt.Errorf("the peer's NIC is not in its bridge: %s", text)
	}
	return nil
}
