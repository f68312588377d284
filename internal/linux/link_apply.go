package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// applyLinks does a run of link steps; neighbouring deletions go together.
func (h *Host) applyLinks(ctx context.Context, steps []plan.Step, leaving map[host.Key]bool) error {
	for i := 0; i < len(steps); {
		if err := ctx.Err(); err != nil {
			return err
		}
		if steps[i].After != nil {
			want := steps[i].After.(host.Link)
			if before, ok := steps[i].Before.(host.Link); ok && want.Master == "" && leaving[host.LinkKey(before.Master)] {
				if err := h.yieldRoutes(before.Master); err != nil {
					return err
				}
			}
			if err := h.putLink(want); err != nil {
				return err
			}
			i++
			continue
		}
		first := i
		for i < len(steps) && steps[i].After == nil {
			i++
		}
		if err := h.deleteLinks(steps[first:i]); err != nil {
			return err
		}
	}
	return nil
}

// putLink makes a link if it is not there, then changes what differs.
func (h *Host) putLink(want host.Link) error {
	if want.Master == "" && (want.Isolated || want.Hairpin) {
		return fmt.Errorf("change link %s: a link that is no bridge port has no port flags", want.Name)
	}
	if want.Type != host.TypeBridge && (want.STP || want.ForwardDelay != 0 || want.Filter) {
		return fmt.Errorf("change link %s: a link that is no bridge has no spanning tree and filters no VLANs", want.Name)
	}
	if want.Type != host.TypeBridge && want.Master == "" && want.VLANs != "" {
		return fmt.Errorf("change link %s: a link that is no bridge port is in no VLANs", want.Name)
	}
	there, err := h.rtnl.linkBy(0, want.Name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := h.makeLink(want); err != nil {
			return err
		}
		there, err = h.rtnl.linkBy(0, want.Name)
	}
	if err != nil {
		return err
	}
	if there.Type != want.Type || there.Name != want.Name {
		return fmt.Errorf("link %s is of type %q, not %q: %w", want.Name, there.Type, want.Type, fs.ErrExist)
	}
	return h.changeLink(there, want)
}

// makeLink makes a link, down and out of any bridge.
func (h *Host) makeLink(want host.Link) error {
	switch want.Type {
	case host.TypeTap:
		files, err := h.OpenTap(want.Name, 1, -1, true)
		for _, f := range files {
			f.Close()
		}
		return err
	case "", host.TypeVeth:
		return fmt.Errorf("create link %s: a link of type %q cannot be made", want.Name, want.Type)
	}
	_, err := h.rtnl.do(unix.RTM_NEWLINK, flagCreate, linkHeader(0, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, want.Name)
		if mac, err := net.ParseMAC(want.MAC); err == nil {
			ae.Bytes(unix.IFLA_ADDRESS, mac)
		}
		if want.Type == host.TypeBridge && want.MTU > 1 {
			// Wrong on purpose: only a bridge whose MTU is *changed* keeps it;
			// one that is made with it, or has it already, follows its ports
			// (BROPT_MTU_SET_BY_USER in net/bridge/br_device.c).
			ae.Uint32(unix.IFLA_MTU, uint32(want.MTU-1))
		}
		nest(ae, unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.IFLA_INFO_KIND, want.Type)
			if want.Type == host.TypeBridge {
				nest(ae, unix.IFLA_INFO_DATA, func(ae *netlink.AttributeEncoder) {
					ae.Uint32(unix.IFLA_BR_FORWARD_DELAY, want.ForwardDelay)
					ae.Uint32(unix.IFLA_BR_STP_STATE, number(want.STP))
					if want.Filter {
						ae.Uint8(unix.IFLA_BR_VLAN_FILTERING, 1)
					}
				})
			}
		})
	})
	if err != nil {
		return fmt.Errorf("create link %s: %w", want.Name, err)
	}
	return nil
}

// changeLink sends what differs, in as few messages as can be: STP before a
// forward delay that is only legal without it, everything else, and the VLANs and
// flags of a bridge port, which the kernel takes only once the port is one. A link
// goes up last, so that an isolated port was never anything else, and one of a
// VLAN never in another.
func (h *Host) changeLink(there link, want host.Link) error {
	known := map[int]link{}
	err := h.nameOthers(&there, known)
	if err == nil {
		err = h.readVLANs(&there, known)
	}
	if err != nil {
		return err
	}
	if want.Type == host.TypeBridge {
		if err = h.changeBridge(there, want); err != nil {
			return err
		}
	}
	master, bridge := 0, known[there.master]
	if want.Master != "" && want.Master != there.Master {
		if bridge, err = h.rtnl.linkBy(0, want.Master); err != nil {
			return fmt.Errorf("plug link %s: %w", want.Name, err)
		}
		if bridge.STP && !bridge.carrier {
			return h.plugFirst(bridge, there, want)
		}
		master = bridge.index
	}
	replug := want.Master != there.Master
	if replug && want.Type != host.TypeTap && there.Up {
		over := master
		if over == 0 {
			over = there.master
		}
		end, err := h.detours.begin(there.index, over)
		if err != nil {
			h.log.Debug("a packet may be lost while a link is plugged", "link", want.Name, "err", err)
		}
		defer end()
	}
	hadIsolated, hadHairpin := there.Isolated && !replug, there.Hairpin && !replug
	flags := want.Master != "" && (want.Isolated != hadIsolated || want.Hairpin != hadHairpin)
	// A port that comes out of another bridge is in what every new port is in.
	vlans := want.Master != "" && (want.VLANs != there.VLANs && !replug || want.VLANs != "" && replug)
	later := flags || vlans
	attrs := h.differing(there, want, replug, master)
	if attrs != nil || (!later && want.Up != there.Up) {
		header := linkHeader(there.index, 0, 0)
		if !later {
			header = linkHeader(there.index, number(want.Up)*unix.IFF_UP, unix.IFF_UP)
		}
		if _, err := h.rtnl.do(unix.RTM_NEWLINK, flagChange, header, attrs); err != nil {
			return fmt.Errorf("change link %s: %w", want.Name, err)
		}
	}
	if replug && master != 0 && there.Up && there.carrier && want.Type != host.TypeTap {
		if err := h.awaitSends(master, want.Master); err != nil {
			return err
		}
		if err := h.takeNeighbours(there.index, master); err != nil {
			return err
		}
	}
	if vlans {
		if err := h.putVLANs(there, want.VLANs, bridge); err != nil {
			return err
		}
	}
	if later {
		return h.changePort(there, want)
	}
	return nil
}

func (h *Host) changePort(there link, want host.Link) error {
	header := linkHeader(there.index, number(want.Up)*unix.IFF_UP, unix.IFF_UP)
	if _, err := h.rtnl.do(unix.RTM_NEWLINK, flagChange, header, portFlags(want)); err != nil {
		return fmt.Errorf("change bridge port %s: %w", want.Name, err)
	}
	return nil
}

// plugFirst plugs a port into a bridge that speaks the spanning tree protocol and
// has no other that forwards. By that protocol nothing would go through for twice
// the forward delay, 8 s at least. With a single port there can be no loop, so it
// begins without the protocol; one that forwards goes on when that is turned on
// (br_make_forwarding in net/bridge/br_stp.c), and later ports wait their time.
func (h *Host) plugFirst(bridge, there link, want host.Link) error {
	on, off := bridge, bridge
	off.STP = false
	if err := h.changeBridge(on, off.Link); err != nil {
		return err
	}
	return errors.Join(h.changeLink(there, want), h.changeBridge(off, on.Link))
}

// A bridge gets its carrier from its first port, and some time later, from a
// worker of the kernel (linkwatch_do_dev in net/core/link_watch.c), what it sends
// with: until then it drops all that is sent, whatever the name of its queue.
// Should the worker see the bridge as it was before, it makes it forget its
// neighbours (arp_netdev_event in net/ipv4/arp.c).
const (
	sendsLimit = 2 * time.Second
	sendsPause = 100 * time.Microsecond
)

// awaitSends waits until a bridge sends what it is given. The worker sets the
// state first, but both under the lock under which it is read here.
func (h *Host) awaitSends(index int, name string) error {
	for begin := time.Now(); ; time.Sleep(sendsPause) {
		l, err := h.rtnl.linkBy(index, name)
		if err != nil {
			return err
		}
		if !l.Up || l.operational && l.queue != noQueue {
			return nil
		}
		if time.Since(begin) > sendsLimit {
			return fmt.Errorf("plug into %s: the bridge did not begin to send", name)
		}
	}
}

const noQueue = "noop"

func (h *Host) changeBridge(there link, want host.Link) error {
	set := func(attr uint16, v uint32) error {
		return h.setBridge(there, func(ae *netlink.AttributeEncoder) { ae.Uint32(attr, v) })
	}
	stp := func() error {
		if there.STP == want.STP {
			return nil
		}
		return set(unix.IFLA_BR_STP_STATE, number(want.STP))
	}
	delay := func() error {
		if there.ForwardDelay == want.ForwardDelay {
			return nil
		}
		return set(unix.IFLA_BR_FORWARD_DELAY, want.ForwardDelay)
	}
	if err := h.filterVLANs(there, want); err != nil {
		return err
	}
	if want.STP {
		return errors.Join(delay(), stp())
	}
	err := errors.Join(stp(), delay())
	if err == nil && there.STP {
		err = h.endWait(there)
	}
	return err
}

// endWait lets the ports of a bridge that does without spanning tree now forward at
// once. Their timers go on as they were: a port that began to listen just before would
// forward after twice the old delay only, 30 s by default (measured, Linux 6.18).
func (h *Host) endWait(bridge link) error {
	all, err := h.rtnl.links()
	if err != nil {
		return fmt.Errorf("list the ports of %s: %w", bridge.Name, err)
	}
	for _, p := range all {
		if p.master != bridge.index || p.port.state != stateListening && p.port.state != stateLearning {
			continue
		}
		_, err := h.rtnl.do(unix.RTM_NEWLINK, flagChange, linkHeader(p.index, 0, 0), portData(func(ae *netlink.AttributeEncoder) {
			ae.Uint8(unix.IFLA_BRPORT_STATE, stateForwarding)
		}))
		// A port that went down meanwhile begins anew when it is up again.
		if err != nil && !isAny(err, unix.ENETDOWN, unix.ENODEV, unix.EINVAL) {
			return fmt.Errorf("let port %s forward: %w", p.Name, err)
		}
	}
	return nil
}

// States of a port, BR_STATE_* of linux/if_bridge.h.
const (
	stateListening  = 1
	stateLearning   = 2
	stateForwarding = 3
)

// filterVLANs puts a bridge itself into VLANs before it begins to tell them apart,
// and takes it out of them once it has ceased to: the host's own frames pass.
func (h *Host) filterVLANs(there link, want host.Link) error {
	filter := func() error {
		if there.Filter == want.Filter {
			return nil
		}
		err := h.setBridge(there, func(ae *netlink.AttributeEncoder) { ae.Uint8(unix.IFLA_BR_VLAN_FILTERING, uint8(number(want.Filter))) })
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("the kernel's bridges cannot tell VLANs apart (CONFIG_BRIDGE_VLAN_FILTERING): %w", err)
		}
		return err
	}
	members := func() error {
		if there.VLANs == want.VLANs {
			return nil
		}
		return h.putVLANs(there, want.VLANs, there)
	}
	if want.Filter {
		return errors.Join(members(), filter())
	}
	return errors.Join(filter(), members())
}

// setBridge sends one attribute of a bridge.
func (h *Host) setBridge(there link, attr attributes) error {
	_, err := h.rtnl.do(unix.RTM_NEWLINK, flagChange, linkHeader(there.index, 0, 0), func(ae *netlink.AttributeEncoder) {
		nest(ae, unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.IFLA_INFO_KIND, host.TypeBridge)
			nest(ae, unix.IFLA_INFO_DATA, attr)
		})
	})
	if err != nil {
		return fmt.Errorf("change bridge %s: %w", there.Name, err)
	}
	return nil
}

// differing makes the attributes that have to change, or nil if none has.
func (h *Host) differing(there link, want host.Link, replug bool, master int) attributes {
	var add []attributes
	if mac, err := net.ParseMAC(want.MAC); err == nil && want.MAC != there.MAC {
		add = append(add, func(ae *netlink.AttributeEncoder) { ae.Bytes(unix.IFLA_ADDRESS, mac) })
	}
	if want.MTU != there.MTU && want.MTU != 0 {
		add = append(add, func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.IFLA_MTU, uint32(want.MTU)) })
	}
	if want.Alias != there.Alias {
		add = append(add, func(ae *netlink.AttributeEncoder) { ae.Bytes(unix.IFLA_IFALIAS, []byte(want.Alias)) })
	}
	if replug {
		add = append(add, func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.IFLA_MASTER, uint32(master)) })
	}
	if add == nil {
		return nil
	}
	return func(ae *netlink.AttributeEncoder) {
		for _, a := range add {
			a(ae)
		}
	}
}

// portFlags are what a link is as a port of its bridge.
func portFlags(want host.Link) attributes {
	return portData(func(ae *netlink.AttributeEncoder) {
		ae.Uint8(unix.IFLA_BRPORT_ISOLATED, uint8(number(want.Isolated)))
		ae.Uint8(unix.IFLA_BRPORT_MODE, uint8(number(want.Hairpin)))
	})
}

// portData are attributes of a port of a bridge, IFLA_BRPORT_*.
func portData(attrs attributes) attributes {
	return func(ae *netlink.AttributeEncoder) {
		nest(ae, unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.IFLA_INFO_SLAVE_KIND, host.TypeBridge)
			nest(ae, unix.IFLA_INFO_SLAVE_DATA, attrs)
		})
	}
}

func number(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// deleteLinks deletes links together: one by one each waits for a grace period
// of the kernel (18 ms measured), as a link group they wait for it once.
func (h *Host) deleteLinks(steps []plan.Step) error {
	var there []link
	for _, s := range steps {
		want := s.Before.(host.Link)
		l, err := h.rtnl.linkBy(0, want.Name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && l.Name != want.Name {
			continue
		}
		if err != nil {
			return err
		}
		if l.Type != want.Type {
			return fmt.Errorf("delete link %s: it is of type %q now, not %q", want.Name, l.Type, want.Type)
		}
		there = append(there, l)
	}
	switch len(there) {
	case 0:
		return nil
	case 1:
		_, err := h.rtnl.do(unix.RTM_DELLINK, flagChange, linkHeader(there[0].index, 0, 0), nil)
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete link %s: %w", there[0].Name, err)
		}
		return nil
	}
	return h.deleteGroup(there)
}

func (h *Host) deleteGroup(links []link) error {
	group, err := h.freeGroup()
	if err != nil {
		return err
	}
	join := func(l link, group uint32) error {
		_, err := h.rtnl.do(unix.RTM_NEWLINK, flagChange, linkHeader(l.index, 0, 0), func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.IFLA_GROUP, group)
		})
		if errors.Is(err, unix.ENODEV) {
			return nil // gone by itself, as the taps of a guest that ends
		}
		return err
	}
	leave := func() {
		for _, l := range links {
			if err := join(l, l.group); err != nil {
				h.log.Warn("put a link back into its group", "link", l.Name, "group", l.group, "error", err)
			}
		}
	}
	for _, l := range links {
		if err := join(l, group); err != nil {
			leave()
			return fmt.Errorf("delete link %s: put it into group %d: %w", l.Name, group, err)
		}
	}
	_, err = h.rtnl.do(unix.RTM_DELLINK, flagChange, linkHeader(0, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.IFLA_GROUP, group)
	})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		leave()
		return fmt.Errorf("delete %d links, %s first: %w", len(links), links[0].Name, err)
	}
	return nil
}

// freeGroup picks a link group that no link is in. It is random and large, so
// that nobody puts a link of theirs into it between this and the deletion.
func (h *Host) freeGroup() (uint32, error) {
	links, err := h.rtnl.links()
	if err != nil {
		return 0, err
	}
	taken := map[uint32]bool{}
	for _, l := range links {
		taken[l.group] = true
	}
	for {
		group := 1<<30 | rand.Uint32N(1<<30)
		if !taken[group] {
			return group, nil
		}
	}
}
