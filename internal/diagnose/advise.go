package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"drawbridge/internal/topology"
)

// Purpose is what a host's guests are for.
type Purpose string

// The purposes.
const (
	Production  Purpose = "production"
	Development Purpose = "development"
	Laptop      Purpose = "laptop"
	CI          Purpose = "ci"
)

// Purposes lists them.
var Purposes = []Purpose{Production, Development, Laptop, CI}

// Want is something that guests shall be able to.
type Want string

// The wants.
const (
	// WantInbound: others reach services on guests.
	WantInbound Want = "inbound"
	// WantPeer: guests are machines of the LAN like others, with addresses of it.
	WantPeer Want = "lan-peer"
	// WantMigration: guests move to other hosts while they run, and keep addresses.
	WantMigration Want = "live-migration"
	// WantDiscovery: guests find, and are found by, multicast and broadcast.
	WantDiscovery Want = "discovery"
	// WantHidden: nobody outside reaches guests.
	WantHidden Want = "hidden"
	// WantCutOff: guests reach nobody outside.
	WantCutOff Want = "no-internet"
)

// Wants lists them.
var Wants = []Want{WantInbound, WantPeer, WantMigration, WantDiscovery, WantHidden, WantCutOff}

// Ground is what there is to know about a host before its guests get a network.
type Ground struct {
	// Uplink carries the host's default route; "" if it has none. Bridge is the
	// bridge that it, or the default route, is on already.
	Uplink, Bridge string
	// Kind of the uplink in the kernel's words: "" for a card, bond, vlan, wireguard.
	Kind     string
	Wireless bool
	Carrier  bool
	// SpeedMbit is 0 if not known.
	SpeedMbit int
	// OnlyNIC: no other card has a carrier. Operator is who is logged in over it:
	// "192.0.2.9", "" if nobody is seen to.
	OnlyNIC  bool
	Operator string
	// Method is dhcp, static or ra, and Manager the program that manages the uplink;
	// "" if not known. Cannot says why its configuration cannot move to a bridge.
	Method, Manager, Cannot string
	// Cloud is a provider whose network drops frames of addresses that it did not
	// give out, Hypervisor what this host runs on; "" if none is known.
	Cloud, Hypervisor string
	// Port8021X: the switch wants a login for each port (IEEE 802.1X).
	Port8021X bool
	// LAN is the subnet of the uplink, Seen how many machines of it were seen, Six
	// its IPv6 prefix from the router.
	LAN, Six netip.Prefix
	Seen     int
	// Battery: the host has one, so it is carried about.
	Battery bool
	// Root says how the root filesystem comes over the uplink; "" if it does not.
	Root string
	// Others are other programs that make networks or rules here.
	Others []string
	// Networks are drawbridge's own, by mode.
	Networks map[string][]string
}

// Question is what advice is asked for.
type Question struct {
	For   Purpose
	Wants []Want
	// Guest is a name for examples.
	Guest string
}

// Option is one way to connect guests.
type Option struct {
	// Mode is nat, bridged, isolated, direct (macvtap) or routed.
	Mode string
	// Blocked says why it cannot be here; nil if it can.
	Blocked []string
	// For and Against it here.
	For, Against []string
}

// Advice is an answer.
type Advice struct {
	// Mode that is recommended.
	Mode string
	// Why, what it costs, and what speaks against it, a sentence each.
	Why, Costs, Against []string
	Commands            []string
	// Network and Uplink of the first command, for a picture; "" if there is no
	// need for a network that is not there.
	Network, Uplink string
	// Others are the options that were not taken.
	Others []Option
	// Evidence is what was seen on the host.
	Evidence []string
}

// Advise chooses.
func Advise(g Ground, q Question) Advice {
	bridged, nat := bridgedOption(g, q), natOption(g, q)
	isolated := Option{Mode: "isolated", Against: []string{"guests reach each other and the host, and nobody else"}}
	a := Advice{Evidence: g.evidence()}
	pick := nat
	switch {
	case slices.Contains(q.Wants, WantCutOff):
		pick = isolated
		pick.For, pick.Against = []string{"guests shall reach nobody outside"}, nil
	case len(bridged.Blocked) > 0:
	case wantsBridge(g, q):
		pick = bridged
	}
	a.Mode, a.Why, a.Against = pick.Mode, pick.For, pick.Against
	if pick.Mode == "nat" && wantsBridge(g, q) {
		for _, b := range bridged.Blocked {
			a.Why = append([]string{"a bridge would suit what you want, and is not possible here: " + b}, a.Why...)
		}
	}
	a.Costs = costs(pick.Mode, g)
	a.Commands, a.Network, a.Uplink = commands(pick.Mode, g, q)
	for _, o := range []Option{bridged, nat, isolated, direct(g, q), routed(g)} {
		if o.Mode != pick.Mode {
			a.Others = append(a.Others, o)
		}
	}
	return a
}

// wantsBridge says whether what is asked for is what only a bridge gives, or gives
// better.
func wantsBridge(g Ground, q Question) bool {
	has := func(w Want) bool { return slices.Contains(q.Wants, w) }
	switch {
	case has(WantHidden):
		return false
	case has(WantPeer), has(WantMigration), has(WantDiscovery):
		return true
	case q.For == Production:
		return has(WantInbound) || len(q.Wants) == 0
	}
	return false
}

func bridgedOption(g Ground, q Question) Option {
	o := Option{Mode: "bridged"}
	block := func(when bool, why string) {
		if when {
			o.Blocked = append(o.Blocked, why)
		}
	}
	block(g.Uplink == "" && g.Bridge == "", "the host has no default route, so there is no NIC to bridge")
	block(g.Wireless, fmt.Sprintf("%s is Wi-Fi: a station sends frames of its own hardware address only (IEEE 802.11)", g.Uplink))
	block(g.Cloud != "", fmt.Sprintf("this is a machine of %s, whose network drops frames of addresses that it did not give out", g.Cloud))
	block(g.Port8021X, fmt.Sprintf("%s logs in at its switch (802.1X), which then lets in one hardware address", g.Uplink))
	block(slices.Contains([]string{"wireguard", "tun", "ppp", "ipip", "gre"}, g.Kind), fmt.Sprintf("%s is a %s tunnel, which carries no Ethernet", g.Uplink, g.Kind))
	block(g.Root != "", fmt.Sprintf("the root filesystem comes over %s (%s), which must not be interrupted", g.Uplink, g.Root))
	block(g.Cannot != "", "the configuration of "+g.Uplink+" cannot be carried over: "+g.Cannot)
	reasons := map[Want]string{
		WantInbound: "others reach guests by their own addresses, on every port", WantPeer: "guests have addresses of the LAN, from its own DHCP",
		WantMigration: "a guest that moves to another host on the same LAN keeps its address and its connections", WantDiscovery: "multicast and broadcast of the LAN reach guests",
	}
	for _, w := range Wants {
		if slices.Contains(q.Wants, w) && reasons[w] != "" {
			o.For = append(o.For, reasons[w])
		}
	}
	if q.For == Production {
		o.For = append(o.For, "the path has no translation to keep track of: no table of connections that fills up, and logs show who really called")
	}
	against := func(when bool, why string) {
		if when {
			o.Against = append(o.Against, why)
		}
	}
	against(g.Bridge == "" && g.OnlyNIC && g.Operator != "", fmt.Sprintf("%s is the only NIC and you are logged in over it from %s: the change is made on trial, and taken back unless you confirm it", g.Uplink, g.Operator))
	against(g.Bridge == "" && g.OnlyNIC && g.Operator == "", fmt.Sprintf("%s is the only NIC: the change is made on trial, and taken back unless you confirm it", g.Uplink))
	against(g.Hypervisor != "", fmt.Sprintf("this host is itself a guest (%s): its own network has to allow frames of other hardware addresses (VMware: promiscuous mode and forged transmits; Hyper-V: MAC address spoofing; Proxmox: MAC filter off)", g.Hypervisor))
	against(g.Battery || q.For == Laptop, "on another network, or by Wi-Fi, guests are cut off")
	against(g.LAN.IsValid() && g.LAN.Addr().Is4() && crowded(g), fmt.Sprintf("%d machines were seen in %s: there may be no addresses left for guests", g.Seen, g.LAN))
	against(g.Uplink != "" && !g.Carrier, g.Uplink+" has no carrier just now")
	against(g.Manager == "none" || g.Manager == "", "no network manager was found that would keep the bridge: a boot unit of drawbridge's own does")
	against(slices.Contains(g.Others, "Docker"), "Docker turns on br_netfilter, which shows bridged frames to its rules: drawbridge makes an exception for the bridge")
	against(q.For == Production, "guests stand in the LAN without this host's NAT before them: they need a firewall of their own")
	return o
}

func crowded(g Ground) bool {
	free := 32 - g.LAN.Bits()
	return free > 0 && free <= 16 && g.Seen*4 > (1<<free)*3
}

func natOption(g Ground, q Question) Option {
	o := Option{Mode: "nat", For: []string{"it works on every host, and does not touch the host's own NIC"}}
	has := func(w Want) bool { return slices.Contains(q.Wants, w) }
	if g.Battery || q.For == Laptop {
		o.For = append(o.For, "it follows the host from network to network: cable, Wi-Fi, VPN")
	}
	if q.For == CI || q.For == Development {
		o.For = append(o.For, "guests come and go without using up the LAN's addresses, and nobody outside begins a connection to them")
	}
	if has(WantHidden) {
		o.For = append(o.For, "nobody outside begins a connection to a guest")
	}
	if has(WantInbound) {
		o.Against = append(o.Against, "each service that others use needs a forward: drawbridge forward add 8080 GUEST:80")
	}
	for w, why := range map[Want]string{
		WantPeer: "guests have addresses that the LAN does not know", WantMigration: "a guest that moves to another host loses its connections",
		WantDiscovery: "multicast and broadcast of the LAN do not reach guests",
	} {
		if has(w) {
			o.Against = append(o.Against, why)
		}
	}
	slices.Sort(o.Against)
	if g.Uplink == "" {
		o.Against = append(o.Against, "the host has no way out just now; guests have one as soon as it has")
	}
	return o
}

// direct is macvtap, and routed a prefix of the guests' own: never the first advice,
// and named because people ask.
func direct(g Ground, _ Question) Option {
	o := Option{Mode: "direct", Against: []string{"with macvtap the host and its guests do not reach each other, which surprises nearly everybody"}}
	if g.Wireless {
		o.Blocked = append(o.Blocked, g.Uplink+" is Wi-Fi, as for a bridge")
	}
	if g.Cloud != "" {
		o.Blocked = append(o.Blocked, g.Cloud+" drops its frames, as those of a bridge")
	}
	return o
}

func routed(g Ground) Option {
	o := Option{Mode: "routed", Against: []string{"the LAN's router needs a route to the guests' subnet"}}
	if !g.Six.IsValid() {
		o.Against = append(o.Against, "no IPv6 prefix of the provider's was seen that could be shared with guests")
	}
	return o
}

func costs(mode string, g Ground) []string {
	switch mode {
	case "bridged":
		if g.Bridge != "" {
			return []string{"nothing of the host changes: it is on the bridge " + g.Bridge + " already"}
		}
		return []string{"the NIC moves into a bridge with the same addresses, routes and hardware address; nothing is lost on the way (measured: 4000 of 4000 pings at 1 kHz)"}
	case "nat":
		return []string{"an entry in the kernel's table of connections for each connection, and the host's address in place of the guest's"}
	}
	return []string{"none"}
}

func commands(mode string, g Ground, q Question) (list []string, network, uplink string) {
	guest := q.Guest
	if guest == "" {
		guest = "GUEST"
	}
	use := func(name string) string {
		return fmt.Sprintf("drawbridge qemu --nic network=%s,name=%s -- qemu-system-x86_64 …", name, guest)
	}
	if have := g.Networks[mode]; len(have) > 0 {
		list = append(list, use(have[0]))
	} else {
		switch {
		case mode == "bridged" && g.Bridge != "":
			network = "lan"
			list = append(list, fmt.Sprintf("drawbridge network create lan --mode bridged --adopt %s", g.Bridge))
		case mode == "bridged":
			network, uplink = "lan", g.Uplink
			list = append(list, fmt.Sprintf("drawbridge network create lan --mode bridged --uplink %s", g.Uplink))
		default:
			network = map[string]string{"nat": "default", "isolated": "lab"}[mode]
			list = append(list, fmt.Sprintf("drawbridge network create %s --mode %s", network, mode))
		}
		list = append(list, use(network))
	}
	if mode == "nat" && slices.Contains(q.Wants, WantInbound) {
		list = append(list, fmt.Sprintf("drawbridge forward add 8080 %s:80", guest))
	}
	return list, network, uplink
}

// evidence is the ground in sentences.
func (g Ground) evidence() []string {
	var list []string
	say := func(when bool, format string, args ...any) {
		if when {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	say(g.Uplink == "" && g.Bridge == "", "the host has no default route")
	if g.Uplink != "" {
		text := "the default route leads over " + g.Uplink
		if g.Kind != "" {
			text += " (" + g.Kind + ")"
		}
		if g.Wireless {
			text += ", which is Wi-Fi"
		}
		if !g.Carrier {
			text += ", which has no carrier"
		} else if g.SpeedMbit > 0 {
			text += ", " + topology.Speed(g.SpeedMbit)
		}
		list = append(list, text)
	}
	say(g.Bridge != "", "the host's addresses are on the bridge %s already", g.Bridge)
	say(g.OnlyNIC, "it is the only NIC in use")
	say(g.Operator != "", "you are logged in over it from %s", g.Operator)
	say(g.LAN.IsValid() && g.Method != "", "it is in %s, by %s", g.LAN, g.Method)
	say(g.LAN.IsValid() && g.Method == "", "it is in %s", g.LAN)
	say(g.Seen == 1, "one other machine was seen there")
	say(g.Seen > 1, "%d other machines were seen there", g.Seen)
	say(g.Six.IsValid(), "its IPv6 prefix is %s", g.Six)
	say(g.Manager != "", "%s manages it", g.Manager)
	say(g.Cloud != "", "the firmware says %s", g.Cloud)
	say(g.Hypervisor != "", "the host is a guest of %s", g.Hypervisor)
	say(g.Port8021X, "it logs in at the switch by 802.1X")
	say(g.Battery, "the host has a battery")
	say(g.Root != "", "the root filesystem comes over it: %s", g.Root)
	say(len(g.Others) > 0, "other programs with networks or rules: %s", strings.Join(g.Others, ", "))
	for _, mode := range []string{"nat", "bridged", "isolated"} {
		say(len(g.Networks[mode]) > 0, "networks of mode %s: %s", mode, strings.Join(g.Networks[mode], ", "))
	}
	return list
}

// Text is the advice for people, a line each.
func (a Advice) Text() []string {
	lines := []string{"recommended: " + a.Mode}
	part := func(title string, list []string) {
		for i, text := range list {
			if i > 0 {
				title = strings.Repeat(" ", len(title))
			}
			lines = append(lines, fmt.Sprintf("  %s %s", title, text))
		}
	}
	part("why:    ", a.Why)
	part("costs:  ", a.Costs)
	part("against:", a.Against)
	part("do:     ", a.Commands)
	for _, o := range a.Others {
		switch {
		case len(o.Blocked) > 0:
			lines = append(lines, fmt.Sprintf("not %s: %s", o.Mode, strings.Join(o.Blocked, "; ")))
		case len(o.Against) > 0:
			lines = append(lines, fmt.Sprintf("or %s: %s", o.Mode, strings.Join(o.Against, "; ")))
		default:
			lines = append(lines, "or "+o.Mode)
		}
	}
	part("seen:   ", a.Evidence)
	return lines
}
