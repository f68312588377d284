package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Neighbour is a host seen on a link: the answer to ARP (IPv4) or neighbour
// discovery (IPv6).
type Neighbour struct {
	Link string
	// MAC in lower case with colons.
	MAC  string
	Addr netip.Addr
	// Reachable neighbours were heard of within seconds; others (stale) once.
	Reachable bool
}

// The states of a neighbour in which its MAC is known and true (NUD_* in
// linux/neighbour.h); permanent ones were told by an operator, and those
// without ARP are no neighbours at all.
const (
	stateReachable = 0x02
	stateStale     = 0x04
	stateDelay     = 0x08
	stateProbe     = 0x10
	statePermanent = 0x80
	stateKnown     = stateReachable | stateStale | stateDelay | stateProbe | statePermanent
	stateAlive     = stateReachable | stateDelay | stateProbe | statePermanent
)

func parseNeighbour(m netlink.Message) (n Neighbour, index int, known bool, err error) {
	if len(m.Data) < unix.SizeofNdMsg {
		return n, 0, false, fmt.Errorf("neighbour message of %d bytes is cut short", len(m.Data))
	}
	index = int(binary.NativeEndian.Uint32(m.Data[4:]))
	state := binary.NativeEndian.Uint16(m.Data[8:])
	err = decode(m.Data, unix.SizeofNdMsg, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NDA_DST:
			n.Addr, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.NDA_LLADDR:
			if b := ad.Bytes(); len(b) == 6 {
				n.MAC = net.HardwareAddr(b).String()
			}
		}
	})
	n.Reachable = state&stateAlive != 0
	return n, index, state&stateKnown != 0 && n.MAC != "" && n.Addr.IsValid(), err
}

// Neighbours lists the hosts seen on a link, or on all links with "". A link
// that is not there is an error that errors.Is fs.ErrNotExist.
func (h *Host) Neighbours(ctx context.Context, link string) ([]Neighbour, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if link == "" {
		return h.kept.everyNeighbour()
	}
	l, err := h.rtnl.linkBy(0, link)
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	found, err := h.rtnl.neighbours(func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.NDA_IFINDEX, uint32(l.index)) })
	if errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("list neighbours on %s: %w", link, fs.ErrNotExist)
	}
	var out []Neighbour
	for _, n := range found {
		if n.at == l.index {
			n.Link = link
			out = append(out, n.Neighbour)
		}
	}
	return out, err
}

// neighbourAt is one on the link of that index.
type neighbourAt struct {
	Neighbour
	at int
}

// neighbours lists those of all links, or of the one that is asked for.
func (r *rtnl) neighbours(only attributes) ([]neighbourAt, error) {
	msgs, err := r.dump(unix.RTM_GETNEIGH, make([]byte, unix.SizeofNdMsg), only)
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	out := []neighbourAt{}
	for _, m := range msgs {
		n, at, known, err := parseNeighbour(m)
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		if known {
			out = append(out, neighbourAt{n, at})
		}
	}
	return out, nil
}

// takeNeighbours lets a link know what another knows of its neighbours, so that
// an address which moves there need not ask for them anew: until the host's NIC
// is in its place, an answer would come to the wrong link, and the next question
// is asked a second later. Those that the link is sure of itself stay. Of others it may
// have asked in vain: of IPv6 a link forgets nobody when its addresses go, and while it is
// a port of a bridge, answers come to the bridge.
func (h *Host) takeNeighbours(from, to int) error {
	on := func(link int) ([]netlink.Message, error) {
		msgs, err := h.rtnl.dump(unix.RTM_GETNEIGH, make([]byte, unix.SizeofNdMsg), func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.NDA_IFINDEX, uint32(link))
		})
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		return msgs, nil
	}
	there, err := on(to)
	if err != nil {
		return err
	}
	sure := map[netip.Addr]bool{}
	for _, m := range there {
		n, _, known, err := parseNeighbour(m)
		if err != nil {
			return fmt.Errorf("list neighbours: %w", err)
		}
		sure[n.Addr] = known && binary.NativeEndian.Uint16(m.Data[8:])&(stateReachable|statePermanent) != 0
	}
	msgs, err := on(from)
	if err != nil {
		return err
	}
	for _, m := range msgs {
		n, _, known, err := parseNeighbour(m)
		if err != nil {
			return fmt.Errorf("list neighbours: %w", err)
		}
		mac, err := net.ParseMAC(n.MAC)
		if !known || err != nil || sure[n.Addr] {
			continue
		}
		state := uint16(stateStale)
		if binary.NativeEndian.Uint16(m.Data[8:])&statePermanent != 0 {
			state = statePermanent
		}
		header := make([]byte, unix.SizeofNdMsg)
		header[0] = byte(familyOfAddr(n.Addr))
		binary.NativeEndian.PutUint32(header[4:], uint32(to))
		binary.NativeEndian.PutUint16(header[8:], state)
		_, err = h.rtnl.do(unix.RTM_NEWNEIGH, flagReplace, header, func(ae *netlink.AttributeEncoder) {
			ae.Bytes(unix.NDA_DST, n.Addr.AsSlice())
			ae.Bytes(unix.NDA_LLADDR, mac)
		})
		if n.Addr.Is6() && errors.Is(err, unix.EINVAL) {
			continue // IPv6 is switched off on that link
		}
		if err != nil {
			return fmt.Errorf("tell of neighbour %s: %w", n.Addr, err)
		}
	}
	return nil
}
