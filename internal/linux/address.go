package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// addressHeader is struct ifaddrmsg.
func addressHeader(family, length, index int) []byte {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1] = byte(family), byte(length)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

func familyOfAddr(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func parseAddress(m netlink.Message, now time.Duration) (a host.Address, index int, err error) {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return a, 0, fmt.Errorf("address message of %d bytes is cut short", len(m.Data))
	}
	length := int(m.Data[1])
	flags := uint32(m.Data[2])
	index = int(binary.NativeEndian.Uint32(m.Data[4:]))
	var local, address, bcast netip.Addr
	err = decode(m.Data, unix.SizeofIfAddrmsg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.IFA_BROADCAST:
			bcast, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.IFA_LABEL:
			a.Label = ad.String()
		case unix.IFA_FLAGS:
			flags = ad.Uint32()
		case unix.IFA_RT_PRIORITY:
			a.Metric = int(ad.Uint32())
		case ifaProto:
			a.Proto = int(ad.Uint8())
		case unix.IFA_CACHEINFO:
			a.PreferredUntil, a.ValidUntil = lifetimes(ad.Bytes(), now)
		}
	})
	if !local.IsValid() {
		local = address // only IPv4 and peers have both
	}
	if address != local {
		a.Peer = address
	}
	a.Addr = netip.PrefixFrom(local, length)
	a.Dynamic = flags&unix.IFA_F_PERMANENT == 0
	if local.Is4() {
		a.Scope = int(m.Data[3])
		a.Broadcast = unusual(bcast, usualBroadcast(a))
	}
	a.NoPrefixRoute = flags&unix.IFA_F_NOPREFIXROUTE != 0
	a.MulticastJoin = flags&unix.IFA_F_MCAUTOJOIN != 0
	if local.Is6() {
		a.NoDAD = flags&unix.IFA_F_NODAD != 0
		a.Home = flags&unix.IFA_F_HOMEADDRESS != 0
		a.ManageTemp = flags&unix.IFA_F_MANAGETEMPADDR != 0
		a.Optimistic = flags&unix.IFA_F_OPTIMISTIC != 0
		a.Unrestorable = onlyKernel(flags)
	}
	return a, index, err
}

// ifaProto is IFA_PROTO of linux/if_addr.h (since 5.18).
const ifaProto = 11

// onlyKernel names what only the kernel itself can make of an IPv6 address; both
// flags are refused from programs (inet6_rtm_newaddr in net/ipv6/addrconf.c).
func onlyKernel(flags uint32) string {
	var what []string
	if flags&unix.IFA_F_TEMPORARY != 0 {
		what = append(what, "temporary (see use_tempaddr)")
	}
	if flags&unix.IFA_F_STABLE_PRIVACY != 0 {
		what = append(what, "stable privacy (see addr_gen_mode)")
	}
	return strings.Join(what, ", ")
}

// usualBroadcast is what an IPv4 address gets unless it is told otherwise.
func usualBroadcast(a host.Address) netip.Addr {
	if !a.Addr.Addr().Is4() || a.Addr.Bits() > 30 || a.Peer.IsValid() {
		return netip.Addr{}
	}
	b := a.Addr.Masked().Addr().As4()
	v := binary.BigEndian.Uint32(b[:]) | (1<<(32-a.Addr.Bits()) - 1)
	addr, _ := netip.AddrFromSlice(binary.BigEndian.AppendUint32(nil, v))
	return addr
}

// unusual is what a broadcast address is in a host.Address.
func unusual(there, usual netip.Addr) netip.Addr {
	switch {
	case there == usual:
		return netip.Addr{}
	case !there.IsValid():
		return netip.IPv4Unspecified()
	}
	return there
}

// monotonic reads CLOCK_MONOTONIC: as lifetimes do, it stands still while the
// machine sleeps.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // cannot fail on any kernel that this runs on
	}
	return time.Duration(ts.Nano())
}

// until is when something ends, in whole seconds, of what the kernel says is
// left: it rounds up, so that half a second less is the best guess.
func until(left int64, now time.Duration) int64 {
	return int64((now + time.Duration(left)*time.Second - time.Second/2).Round(time.Second) / time.Second)
}

// leftOf is the inverse of until, and at least some seconds.
func leftOf(until, least int64, now time.Duration) int64 {
	return max(int64((time.Duration(until)*time.Second-now).Round(time.Second)/time.Second), least)
}

// forever is INFINITY_LIFE_TIME of linux/if_addr.h.
const forever = 1<<32 - 1

// lifetimes reads struct ifa_cacheinfo, in which they are what is left.
func lifetimes(b []byte, now time.Duration) (preferred, valid int64) {
	if len(b) < 8 {
		return 0, 0
	}
	end := func(left uint32) int64 {
		if left == forever {
			return 0
		}
		return max(until(int64(left), now), 1)
	}
	return end(binary.NativeEndian.Uint32(b)), end(binary.NativeEndian.Uint32(b[4:]))
}

// shortestLife is what an address gets whose time was over before it could be
// put back: it is there, and the kernel takes it away.
const shortestLife = 2

// cacheInfo writes struct ifa_cacheinfo.
func cacheInfo(a host.Address, now time.Duration) []byte {
	left := func(until, least int64) uint32 {
		if until == 0 {
			return forever
		}
		return uint32(leftOf(until, least, now))
	}
	b := binary.NativeEndian.AppendUint32(nil, left(a.PreferredUntil, 0))
	b = binary.NativeEndian.AppendUint32(b, left(a.ValidUntil, shortestLife))
	return append(b, make([]byte, 8)...)
}

// addresses dumps the addresses of one link, or of all with index 0.
func (r *rtnl) addresses(index int, each func(a host.Address, index int)) error {
	msgs, err := r.dump(unix.RTM_GETADDR, addressHeader(unix.AF_UNSPEC, 0, index), nil)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	now := monotonic()
	place := map[[2]int]int{}
	for _, m := range msgs {
		a, at, err := parseAddress(m, now)
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		// IPv4 is listed oldest first, IPv6 youngest first (ipv6_link_dev_addr).
		nth, step := [2]int{at, familyOfAddr(a.Addr.Addr())}, 1
		if a.Addr.Addr().Is6() {
			step = -1
		}
		a.Place = place[nth]
		place[nth] += step
		each(a, at)
	}
	return nil
}

// onLink fills in the name of the link, also where the label is only that.
func onLink(a host.Address, link string) host.Address {
	a.Link = link
	if a.Label == link {
		a.Label = ""
	}
	return a
}

func (h *Host) allAddresses(seen host.State, names map[int]string) error {
	return h.rtnl.addresses(0, func(a host.Address, index int) {
		if name, ok := names[index]; ok {
			seen.Add(onLink(a, name))
		}
	})
}

func (h *Host) observeAddresses(seen host.State, keys []host.Key) error {
	wanted := map[string]map[host.Key]bool{}
	for _, k := range keys {
		link, _, _ := strings.Cut(k.Name, " ")
		if wanted[link] == nil {
			wanted[link] = map[host.Key]bool{}
		}
		wanted[link][k] = true
	}
	for name, keys := range wanted {
		on, err := h.addressesOf(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, a := range on {
			if keys[a.Key()] {
				seen.Add(a)
			}
		}
	}
	return nil
}

func (h *Host) addressesOf(name string) ([]host.Address, error) {
	l, err := h.rtnl.linkBy(0, name)
	if err != nil {
		return nil, err
	}
	var on []host.Address
	err = h.rtnl.addresses(l.index, func(a host.Address, _ int) {
		on = append(on, onLink(a, name))
	})
	return on, err
}

func (h *Host) addAddress(l link, a host.Address, leaving map[host.Key]bool) error {
	err := h.rtnl.sendAddress(unix.RTM_NEWADDR, flagCreate, l.index, a)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	on, err := h.addressesOf(a.Link)
	if err != nil {
		return err
	}
	for _, there := range on {
		switch {
		case host.Same(there, a):
			return nil
		case there.Key() == a.Key():
			return h.replaceAddress(l, there, a)
		case there.Addr.Addr() == a.Addr.Addr() && leaving[there.Key()]:
			// To IPv6 an address is the same whatever its length is; this one
			// was to go after the new one came.
			if err := h.rtnl.sendAddress(unix.RTM_DELADDR, flagChange, l.index, there); err != nil {
				return err
			}
			return h.rtnl.sendAddress(unix.RTM_NEWADDR, flagCreate, l.index, a)
		}
	}
	return fmt.Errorf("the link has the address with another length: %w", fs.ErrExist)
}

// replaceAddress changes what an address is like. Of IPv4 the kernel changes
// only lifetimes, the metric and who made it (inet_rtm_newaddr); for anything
// else it has to be made again.
func (h *Host) replaceAddress(l link, there, a host.Address) error {
	same := there
	same.ValidUntil, same.PreferredUntil, same.Place = a.ValidUntil, a.PreferredUntil, a.Place
	same.Dynamic, same.Metric, same.Proto = a.Dynamic, a.Metric, a.Proto
	if a.Addr.Addr().Is6() || same == a {
		return h.rtnl.sendAddress(unix.RTM_NEWADDR, flagReplace, l.index, a)
	}
	if err := h.rtnl.sendAddress(unix.RTM_DELADDR, flagChange, l.index, there); err != nil {
		return err
	}
	return h.rtnl.sendAddress(unix.RTM_NEWADDR, flagCreate, l.index, a)
}

func (h *Host) deleteAddress(a host.Address) error {
	l, err := h.rtnl.linkBy(0, a.Link)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = h.rtnl.sendAddress(unix.RTM_DELADDR, flagChange, l.index, a)
	if isAny(err, unix.EADDRNOTAVAIL, unix.ENODEV, unix.ENOENT) {
		return nil
	}
	return err
}

func (r *rtnl) sendAddress(typ uint16, flags netlink.HeaderFlags, index int, a host.Address) error {
	header := addressHeader(familyOfAddr(a.Addr.Addr()), a.Addr.Bits(), index)
	header[3] = byte(a.Scope)
	_, err := r.do(typ, flags, header, func(ae *netlink.AttributeEncoder) {
		ip, far := a.Addr.Addr().AsSlice(), a.Addr.Addr().AsSlice()
		if a.Peer.IsValid() {
			far = a.Peer.AsSlice()
		}
		ae.Bytes(unix.IFA_LOCAL, ip)
		ae.Bytes(unix.IFA_ADDRESS, far)
		if typ == unix.RTM_DELADDR {
			return
		}
		if a.Addr.Addr().Is4() {
			bcast := a.Broadcast
			if !bcast.IsValid() {
				bcast = usualBroadcast(a)
			}
			if bcast.IsValid() && !bcast.IsUnspecified() {
				ae.Bytes(unix.IFA_BROADCAST, bcast.AsSlice())
			}
			if a.Label != "" {
				ae.String(unix.IFA_LABEL, a.Label)
			}
		}
		if a.Metric != 0 {
			ae.Uint32(unix.IFA_RT_PRIORITY, uint32(a.Metric))
		}
		if a.Proto != 0 {
			ae.Uint8(ifaProto, uint8(a.Proto))
		}
		if f := addressFlags(a); f != 0 {
			ae.Uint32(unix.IFA_FLAGS, f)
		}
		if a.Dynamic || a.PreferredUntil != 0 {
			ae.Bytes(unix.IFA_CACHEINFO, cacheInfo(a, monotonic()))
		}
	})
	return err
}

func addressFlags(a host.Address) uint32 {
	var flags uint32
	for flag, on := range map[uint32]bool{
		unix.IFA_F_NODAD: a.NoDAD, unix.IFA_F_NOPREFIXROUTE: a.NoPrefixRoute, unix.IFA_F_HOMEADDRESS: a.Home,
		unix.IFA_F_MANAGETEMPADDR: a.ManageTemp, unix.IFA_F_OPTIMISTIC: a.Optimistic, unix.IFA_F_MCAUTOJOIN: a.MulticastJoin,
	} {
		if on {
			flags |= flag
		}
	}
	return flags
}
