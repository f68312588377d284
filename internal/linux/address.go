package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
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

func parseAddress(m netlink.Message) (a host.Address, index int, err error) {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return a, 0, fmt.Errorf("address message of %d bytes is cut short", len(m.Data))
	}
	length := int(m.Data[1])
	flags := uint32(m.Data[2])
	index = int(binary.NativeEndian.Uint32(m.Data[4:]))
	var local, address netip.Addr
	err = decode(m.Data, unix.SizeofIfAddrmsg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.IFA_FLAGS:
			flags = ad.Uint32()
		}
	})
	if !local.IsValid() {
		local = address // only IPv4 and peers have both
	}
	a.Addr = netip.PrefixFrom(local, length)
	a.Dynamic = flags&unix.IFA_F_PERMANENT == 0
	a.NoDAD = local.Is6() && flags&unix.IFA_F_NODAD != 0
	return a, index, err
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
	for _, m := range msgs {
		a, at, err := parseAddress(m)
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		each(a, at)
	}
	return nil
}

func (h *Host) allAddresses(seen host.State, names map[int]string) error {
	return h.rtnl.addresses(0, func(a host.Address, index int) {
		if name, ok := names[index]; ok {
			a.Link = name
			seen.Add(a)
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
		a.Link = name
		on = append(on, a)
	})
	return on, err
}

func (h *Host) applyAddresses(steps []plan.Step, leaving map[host.Key]bool) error {
	for _, s := range steps {
		var err error
		if s.After == nil {
			err = h.deleteAddress(s.Before.(host.Address))
		} else {
			err = h.putAddress(s.After.(host.Address), leaving)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", s.Verb(), s.Key(), err)
		}
	}
	return nil
}

// errDynamic: a lifetime is the DHCP client's or the kernel's to keep.
var errDynamic = errors.New("an address with a lifetime is made by DHCP or router advertisements only")

func (h *Host) putAddress(a host.Address, leaving map[host.Key]bool) error {
	if a.Dynamic {
		return errDynamic
	}
	l, err := h.rtnl.linkBy(0, a.Link)
	if err != nil {
		return err
	}
	err = h.rtnl.sendAddress(unix.RTM_NEWADDR, flagCreate, l.index, a)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	on, err := h.addressesOf(a.Link)
	if err != nil {
		return err
	}
	for _, there := range on {
		switch {
		case there == a:
			return nil
		case there.Addr == a.Addr:
			return h.rtnl.sendAddress(unix.RTM_NEWADDR, flagReplace, l.index, a)
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
	_, err := r.do(typ, flags, header, func(ae *netlink.AttributeEncoder) {
		ip := a.Addr.Addr().AsSlice()
		ae.Bytes(unix.IFA_LOCAL, ip)
		ae.Bytes(unix.IFA_ADDRESS, ip)
		if typ == unix.RTM_DELADDR {
			return
		}
		if a.Addr.Addr().Is4() && a.Addr.Bits() < 31 {
			ae.Bytes(unix.IFA_BROADCAST, broadcast(a.Addr))
		}
		if a.NoDAD {
			ae.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
		}
	})
	return err
}

// broadcast is the last address of an IPv4 subnet.
func broadcast(p netip.Prefix) []byte {
	b := p.Masked().Addr().As4()
	v := binary.BigEndian.Uint32(b[:]) | 1<<(32-p.Bits()) - 1
	return binary.BigEndian.AppendUint32(nil, v)
}
