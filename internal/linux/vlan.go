package linux

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// Attributes of RTM_*VLAN messages (linux/if_bridge.h, since Linux 5.6).
const (
	vlanEntry      = 1 // BRIDGE_VLANDB_ENTRY
	vlanEntryInfo  = 1 // BRIDGE_VLANDB_ENTRY_INFO, struct bridge_vlan_info
	vlanEntryRange = 2 // BRIDGE_VLANDB_ENTRY_RANGE, the last of several VLANs
	vlanID         = 1 // IFLA_VLAN_ID of a link of type vlan
)

// vlanHeader is struct br_vlan_msg; index 0 is all links.
func vlanHeader(index int) []byte {
	b := make([]byte, 8)
	b[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

// vlans reads the VLANs of a bridge or of a bridge's port, of all of them if index
// is 0, by index. A kernel without VLANs on bridges, or without bridges at all so
// far, is unix.EOPNOTSUPP.
func (r *rtnl) vlans(index int) (map[int]host.VLANSet, error) {
	msgs, err := r.dump(unix.RTM_GETVLAN, vlanHeader(index), nil)
	if err != nil {
		return nil, fmt.Errorf("list VLANs: %w", err)
	}
	sets := map[int]host.VLANSet{}
	for _, m := range msgs {
		if len(m.Data) < 8 {
			return nil, fmt.Errorf("list VLANs: a message of %d bytes is cut short", len(m.Data))
		}
		at := int(int32(binary.NativeEndian.Uint32(m.Data[4:])))
		if sets[at] == nil {
			sets[at] = host.VLANSet{}
		}
		err := decode(m.Data, 8, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == vlanEntry {
				parseVLAN(ad, sets[at])
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list VLANs: %w", err)
		}
	}
	return sets, nil
}

func parseVLAN(ad *netlink.AttributeDecoder, into host.VLANSet) {
	var flags host.VLANFlags
	first, last := 0, 0
	nested(ad, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case vlanEntryInfo:
			if b := ad.Bytes(); len(b) >= 4 {
				flags = host.VLANFlags(binary.NativeEndian.Uint16(b)) & (host.PVID | host.Untagged)
				first = int(binary.NativeEndian.Uint16(b[2:]))
			}
		case vlanEntryRange:
			last = int(ad.Uint16())
		}
	})
	for id := first; id != 0 && id <= max(first, last); id++ {
		into[id] = flags
	}
}

// putVLANs puts a bridge or a port of one into just these VLANs. It comes into new
// ones before it leaves others.
func (h *Host) putVLANs(l link, want string, bridge link) error {
	wanted, err := host.ParseVLANs(want, bridge.defaultPVID)
	if err != nil {
		return fmt.Errorf("change link %s: %w", l.Name, err)
	}
	sets, err := h.rtnl.vlans(l.index)
	if errors.Is(err, unix.EOPNOTSUPP) && want == "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("change link %s: %w", l.Name, err)
	}
	there := sets[l.index]
	come, leave := host.VLANSet{}, host.VLANSet{}
	for id, flags := range wanted {
		if had, in := there[id]; !in || had != flags {
			come[id] = flags
		}
	}
	for id := range there {
		if _, stays := wanted[id]; !stays {
			leave[id] = 0
		}
	}
	for _, r := range come.Runs() {
		if err := h.sendVLANs(unix.RTM_NEWVLAN, l.index, r); err != nil {
			return fmt.Errorf("put %s into VLAN %d: %w", l.Name, r.First, err)
		}
	}
	for _, r := range leave.Runs() {
		if err := h.sendVLANs(unix.RTM_DELVLAN, l.index, r); err != nil {
			return fmt.Errorf("take %s out of VLAN %d: %w", l.Name, r.First, err)
		}
	}
	return nil
}

func (h *Host) sendVLANs(typ uint16, index int, r host.VLANRun) error {
	info := make([]byte, 4) // struct bridge_vlan_info
	binary.NativeEndian.PutUint16(info, uint16(r.Flags))
	binary.NativeEndian.PutUint16(info[2:], uint16(r.First))
	_, err := h.rtnl.do(typ, flagChange, vlanHeader(index), func(ae *netlink.AttributeEncoder) {
		nest(ae, vlanEntry, func(ae *netlink.AttributeEncoder) {
			ae.Bytes(vlanEntryInfo, info)
			if r.Last != r.First {
				ae.Uint16(vlanEntryRange, uint16(r.Last))
			}
		})
	})
	return err
}

// knowsVLANs asks for the VLANs of loopback, which has none: EINVAL if the kernel
// could tell. It cannot before its module for bridges is loaded; asking for a
// bridge that cannot be, with a multicast address, loads it and makes nothing
// (br_validate in net/bridge/br_netlink.c).
func (h *Host) knowsVLANs() (bool, error) {
	const loopback = 1 // LOOPBACK_IFINDEX in net/net_namespace.h
	_, err := h.rtnl.vlans(loopback)
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = h.rtnl.do(unix.RTM_NEWLINK, flagCreate, linkHeader(0, 0, 0), func(ae *netlink.AttributeEncoder) {
			ae.Bytes(unix.IFLA_ADDRESS, []byte{1, 0, 0x5e, 0, 0, 1})
			nest(ae, unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) { ae.String(unix.IFLA_INFO_KIND, host.TypeBridge) })
		})
		if err == nil {
			return false, errors.New("look for VLANs on bridges: the kernel made a bridge that cannot be")
		}
		_, err = h.rtnl.vlans(loopback)
	}
	switch {
	case err == nil, isAny(err, unix.EINVAL, unix.ENODEV):
		return true, nil
	case isAny(err, unix.EOPNOTSUPP, unix.EPERM):
		return false, nil
	}
	return false, fmt.Errorf("look for VLANs on bridges: %w", err)
}
