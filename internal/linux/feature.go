package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// observeFeatures says which of the kernel's options are there. What is a module is
// loaded by being asked for; nothing is made.
func (h *Host) observeFeatures(seen host.State, keys []host.Key) error {
	probes := map[string]func() (bool, error){
		host.BridgeVLANs: h.knowsVLANs, host.Macvtaps: func() (bool, error) { return h.knowsKind(host.TypeMacvtap) },
		host.Taps: knowsTaps, host.ConnectionLists: listsConnections, host.ConnectionEvents: tellsConnections,
	}
	for _, k := range keys {
		probe, known := probes[k.Name]
		if !known {
			continue
		}
		there, err := probe()
		if err != nil {
			return err
		}
		if there {
			seen.Add(host.Feature{Name: k.Name})
		}
	}
	return nil
}

// knowsKind asks for a macvtap on no NIC: EINVAL if the kernel could make one
// (macvlan_common_newlink in drivers/net/macvlan.c), EOPNOTSUPP if it does not know
// what that is (rtnl_newlink in net/core/rtnetlink.c).
func (h *Host) knowsKind(kind string) (bool, error) {
	_, err := h.rtnl.do(unix.RTM_NEWLINK, flagCreate, linkHeader(0, 0, 0), func(ae *netlink.AttributeEncoder) {
		nest(ae, unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) { ae.String(unix.IFLA_INFO_KIND, kind) })
	})
	switch {
	case errors.Is(err, unix.EINVAL):
		return true, nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	case err == nil:
		return false, fmt.Errorf("look for links of kind %s: the kernel made one that cannot be", kind)
	}
	return false, fmt.Errorf("look for links of kind %s: %w", kind, err)
}

// knowsTaps opens the device as OpenTap does, and asks for nothing.
func knowsTaps() (bool, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if isAny(err, fs.ErrNotExist, unix.ENODEV, unix.ENXIO) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for taps: open %s: %w", tunDevice, err)
	}
	return true, unix.Close(fd)
}

// listsConnections asks how many connections there are (IPCTNL_MSG_CT_GET_STATS): the
// kernel refuses requests to a part of netfilter that it does not have with EINVAL.
func listsConnections() (bool, error) {
	sock, _, err := openAsk(unix.NETLINK_NETFILTER)
	if err != nil {
		return false, fmt.Errorf("look for connections: %w", err)
	}
	defer sock.Close()
	const getStats = 5
	ask := netlink.Message{Header: netlink.Header{Type: ctType(getStats), Flags: netlink.Request, Length: unix.NLMSG_HDRLEN + 4, Sequence: 1}, Data: nfgenmsg(0, 0)}
	if err := sock.Send(ask); err != nil {
		return false, fmt.Errorf("look for connections: %w", err)
	}
	msgs, err := sock.Receive()
	if err != nil || len(msgs) == 0 {
		return false, fmt.Errorf("look for connections: %w", orEmpty(err))
	}
	return msgs[0].Header.Type != netlink.Error, nil
}

// tellsConnections looks for the parameter that comes with the option.
func tellsConnections() (bool, error) {
	const dir = "/proc/sys/net/netfilter/"
	if _, err := os.Stat(dir + "nf_conntrack_max"); err != nil {
		return true, nil // connections are not followed yet, which the first rule about them changes
	}
	_, err := os.Stat(dir + "nf_conntrack_events")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
