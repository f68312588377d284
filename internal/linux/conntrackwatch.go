package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// FlowEventKind is what happened to a flow.
type FlowEventKind uint8

// The kinds of events about flows.
const (
	// FlowBegan is the first packet of a flow.
	FlowBegan FlowEventKind = iota + 1
	// FlowEnded is the end of a flow, with its final counts: it timed out, was
	// closed, or was cut.
	FlowEnded
	// FlowsLost says that events went by unseen: list again.
	FlowsLost
)

// FlowEvent is the beginning or the end of a flow, or the loss of such news.
type FlowEvent struct {
	Kind FlowEventKind
	Flow Flow
}

// flowBuffer is how many bytes of events the kernel keeps for a reader that is
// away: some ten thousand.
const flowBuffer = 8 << 20

// Watch calls each for every flow with a translated destination that ends, and
// if began is set for each that begins, until ctx ends; then it returns nil. The
// first event is FlowsLost, told once nothing more can be missed: list then.
// Other flows are left out by the kernel and cost nothing. each must not take
// long; it is called from one goroutine.
//
// The kernel tells of the end only of flows that began while somebody listened,
// unless net/netfilter/nf_conntrack_events is 1 (nf_ct_ecache_ext_add): so after
// a restart others just vanish from the list.
func (Conntrack) Watch(ctx context.Context, began bool, each func(FlowEvent)) error {
	sock, err := openFlowEvents(began)
	if err != nil {
		return fmt.Errorf("watch connections: %w", err)
	}
	defer sock.Close()
	defer context.AfterFunc(ctx, func() { sock.Close() })()
	raw, err := sock.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch connections: %w", err)
	}
	each(FlowEvent{Kind: FlowsLost})
	buffer := make([]byte, 32<<10)
	var broken error
	err = raw.Read(func(fd uintptr) bool {
		for ctx.Err() == nil {
			n, err := unix.Read(int(fd), buffer)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return false // wait for more
			case errors.Is(err, unix.ENOBUFS):
				each(FlowEvent{Kind: FlowsLost})
			case err != nil:
				broken = os.NewSyscallError("read", err)
				return true
			default:
				tellFlows(buffer[:n], each)
			}
		}
		return true
	})
	switch {
	case ctx.Err() != nil:
		return nil
	case broken != nil:
		err = broken
	}
	return fmt.Errorf("watch connections: %w", err)
}

// tellFlows reads one datagram of events.
func tellFlows(b []byte, each func(FlowEvent)) {
	for len(b) >= unix.NLMSG_HDRLEN {
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.NLMSG_HDRLEN || n > len(b) {
			return
		}
		kind := FlowEventKind(0)
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.NFNL_SUBSYS_CTNETLINK<<8 | ctNew:
			kind = FlowBegan
		case unix.NFNL_SUBSYS_CTNETLINK<<8 | ctDelete:
			kind = FlowEnded
		}
		if f, ok := decodeFlow(b[unix.NLMSG_HDRLEN:n]); ok && kind != 0 {
			each(FlowEvent{kind, f})
		}
		b = b[min(align4(n), len(b)):]
	}
}

// openFlowEvents subscribes. The filter comes before the groups, so that nothing
// unfiltered gets in.
func openFlowEvents(began bool) (*os.File, error) {
	filter, err := onlyTranslated()
	if err != nil {
		return nil, err
	}
	options := []option{
		intOption(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, flowBuffer),
		filter,
		bindTo(&unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		intOption(unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, ctGroupDestroy),
	}
	if began {
		options = append(options, intOption(unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, ctGroupNew))
	}
	return openSocket("connections", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER, options...)
}

// onlyTranslated drops messages about flows without IPS_DST_NAT before they take
// room in the socket's buffer.
func onlyTranslated() (option, error) {
	return socketFilter([]bpf.Instruction{
		// The attributes begin after struct nlmsghdr and struct nfgenmsg.
		bpf.LoadConstant{Dst: bpf.RegX, Val: ctaStatus},
		bpf.LoadConstant{Dst: bpf.RegA, Val: unix.NLMSG_HDRLEN + 4},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttr}, // where the attribute is, or 0
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 3},
		bpf.TAX{},
		bpf.LoadIndirect{Off: unix.NLA_HDRLEN, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: statusDNAT, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1 << 20},
	})
}
