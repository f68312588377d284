package linux

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// stateNoARP marks forwarding entries that somebody set by hand (NUD_NOARP).
const stateNoARP = 0x40

// fdbEntry is one line of a bridge's forwarding database.
type fdbEntry struct {
	port int // index
	mac  string
	vlan int
	// fixed by hand (static); local: an address of the host's own.
	fixed, local bool
}

// Learned lists, by bridge port, the hardware addresses that bridges have learnt
// behind it (the forwarding database, as `bridge fdb show` has it), in no order.
// A port's own address is not among them.
func (h *Host) Learned(ctx context.Context) (map[string][]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return h.kept.whoIsBehind()
}

// learned are the learnt addresses of all bridges, by index of the port.
func (r *rtnl) learned() (map[int][]string, error) {
	entries, err := r.fdb()
	if err != nil {
		return nil, err
	}
	byIndex := map[int][]string{}
	for _, e := range entries {
		if !e.fixed && !e.local {
			byIndex[e.port] = append(byIndex[e.port], e.mac)
		}
	}
	return byIndex, nil
}

// fdb reads the forwarding databases of all bridges, without the entries that
// drivers keep for themselves.
func (r *rtnl) fdb() ([]fdbEntry, error) {
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = unix.AF_BRIDGE
	msgs, err := r.dump(unix.RTM_GETNEIGH, header, nil)
	if err != nil {
		return nil, fmt.Errorf("list what bridges learnt: %w", err)
	}
	entries := make([]fdbEntry, 0, len(msgs))
	for _, m := range msgs {
		if len(m.Data) < unix.SizeofNdMsg {
			return nil, fmt.Errorf("list what bridges learnt: message of %d bytes is cut short", len(m.Data))
		}
		var e fdbEntry
		var behindBridge bool
		err := decode(m.Data, unix.SizeofNdMsg, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NDA_LLADDR:
				if b := ad.Bytes(); len(b) == 6 {
					e.mac = net.HardwareAddr(b).String()
				}
			case unix.NDA_VLAN:
				e.vlan = int(ad.Uint16())
			case unix.NDA_MASTER:
				behindBridge = true
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list what bridges learnt: %w", err)
		}
		state := binary.NativeEndian.Uint16(m.Data[8:])
		e.port = int(binary.NativeEndian.Uint32(m.Data[4:]))
		e.local, e.fixed = state&statePermanent != 0, state&stateNoARP != 0
		if e.mac != "" && behindBridge {
			entries = append(entries, e)
		}
	}
	return entries, nil
}
