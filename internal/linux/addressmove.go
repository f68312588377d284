package linux

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

func (h *Host) applyAddresses(steps []plan.Step, leaving map[host.Key]bool) error {
	var all []moved
	for _, s := range steps {
		var err error
		if s.After == nil {
			err = h.deleteAddress(s.Before.(host.Address))
		} else {
			err = h.putAddress(s.After.(host.Address), leaving, &all)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", s.Verb(), s.Key(), err)
		}
	}
	return h.settle(all)
}

// errDynamic: a lifetime can be moved along, but not made up.
var errDynamic = errors.New("an address with a lifetime is made by DHCP or router advertisements only")

// moved is an IPv6 address that a link has got and another has still.
type moved struct {
	host.Address
	index int // of the link
}

func (h *Host) putAddress(a host.Address, leaving map[host.Key]bool, moves *[]moved) error {
	if a.Dynamic && a.ValidUntil == 0 {
		return errDynamic
	}
	l, err := h.rtnl.linkBy(0, a.Link)
	if err != nil {
		return err
	}
	if len(leaving) == 0 {
		return h.addAddress(l, a, leaving)
	}
	from, held, err := h.holder(a, l.index)
	if err != nil {
		return err
	}
	if !held {
		return h.addAddress(l, a, leaving)
	}
	if err := h.takeNeighbours(from, l.index); err != nil {
		return err
	}
	if a.Addr.Addr().Is4() {
		return h.addAddress(l, a, leaving)
	}
	// The host has it already, so nobody else does: it must be usable at once.
	quick := a
	quick.NoDAD = true
	*moves = append(*moves, moved{a, l.index})
	return h.addAddress(l, quick, leaving)
}

// holder finds another link that has the address, usable, as one that moves does.
func (h *Host) holder(a host.Address, not int) (index int, found bool, err error) {
	err = h.rtnl.addresses(0, func(o host.Address, at int) {
		if o.Addr.Addr() == a.Addr.Addr() && at != not {
			index, found = at, true
		}
	})
	return index, found, err
}

const (
	// usableLimit bounds the wait for a worker of the kernel.
	usableLimit = 2 * time.Second
	usablePause = 100 * time.Microsecond
)

// settle waits until IPv6 addresses that moved can be used: a worker of the
// kernel makes their local routes (addrconf_dad_work), and on a busy machine it
// comes late, when the address may be gone from where it was. Then they get to
// look as if they had been probed.
func (h *Host) settle(all []moved) error {
	for begin := time.Now(); ; time.Sleep(usablePause) {
		waits, err := h.waitsFor(all)
		if err != nil {
			return err
		}
		if !waits {
			break
		}
		if time.Since(begin) > usableLimit {
			return fmt.Errorf("move %s to %s: it does not become usable", all[0].Addr, all[0].Link)
		}
	}
	for _, m := range all {
		if m.NoDAD {
			continue
		}
		if err := h.rtnl.sendAddress(unix.RTM_NEWADDR, flagReplace, m.index, m.Address); err != nil {
			return fmt.Errorf("change %s: %w", m.Key(), err)
		}
	}
	return nil
}

// waitsFor says whether one of them has no local route on its link yet.
func (h *Host) waitsFor(all []moved) (bool, error) {
	if len(all) == 0 {
		return false, nil
	}
	header := make([]byte, unix.SizeofRtMsg)
	header[0] = unix.AF_INET6
	msgs, err := h.rtnl.dump(unix.RTM_GETROUTE, header, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.RTA_TABLE, host.LocalTable)
	})
	if err != nil {
		return false, fmt.Errorf("list local routes: %w", err)
	}
	local := map[netip.Addr][]int{}
	for _, m := range msgs {
		if !ipFamily(m) {
			continue
		}
		r, err := parseRoute(m, nil)
		if err != nil {
			return false, fmt.Errorf("list local routes: %w", err)
		}
		links, err := routeLinks(m)
		if err != nil {
			return false, fmt.Errorf("list local routes: %w", err)
		}
		if r.Type == unix.RTN_LOCAL {
			local[r.Dst.Addr()] = append(local[r.Dst.Addr()], links...)
		}
	}
	return slices.ContainsFunc(all, func(m moved) bool {
		return !slices.Contains(local[m.Addr.Addr()], m.index)
	}), nil
}
