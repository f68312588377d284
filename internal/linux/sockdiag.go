package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Listener is a socket that waits for packets or connections on a port.
type Listener struct {
	// Proto is udp, tcp or sctp.
	Proto string
	// Addr is what the socket is bound to; unspecified for every address, of both
	// families if it is IPv6's and V6Only is not set.
	Addr netip.Addr
	Port uint16
	// V6Only is IPV6_V6ONLY: a socket bound to [::] hears no IPv4.
	V6Only bool
	// Link is the interface index that the socket is bound to, 0 for any.
	Link int
	// Process holds the socket; its PID is 0 if nobody seems to.
	Process Process
	inode   uint32
}

// Hears says whether what is sent to an address of this host reaches the socket;
// an unspecified address stands for any of its family. A bound link is not looked
// at.
func (l Listener) Hears(a netip.Addr) bool {
	a = a.Unmap()
	switch {
	case l.Addr.IsUnspecified():
		return l.Addr.Is4() == a.Is4() || a.Is4() && !l.V6Only
	case a.IsUnspecified():
		return l.Addr.Is4() == a.Is4()
	}
	return l.Addr == a
}

// Sizes and numbers of linux/inet_diag.h and linux/sock_diag.h.
const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	inetDiagReqSize  = 56 // struct inet_diag_req_v2
	inetDiagMsgSize  = 72 // struct inet_diag_msg
	tcpClose         = 7  // what a UDP socket without a peer is in
	tcpListen        = 10
	inetDiagV6Only   = 11 // INET_DIAG_SKV6ONLY
)

// waiting are the sockets that wait for somebody to send or connect first.
var waiting = []struct {
	proto  string
	number byte
	state  int
}{{"udp", unix.IPPROTO_UDP, tcpClose}, {"tcp", unix.IPPROTO_TCP, tcpListen}, {"sctp", unix.IPPROTO_SCTP, tcpListen}}

// ListenersOn lists the sockets of this network namespace that listen on the
// port, whatever the protocol; see Listeners.
func ListenersOn(port uint16) ([]Listener, error) {
	return Listeners(context.Background(), "", port, port)
}

// Listeners lists the sockets of this network namespace that listen on ports of
// a range with a protocol (udp, tcp, sctp, or "" for all), by sock_diag, with the
// processes that hold them. One that was bound and does not listen yet, or has a
// peer, is not listed. The time does not depend on the length of the range; it
// is some milliseconds if anything is found, for the processes.
func Listeners(ctx context.Context, proto string, first, last uint16) ([]Listener, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	defer conn.Close()
	var found []Listener
	for _, q := range waiting {
		if proto != "" && proto != q.proto {
			continue
		}
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			req := make([]byte, inetDiagReqSize)
			req[0], req[1] = family, q.number
			binary.NativeEndian.PutUint32(req[4:], 1<<q.state)
			msgs, err := conn.Execute(netlink.Message{
				Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
				Data:   req,
			})
			if errors.Is(err, unix.ENOENT) {
				continue // a kernel without IPv6 or SCTP, or without diagnosis of it
			}
			if err != nil {
				return nil, fmt.Errorf("list %s sockets: %w", q.proto, err)
			}
			for _, m := range msgs {
				if l, ok := parseListener(m.Data); ok && l.Port >= first && l.Port <= last {
					l.Proto = q.proto
					found = append(found, l)
				}
			}
		}
	}
	return found, findHolders(ctx, found)
}

// parseListener reads struct inet_diag_msg and what follows.
func parseListener(b []byte) (Listener, bool) {
	if len(b) < inetDiagMsgSize {
		return Listener{}, false
	}
	l := Listener{
		Port:  binary.BigEndian.Uint16(b[4:]),
		Link:  int(binary.NativeEndian.Uint32(b[40:])),
		inode: binary.NativeEndian.Uint32(b[68:]),
	}
	if b[0] == unix.AF_INET {
		l.Addr = netip.AddrFrom4([4]byte(b[8:12]))
	} else {
		l.Addr = netip.AddrFrom16([16]byte(b[8:24])).Unmap()
		v6only, ok := find(b[inetDiagMsgSize:], inetDiagV6Only)
		l.V6Only = ok && len(v6only.data) > 0 && v6only.data[0] != 0
	}
	return l, true
}

// findHolders fills in the processes, by the inode of the socket.
func findHolders(ctx context.Context, found []Listener) error {
	if len(found) == 0 {
		return nil
	}
	byInode := map[uint32][]*Listener{}
	for i := range found {
		byInode[found[i].inode] = append(byInode[found[i].inode], &found[i])
	}
	return eachFD(ctx, "socket:[", func(pid int, _, target string) {
		n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]"), 10, 32)
		if err != nil {
			return
		}
		for _, l := range byInode[uint32(n)] {
			if l.Process.PID == 0 {
				l.Process = processByPID(pid)
			}
		}
	})
}
