package dhcp

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// receiveBuffer is in bytes; it holds the messages of some thousand clients that
// start together.
const receiveBuffer = 4 << 20

// Listen opens the sockets of a bridge for NewConn. It needs CAP_NET_RAW and
// CAP_NET_BIND_SERVICE, and is therefore called by a process that has them and
// hands the sockets to the one that serves:
//
//   - udp: UDP, bound to the device and to 0.0.0.0 port 67, SO_REUSEADDR (other
//     DHCP servers may have that port on other devices);
//   - packet: AF_PACKET, SOCK_RAW, filtered to ARP replies, bound to the
//     interface.
//
// Both die with the bridge: for a bridge made anew they must be opened anew.
func Listen(bridge string) (udp, packet *os.File, err error) {
	if udp, err = listenUDP(bridge); err != nil {
		return nil, nil, fmt.Errorf("listen for DHCP on %s: %w", bridge, err)
	}
	if packet, err = listenPacket(bridge); err != nil {
		udp.Close()
		return nil, nil, fmt.Errorf("open packet socket on %s: %w", bridge, err)
	}
	return udp, packet, nil
}

func listenUDP(bridge string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		// Without CAP_NET_ADMIN the kernel gives what net.core.rmem_max allows.
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	err = errors.Join(err,
		unix.BindToDevice(fd, bridge),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: serverPort}))
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "dhcp-udp-"+bridge), nil
}

func listenPacket(bridge string) (*os.File, error) {
	link, err := net.InterfaceByName(bridge)
	if err != nil {
		return nil, err
	}
	// Protocol 0: nothing is received before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	err = errors.Join(onlyARPReplies(fd),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: etherARP>>8 | etherARP&0xff<<8, Ifindex: link.Index}))
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "dhcp-packet-"+bridge), nil
}

// onlyARPReplies keeps the requests of all the guests from waking the server.
func onlyARPReplies(fd int) error {
	const ret, loadHalf, jumpEqual = unix.BPF_RET | unix.BPF_K, unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	program := []unix.SockFilter{
		{Code: loadHalf, K: 12}, // EtherType
		{Code: jumpEqual, K: etherARP, Jf: 3},
		{Code: loadHalf, K: etherLen + 6}, // ARP operation
		{Code: jumpEqual, K: 2, Jf: 1},
		{Code: ret, K: etherLen + arpLen + 18}, // with Ethernet's padding
		{Code: ret, K: 0},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
		Len: uint16(len(program)), Filter: &program[0],
	})
}
