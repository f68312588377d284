package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The ports and addresses of guest services.
const (
	portDNS  = 53
	portDHCP = 67
)

// InUseError says that another program has the port that a service needs.
type InUseError struct {
	Port uint16
	// Addr is the address that was wanted; the holder may have it by a wildcard.
	Addr netip.Addr
	// Proto is udp or tcp.
	Proto string
	// Process holds the port; its PID is 0 if it could not be found.
	Process Process
}

// Error names the port and who has it.
func (e *InUseError) Error() string {
	return fmt.Sprintf("%s port %d on %s is taken by %s", e.Proto, e.Port, e.Addr, e.Process)
}

// Unwrap lets errors.Is find EADDRINUSE.
func (e *InUseError) Unwrap() error { return unix.EADDRINUSE }

// option sets one option of a socket under construction.
type option func(fd int) error

func intOption(level, name, value int) option {
	return func(fd int) error { return unix.SetsockoptInt(fd, level, name, value) }
}

func bindToDevice(name string) option {
	return func(fd int) error { return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name) }
}

func bindTo(sa unix.Sockaddr) option {
	return func(fd int) error { return unix.Bind(fd, sa) }
}

// openSocket makes a non-blocking socket, as net.FilePacketConn and
// net.FileListener want it, and applies the options in order.
func openSocket(what string, family, typ, proto int, options ...option) (*os.File, error) {
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, fmt.Errorf("open a socket for %s: %w", what, err)
	}
	for _, o := range options {
		if err := o(fd); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("open a socket for %s: %w", what, err)
		}
	}
	return os.NewFile(uintptr(fd), what), nil
}

// dhcpBuffer is how many bytes of requests wait for the DHCP server: some four
// thousand.
const dhcpBuffer = 4 << 20

// OpenDHCP opens what a DHCPv4 server on a bridge needs: udp receives what is
// sent to port 67 on the bridge, with the destination (IP_PKTINFO); raw sends
// Ethernet frames out of the bridge, which a client without an address can be
// reached by, and receives ARP. Both die with the bridge: a bridge that is made
// again needs new ones. A port that is taken is an *InUseError.
func OpenDHCP(bridge string) (udp, raw *os.File, err error) {
	index, err := linkIndex(bridge)
	if err != nil {
		return nil, nil, fmt.Errorf("open a socket for DHCP: %w", err)
	}
	udp, err = openSocket("DHCP on "+bridge, unix.AF_INET, unix.SOCK_DGRAM, 0,
		bindToDevice(bridge),
		intOption(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), // one server for each bridge
		intOption(unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		intOption(unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
		// A rack that powers up asks all at once; the process that reads may not
		// go beyond net.core.rmem_max by itself.
		intOption(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, dhcpBuffer),
		bindTo(&unix.SockaddrInet4{Port: portDHCP}),
	)
	if err != nil {
		return nil, nil, inUse(err, "udp", netip.IPv4Unspecified(), portDHCP)
	}
	raw, err = openSocket("frames on "+bridge, unix.AF_PACKET, unix.SOCK_RAW, 0,
		bindTo(&unix.SockaddrLinklayer{Protocol: bigEndian16(unix.ETH_P_ARP), Ifindex: index}),
	)
	if err != nil {
		udp.Close()
		return nil, nil, err
	}
	return udp, raw, nil
}

// linkIndex is the index of a link in the calling thread's namespace.
func linkIndex(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("look up link %s: %w", name, err)
	}
	err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req)
	if errors.Is(err, unix.ENODEV) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return 0, fmt.Errorf("look up link %s: %w", name, err)
	}
	return int(req.Uint32()), nil
}

// bigEndian16 is htons.
func bigEndian16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// OpenDNS opens port 53 of the address, by UDP (with the source's interface,
// IP_PKTINFO) and TCP (listening). Only what comes in by the bridge or from the
// host itself is heard: a socket bound to the bridge's device would not hear
// the host's own programs, and one bound to nothing would answer the whole LAN.
// The address need not be usable yet (IP_FREEBIND). A port that is taken is an
// *InUseError.
func OpenDNS(bridge string, addr netip.Addr) (udp, tcp *os.File, err error) {
	index, err := linkIndex(bridge)
	if err != nil {
		return nil, nil, fmt.Errorf("open a socket for DNS: %w", err)
	}
	filter, err := arrivalFilter(index)
	if err != nil {
		return nil, nil, fmt.Errorf("open a socket for DNS: %w", err)
	}
	family := familyOfAddr(addr)
	common := []option{
		intOption(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		filter,
	}
	var sa unix.Sockaddr
	if addr.Is4() {
		sa = &unix.SockaddrInet4{Port: portDNS, Addr: addr.As4()}
		common = append(common, intOption(unix.IPPROTO_IP, unix.IP_FREEBIND, 1), intOption(unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
	} else {
		in6 := &unix.SockaddrInet6{Port: portDNS, Addr: addr.As16()}
		if addr.IsLinkLocalUnicast() {
			in6.ZoneId = uint32(index)
		}
		sa = in6
		common = append(common, intOption(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
			intOption(unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1), intOption(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
	}
	// Without SO_REUSEADDR for UDP a second server would be refused, with it
	// both would be there and one deaf.
	udp, err = openSocket("DNS on "+bridge, family, unix.SOCK_DGRAM, 0, append(common[1:len(common):len(common)], bindTo(sa))...)
	if err != nil {
		return nil, nil, inUse(err, "udp", addr, portDNS)
	}
	listen := func(fd int) error { return unix.Listen(fd, 128) }
	tcp, err = openSocket("DNS by TCP on "+bridge, family, unix.SOCK_STREAM, 0, append(common[:len(common):len(common)], bindTo(sa), listen)...)
	if err != nil {
		udp.Close()
		return nil, nil, inUse(err, "tcp", addr, portDNS)
	}
	return udp, tcp, nil
}

// arrivalFilter drops packets that came in by any link but the given one and
// loopback, where the host's own packets to its own addresses pass (its index
// is 1 in every namespace). Connections inherit it from their listener.
func arrivalFilter(index int) (option, error) {
	const whole = 0x40000
	return socketFilter([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(index), SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 1, SkipTrue: 1},
		bpf.RetConstant{Val: whole},
		bpf.RetConstant{Val: 0},
	})
}

// socketFilter puts a program in front of a socket's buffer.
func socketFilter(instructions []bpf.Instruction) (option, error) {
	program, err := bpf.Assemble(instructions)
	if err != nil {
		return nil, err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	}, nil
}

// OpenRA opens what a router advertisement server on a bridge needs: a raw
// ICMPv6 socket that receives router solicitations only (RFC 4861, 6.2.6), also
// those to all routers, and sends with hop limit 255. It receives hop limit and
// interface of each message (IPV6_RECVHOPLIMIT, IPV6_RECVPKTINFO). It dies with
// the bridge.
func OpenRA(bridge string) (*os.File, error) {
	const routerSolicitation = 133
	index, err := linkIndex(bridge)
	if err != nil {
		return nil, fmt.Errorf("open a socket for router advertisements: %w", err)
	}
	return openSocket("router advertisements on "+bridge, unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6,
		bindToDevice(bridge),
		func(fd int) error {
			return unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, onlyICMPv6(routerSolicitation))
		},
		intOption(unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255),
		intOption(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
		intOption(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index),
		intOption(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0),
		intOption(unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1),
		intOption(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
		func(fd int) error {
			allRouters := netip.MustParseAddr("ff02::2").As16()
			return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
				&unix.IPv6Mreq{Multiaddr: allRouters, Interface: uint32(index)})
		},
	)
}

// onlyICMPv6 blocks every ICMPv6 type but one; a set bit blocks (RFC 3542, 3.2).
func onlyICMPv6(kind uint) *unix.ICMPv6Filter {
	var f unix.ICMPv6Filter
	for i := range f.Data {
		f.Data[i] = ^uint32(0)
	}
	f.Data[kind/32] &^= 1 << (kind % 32)
	return &f
}

// inUse turns EADDRINUSE into an *InUseError that names the holder.
func inUse(err error, proto string, addr netip.Addr, port uint16) error {
	if !errors.Is(err, unix.EADDRINUSE) {
		return err
	}
	out := &InUseError{Port: port, Addr: addr, Proto: proto}
	listeners, lookup := ListenersOn(port)
	if lookup != nil {
		return out
	}
	for _, l := range listeners {
		if l.Proto == proto && l.Hears(addr) {
			out.Process = l.Process
			if l.Addr == addr {
				break // nearer than a wildcard
			}
		}
	}
	return out
}
