package linux

import (
	"fmt"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// snoopBuffer is how many bytes of frames wait to be read; what is more is dropped.
const snoopBuffer = 128 << 10

// OpenSnoop opens a packet socket (packet(7)) that receives what the guest on a tap
// sends of ARP, neighbour solicitations and advertisements, and DHCP requests, and
// nothing of what is sent to it. The filter runs in the kernel, so that all other
// frames cost some nanoseconds. It ends with the tap.
//
// A macvtap is the guest's own end of the cable: what the guest sends is outgoing
// there, and only that.
func OpenSnoop(tap string) (*os.File, error) {
	index, err := linkIndex(tap)
	if err != nil {
		return nil, fmt.Errorf("listen to %s: %w", tap, err)
	}
	program, ignore := snoopFilter(), 1
	if _, _, err := device(tap); err == nil { // only macvtaps have one
		program, ignore = append(outgoingOnly(), program...), 0
	}
	filter, err := socketFilter(program)
	if err != nil {
		return nil, fmt.Errorf("listen to %s: %w", tap, err)
	}
	// Protocol 0 hears nothing until the filter is there and the socket is bound. A
	// bridge takes frames away from its ports before any protocol but this sees them.
	return openSocket("the guest on "+tap, unix.AF_PACKET, unix.SOCK_RAW, 0,
		filter,
		intOption(unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, ignore), // since 4.20
		intOption(unix.SOL_SOCKET, unix.SO_RCVBUF, snoopBuffer),
		bindTo(&unix.SockaddrLinklayer{Protocol: bigEndian16(unix.ETH_P_ALL), Ifindex: index}),
	)
}

// outgoingOnly comes before a filter of what is received both ways.
func outgoingOnly() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
}

// snoopFilter lets through what says who has which address. Offsets are those of an
// Ethernet frame; the tag of a VLAN is beside it, not in it.
func snoopFilter() []bpf.Instruction {
	const whole = 2048
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipTrue: 17},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipTrue: 5},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: 14},
		bpf.LoadAbsolute{Off: 20, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 12},
		bpf.LoadAbsolute{Off: 54, Size: 1}, // solicitation or advertisement
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 135, SkipTrue: 11, SkipFalse: 9},
		// IPv4
		bpf.LoadAbsolute{Off: 23, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 8},
		bpf.LoadAbsolute{Off: 20, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 6}, // not the first fragment
		bpf.LoadMemShift{Off: 14},
		bpf.LoadIndirect{Off: 14, Size: 2}, // from the client's port
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 68, SkipTrue: 3},
		bpf.LoadIndirect{Off: 16, Size: 2}, // to the server's
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 67, SkipTrue: 2, SkipFalse: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 136, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: whole},
	}
}
