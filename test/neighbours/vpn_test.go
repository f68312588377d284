package neighbours

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

// A VPN that takes all traffic is made by the real wg-quick: its routes, rules
// of the routing policy and nftables rules, and the switch that its manual page
// (wg-quick(8)) gives: nothing but the tunnel's packets leaves the host. The kernel's WireGuard, which
// machines of tests may lack, is a veth to the LAN; wireguardGo makes it, as
// wg-quick asks a program for it then, and wgTool keeps what wg(8) would tell.
const (
	wireguardGo = "#!/bin/sh\nexec ip link set vpn0 name \"$1\"\n"
	wgTool      = `#!/bin/sh
mark=/run/wg-mark
case "$1 $3" in
"show fwmark") cat $mark 2>/dev/null || echo off ;;
"show allowed-ips") printf 'peer\t0.0.0.0/0\n' ;;
"show endpoints") printf 'peer\t192.168.99.1:51820\n' ;;
"show ") echo wg0 ;;
"set fwmark") echo "$4" >$mark ;;
esac
`
	wgConfig = `[Interface]
Address = 10.9.0.2/32
PrivateKey = GGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGG=
PostUp = iptables -I OUTPUT ! -o %i -m mark ! --mark $(wg show %i fwmark) -m addrtype ! --dst-type LOCAL -j REJECT
PreDown = iptables -D OUTPUT ! -o %i -m mark ! --mark $(wg show %i fwmark) -m addrtype ! --dst-type LOCAL -j REJECT
[Peer]
PublicKey = HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHH=
Endpoint = 192.168.99.1:51820
AllowedIPs = 0.0.0.0/0
`
)

// clientSwitch is what clients of VPN providers keep in the kernel also while
// they are not connected, as "nft list table inet mullvad" shows it.
const clientSwitch = `table inet mullvad {
	chain input { type filter hook input priority filter; policy drop; iifname "lo" accept; iifname "wg0" accept; reject; }
	chain output { type filter hook output priority filter; policy drop; oifname "lo" accept; meta mark 0x6d6f6c65 accept; oifname "wg0" accept; reject; }
	chain forward { type filter hook forward priority filter; policy drop; iifname "wg0" ct state established,related accept; oifname "wg0" accept; reject; }
}
`

func vpn(t *testing.T) {
	ctx := context.Background()
	w := begin(t)
	w.begin(usual)
	const root = "/run/nb/root"
	for file, text := range map[string]string{"/usr/bin/wireguard-go": wireguardGo, "/usr/bin/wg": wgTool, "/etc/wireguard/wg0.conf": wgConfig} {
		w.check(os.WriteFile(w.work+"/file", []byte(text), 0o755))
		w.on(fmt.Sprintf("mkdir -p %[1]s/etc/wireguard; cp %[2]s/file %[1]s%[3]s", root, w.work, file))
	}
	w.check(os.WriteFile(w.work+"/switch.nft", []byte(clientSwitch), 0o644))
	up := func() {
		w.check(w.host.IP(ctx, fmt.Sprintf("link add vpn0 type veth peer name vpn1 netns %d", w.lan.PID())))
		w.check(w.lan.IP(ctx, "link set vpn1 up", "route add 10.9.0.2/32 dev vpn1"))
		w.beside("wg-quick up wg0")
	}
	down := func() { w.beside("wg-quick down wg0") }
	way := func() string {
		return w.on(fmt.Sprintf("ip route get %s from %s iif %s", internet, w.at, w.bridge))
	}

	w.event("wg-quick up", up)
	if out := way(); !strings.Contains(out, "dev wg0") {
		t.Errorf("the VPN takes all traffic, and a guest's goes %s", out)
	}
	if out := w.on("iptables -S OUTPUT"); !strings.Contains(out, "drawbridge: dns-answers") || strings.Contains(out, "drawbridge: out") {
		t.Errorf("the exceptions in the VPN's switch:\n%s", out)
	}
	if a := w.why("internet"); a.Verdict != "accepted" {
		t.Errorf("why: %+v", a)
	}
	w.event("wg-quick down", down)
	w.event("wg-quick up", up)
	w.event("a client's switch, connected", func() { w.on("nft -f " + w.work + "/switch.nft") })
	// Frames between guests stay on the bridge.
	past := func() bool {
		out := w.on("nft list chain inet mullvad forward")
		return strings.Contains(strings.ReplaceAll(out, "drawbridge: within", ""), "drawbridge: ")
	}
	if past() {
		t.Error("guests would get past the tunnel")
	}

	// The tunnel is down, and the switch does what it is for.
	down()
	ping := func() error { _, err := w.guest.Run(ctx, "ping", "-c1", "-W1", internet.String()); return err }
	w.asks("a client's switch, not connected")
	if ping() == nil {
		t.Error("a guest gets past a VPN's switch")
	}
	w.until("doctor tells of the switch", func() error {
		f := w.finding("guests-blocked")
		if f == nil || !strings.Contains(f.Seen, "inet mullvad forward") || !strings.Contains(f.Seen, "a VPN client") || !strings.Contains(f.Fix.Advice, "connect the VPN") {
			return fmt.Errorf("%+v", f)
		}
		return nil
	})
	if ping() == nil || past() {
		t.Error("a guest gets past a VPN's switch a while later")
	}
	w.on("nft delete table inet mullvad")
	w.event("the switch is gone", func() {})
	w.gone()
}
