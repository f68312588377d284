package engine

import (
	"context"
	"fmt"
	"net/netip"
)

// Flow is a tracked connection.
type Flow struct {
	// Proto is the IP protocol's number.
	Proto uint8
	// Src and Dst are the ends as the client sent to them: before any NAT.
	Src, Dst netip.AddrPort
	// ReplySrc and ReplyDst are the ends of the answer as the host receives it:
	// behind a forward, ReplySrc is the guest.
	ReplySrc, ReplyDst netip.AddrPort
	// DNAT says that the destination was translated.
	DNAT bool
	// ID tells the flow from others with the same ends, before or after.
	ID uint32
	// Packets and Bytes are those of both directions; zero without accounting.
	Packets, Bytes uint64
}

// FlowQuery says which flows are meant; zero fields mean any.
type FlowQuery struct {
	Proto uint8
	// Dst is the original destination, and Guest who answers. The unspecified
	// address means every one of its family.
	Dst, Guest netip.Addr
	// First and Last are the original destination ports, both included.
	First, Last uint16
	// DNAT leaves out flows whose destination was not translated.
	DNAT bool
}

// FlowEventKind is what happened to a flow.
type FlowEventKind uint8

// The kinds of events about flows.
const (
	FlowBegan FlowEventKind = iota + 1
	// FlowEnded carries the final counts.
	FlowEnded
	// FlowsLost says that events went by unseen: list again.
	FlowsLost
)

// FlowEvent is the beginning or the end of a flow, or the loss of such news.
type FlowEvent struct {
	Kind FlowEventKind
	Flow Flow
}

// Flows is the host's table of connections.
type Flows interface {
	// List gives the flows that the query means, until yield says no.
	List(ctx context.Context, q FlowQuery, yield func(Flow) bool) error
	// Cut deletes flows; one that is gone already is no error.
	Cut(ctx context.Context, flows []Flow) error
	// Watch calls each for every translated flow that ends, and if began is set
	// for each that begins, until ctx ends; then it returns nil. The first event
	// is FlowsLost, told once nothing more can be missed. It is called from one
	// goroutine and must not take long.
	Watch(ctx context.Context, began bool, each func(FlowEvent)) error
}

// cutRounds bounds how often flows are looked for: one that was on its way
// through the rules while they changed turns up in the second round.
const cutRounds = 3

// CutFlows deletes the flows that a query means and match accepts (nil for all
// of them), and says how many it cut. Change the rules first: whatever is sent
// afterwards begins a new flow by those.
func CutFlows(ctx context.Context, flows Flows, q FlowQuery, match func(Flow) bool) (int, error) {
	cut := 0
	for range cutRounds {
		var found []Flow
		err := flows.List(ctx, q, func(f Flow) bool {
			if match == nil || match(f) {
				found = append(found, f)
			}
			return true
		})
		if err == nil {
			err = flows.Cut(ctx, found)
		}
		if err != nil {
			return cut, fmt.Errorf("cut the connections of a forward: %w", err)
		}
		if len(found) == 0 {
			break
		}
		cut += len(found)
	}
	return cut, nil
}
