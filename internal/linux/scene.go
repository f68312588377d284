package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/host"
)

// stateFailed is a neighbour that was asked and did not answer (NUD_FAILED).
const stateFailed = 0x20

// Scene reads all that a path is explained from, but for the guests' names.
func (h *Host) Scene(ctx context.Context) (*diagnose.Scene, error) {
	s := &diagnose.Scene{Listens: listens(ctx)}
	// Rules come by a socket of their own, and on large hosts take as long as all else.
	var reading sync.WaitGroup
	var rulesErr error
	reading.Go(func() { s.Rules, rulesErr = h.Rules(ctx) })
	err := h.surroundings(ctx, s)
	reading.Wait()
	return s, errors.Join(rulesErr, err)
}

// surroundings reads links and routes, neighbours, what bridges know, and connections.
func (h *Host) surroundings(ctx context.Context, s *diagnose.Scene) error {
	var err error
	if s.Host, err = h.Machine(ctx); err != nil {
		return err
	}
	names := make(map[int]string, len(s.Host.Links))
	for name, l := range s.Host.Links {
		names[l.Index] = name
	}
	if s.Neighbours, err = h.neighbourhood(names); err != nil {
		return err
	}
	if err := h.forwarding(s, names); err != nil {
		return err
	}
	s.Tracked, s.TrackedMax = trackedNow()
	s.Yields = func() (some bool, err error) {
		listed := 0
		err = listEntries(ctx, FlowQuery{}, func(e entry) bool {
			listed++
			some = e.status&diagnose.StatusAssured == 0
			return !some
		})
		// Those of other zones are not listed.
		return some || listed < s.Tracked, err
	}
	s.Flows = func(proto uint8, from, to netip.Addr) ([]diagnose.Connection, error) {
		return flowsBetween(ctx, proto, from, to)
	}
	return nil
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
		state := binary.NativeEndian.Uint16(m.Data[8:])
		n.Failed, n.Fixed = state&stateFailed != 0, state&(statePermanent|stateNoARP) != 0
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

// forwarding fills in what bridges know of hardware addresses.
func (h *Host) forwarding(s *diagnose.Scene, names map[int]string) error {
	entries, err := h.rtnl.fdb()
	if err != nil {
		return err
	}
	s.Learned, s.Places = map[string]map[string]string{}, map[string]map[string][]diagnose.Place{}
	for _, e := range entries {
		port := names[e.port]
		bridge := s.Host.Links[port].Master
		if s.Host.Links[port].Kind == host.TypeBridge {
			bridge = port
		}
		if bridge == "" {
			continue
		}
		if s.Places[bridge] == nil {
			s.Learned[bridge], s.Places[bridge] = map[string]string{}, map[string][]diagnose.Place{}
		}
		s.Places[bridge][e.mac] = append(s.Places[bridge][e.mac], diagnose.Place{Port: port, VLAN: e.vlan, Fixed: e.fixed, Local: e.local})
		if !e.fixed && !e.local {
			s.Learned[bridge][e.mac] = port
		}
	}
	return nil
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
