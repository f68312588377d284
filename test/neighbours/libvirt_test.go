package neighbours

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// libvirtFiles lets the daemon see the files of the libvirt that runs in the
// neighbours' root, as if it ran on the host: those of this machine, if it has a
// libvirt, are none of ours.
const libvirtFiles = `set -e
mkdir -p /run/etc/up /run/etc/work /run/libvirt /run/nb/root/run/libvirt
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/up,workdir=/run/etc/work /etc
mount --bind /run/node.resolv.conf "$(readlink -m /etc/resolv.conf)"
mkdir -p /etc/libvirt
mount --bind /run/nb/root/etc/libvirt /etc/libvirt
mount --bind /run/nb/root/run/libvirt /run/libvirt
cd /run/nb/root/etc
grep -q libvirt-qemu passwd || echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin' >>passwd
grep -q libvirt-dnsmasq passwd || echo 'libvirt-dnsmasq:x:64054:64054::/var/lib/libvirt/dnsmasq:/usr/sbin/nologin' >>passwd
grep -q libvirt-qemu group || printf 'libvirt-qemu:x:64055:\nlibvirt-dnsmasq:x:64054:\n' >>group
printf 'auth_unix_ro = "none"\nauth_unix_rw = "none"\n' >libvirt/of-the-test.conf
`

// endOfServices ends the guest services of this host, which outlive the daemon but
// no boot. The processes of the whole machine are seen, and the shell's own has these
// words, too.
const endOfServices = `set -e
ns=$(readlink /proc/self/ns/net)
for p in /proc/[0-9]*; do
	if [ "$(readlink $p/ns/net)" = "$ns" ] && tr '\0' ' ' <$p/cmdline | grep -q '[d]rawbridge serve-guests'; then
		kill ${p#/proc/}
		while [ -d $p ]; do sleep 0.05; done
	fi
done
`

// theirBridge says what libvirt made of its bridge, and what others might have.
const theirBridge = `ip -d link show virbr0 | grep -o 'link/ether [^ ]*\|forward_delay [^ ]*\|stp_state [^ ]*\|alias.*'; ip -o -4 addr show virbr0`

// libvirtd starts libvirt's daemon, as its package has it but for who may ask it.
func (w *world) libvirtd() (stop func()) {
	w.t.Helper()
	stop = w.start("libvirtd -f /etc/libvirt/of-the-test.conf --pid-file /run/libvirtd.pid >/var/log/libvirtd.log 2>&1")
	w.until("libvirt answers", func() error { return w.virsh("net-list --all") })
	return stop
}

func (w *world) virsh(command string) error {
	out, err := w.host.Run(context.Background(), "chroot", "/run/nb/root", "sh", "-c", "virsh -q -c network:///system "+command)
	if err != nil {
		log, _ := w.host.Run(context.Background(), "tail", "-n20", "/run/nb/root/var/log/libvirtd.log")
		return fmt.Errorf("%w\n%s%s", err, out, log)
	}
	return nil
}

// libvirt runs with its default network beside ours: neither takes the other's
// bridge or subnet, whoever comes first.
func libvirt(t *testing.T) {
	w := begin(t)
	w.on(libvirtFiles)
	stop := w.libvirtd()
	w.check(w.virsh("net-start default"))
	theirs := netip.MustParsePrefix("192.168.122.0/24")
	w.begin("")
	if w.bridge == "virbr0" || theirs.Contains(w.gateway) {
		t.Fatalf("libvirt has virbr0 and %s; ours has %s and %s", theirs, w.bridge, w.gateway)
	}
	w.event("libvirt was there", func() {})
	w.event("libvirt reloads (SIGHUP)", func() { w.on("kill -HUP $(cat /run/nb/root/run/libvirtd.pid)") })
	w.event("net-destroy default", func() { w.check(w.virsh("net-destroy default")) })
	w.event("net-start default", func() { w.check(w.virsh("net-start default")) })
	w.event("libvirtd stops", func() { stop() })
	w.event("libvirtd starts", func() { stop = w.libvirtd() })

	// Asked for by name, what libvirt has is refused, or told.
	out, err := w.host.Run(context.Background(), program, "network", "create", "second", "--bridge", "virbr0", "--ipv6", "off")
	if err == nil || !strings.Contains(err.Error(), "virbr0") {
		t.Errorf("libvirt's bridge is taken: %v\n%s", err, out)
	}
	out, err = w.host.Run(context.Background(), program, "network", "create", "clash", "--subnet", theirs.String(), "--ipv6", "off")
	if err == nil || !strings.Contains(err.Error(), theirs.String()) {
		t.Errorf("libvirt's subnet is taken: %v\n%s", err, out)
	}
	// A boot in which libvirt comes first, with what is ours: neither serves beside the
	// other, and it is told.
	w.check(w.virsh("net-destroy default"))
	w.on(program + " network create clash --ipv6 off --subnet " + theirs.String())
	made := ""
	w.restart(func() {
		w.on(endOfServices)
		w.on("ip link del virbr0")
		w.check(w.virsh("net-start default"))
		made = w.on(theirBridge)
	})
	// It stands under the name of ours, and stays as libvirt made it.
	now := w.on(theirBridge)
	if out := w.on(program + " network ls"); now != made || !strings.Contains(out, "degraded") {
		t.Errorf("libvirt's virbr0 was\n%s\nand is\n%s\n%s", made, now, out)
	}
	found := w.finding("libvirt-conflict")
	if found == nil || !strings.Contains(found.Seen, theirs.String()) || !strings.HasPrefix(found.Fix.Command, "virsh net-destroy default") {
		t.Fatalf("libvirt's subnet is taken: %+v", found)
	}
	w.check(w.virsh("net-destroy default"))
	w.until("what was waited runs", func() error {
		out, err := w.host.Run(context.Background(), program, "doctor")
		return errors.Join(err, map[bool]error{true: errors.New(out)}[!strings.Contains(w.on("ip -br addr"), "192.168.122.1/24")])
	})
	// The other way round libvirt refuses.
	if err := w.virsh("net-start default"); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("libvirt starts its network beside ours of the same subnet: %v", err)
	}
	w.on(program + " network rm clash --cut-guests")
	w.event("net-start default", func() { w.check(w.virsh("net-start default")) })
	w.check(w.virsh("net-destroy default"))
	w.gone()
	stop()
}
