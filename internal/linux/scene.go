package linux

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/diagnose"
)

// stateFailed is a neighbour that was asked and did not answer (NUD_FAILED).
const stateFailed = 0x20

// Scene reads all that a path is explained from, but for the guests' names.
func (h *Host) Scene(ctx context.Context) (*diagnose.Scene, error) {
	s := &diagnose.Scene{Listens: listens(ctx)}
	var err error
	if s.Rules, err = h.Rules(ctx); err != nil {
		return nil, err
	}
	if s.Host, err = h.Machine(ctx); err != nil {
		return nil, err
	}
	names := make(map[int]string, len(s.Host.Links))
	for name, l := range s.Host.Links {
		names[l.Index] = name
	}
	if s.Neighbours, err = h.neighbourhood(names); err != nil {
		return nil, err
	}
	s.Learned, err = h.learnedBy(ctx, s.Host.Links)
	return s, err
}

// neighbourhood lists the neighbours of all links by address, those that do not
// answer included.
func (h *Host) neighbourhood(names map[int]string) (map[string]map[netip.Addr]diagnose.Heard, error) {
	msgs, err := h.rtnl.dump(unix.RTM_GETNEIGH, make([]byte, unix.SizeofNdMsg), nil)
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	out := map[string]map[netip.Addr]diagnose.Heard{}
	for _, m := range msgs {
		if len(m.Data) < unix.SizeofNdMsg {
			return nil, errCut
		}
		var n diagnose.Heard
		var a netip.Addr
		if err := decode(m.Data, unix.SizeofNdMsg, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NDA_DST:
				a, _ = netip.AddrFromSlice(ad.Bytes())
			case unix.NDA_LLADDR:
				if b := ad.Bytes(); len(b) == 6 {
					n.MAC = net.HardwareAddr(b).String()
				}
			}
		}); err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		link := names[int(binary.NativeEndian.Uint32(m.Data[4:]))]
		n.Failed = binary.NativeEndian.Uint16(m.Data[8:])&stateFailed != 0
		if link == "" || !a.IsValid() || !n.Failed && n.MAC == "" {
			continue
		}
		if out[link] == nil {
			out[link] = map[netip.Addr]diagnose.Heard{}
		}
		out[link][a] = n
	}
	return out, nil
}

// learnedBy is Learned the other way round: the port by bridge and address.
func (h *Host) learnedBy(ctx context.Context, links map[string]diagnose.Link) (map[string]map[string]string, error) {
	learned, err := h.Learned(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]string{}
	for port, macs := range learned {
		bridge := links[port].Master
		if out[bridge] == nil {
			out[bridge] = map[string]string{}
		}
		for _, mac := range macs {
			out[bridge][mac] = port
		}
	}
	return out, nil
}

// listens says whether a program hears what comes to a port of the host.
func listens(ctx context.Context) func(uint8, netip.AddrPort) (heard, known bool) {
	return func(number uint8, to netip.AddrPort) (heard, known bool) {
		i := slices.IndexFunc(waiting, func(w struct {
			proto  string
			number byte
			state  int
		}) bool {
			return w.number == number
		})
		if i < 0 {
			return false, false
		}
		list, err := Listeners(ctx, waiting[i].proto, to.Port(), to.Port())
		if err != nil {
			return false, false
		}
		return slices.ContainsFunc(list, func(l Listener) bool { return l.Hears(to.Addr()) }), true
	}
}
