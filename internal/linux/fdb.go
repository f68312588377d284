package linux

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// stateNoARP marks forwarding entries that somebody set by hand (NUD_NOARP).
const stateNoARP = 0x40

// Learned lists, by bridge port, the hardware addresses that bridges have learnt
// behind it (the forwarding database, as `bridge fdb show` has it), in no order.
// A port's own address is not among them.
func (h *Host) Learned(ctx context.Context) (map[string][]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = unix.AF_BRIDGE
	msgs, err := h.rtnl.dump(unix.RTM_GETNEIGH, header, nil)
	if err != nil {
		return nil, fmt.Errorf("list what bridges learnt: %w", err)
	}
	byIndex := map[int][]string{}
	for _, m := range msgs {
		if len(m.Data) < unix.SizeofNdMsg {
			return nil, fmt.Errorf("list what bridges learnt: message of %d bytes is cut short", len(m.Data))
		}
		var mac string
		var behindBridge bool
		err := decode(m.Data, unix.SizeofNdMsg, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NDA_LLADDR:
				if b := ad.Bytes(); len(b) == 6 {
					mac = net.HardwareAddr(b).String()
				}
			case unix.NDA_MASTER:
				behindBridge = true
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list what bridges learnt: %w", err)
		}
		state := binary.NativeEndian.Uint16(m.Data[8:])
		if mac != "" && behindBridge && state&(statePermanent|stateNoARP) == 0 {
			port := int(binary.NativeEndian.Uint32(m.Data[4:]))
			byIndex[port] = append(byIndex[port], mac)
		}
	}
	names, err := h.rtnl.namesOf(slices.Collect(maps.Keys(byIndex)))
	if err != nil {
		return nil, fmt.Errorf("list what bridges learnt: %w", err)
	}
	out := make(map[string][]string, len(byIndex))
	for port, macs := range byIndex {
		if name := names[port]; name != "" {
			out[name] = macs
		}
	}
	return out, nil
}
