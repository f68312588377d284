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

// Learned lists, by bridge port, the hardware addresses that bridges have learnt
// behind it (the forwarding database, as `bridge fdb show` has it), in no order.
// A port's own address is not among them.
func (h *Host) Learned(ctx context.Context) (map[string][]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return h.kept.whoIsBehind()
}

// learned reads the forwarding databases of all bridges, by index of the port.
func (r *rtnl) learned() (map[int][]string, error) {
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = unix.AF_BRIDGE
	msgs, err := r.dump(unix.RTM_GETNEIGH, header, nil)
	if err != nil {
		return nil, fmt.Errorf("list what bridges learnt: %w", err)
	}
	byIndex := map[int][]string{}
	for _, m := range msgs {
		if len(m.Data) < unix.SizeofNdMsg {
			return nil, fmt.Errorf("list what bridges learnt: message of %d bytes is cut short", len(m.Data))
		}
		if state := binary.NativeEndian.Uint16(m.Data[8:]); state&(statePermanent|stateNoARP) != 0 {
			continue
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
		if mac != "" && behindBridge {
			port := int(binary.NativeEndian.Uint32(m.Data[4:]))
			byIndex[port] = append(byIndex[port], mac)
		}
	}
	return byIndex, nil
}
