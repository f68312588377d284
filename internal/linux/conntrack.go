package linux

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Flow is an entry of the kernel's connection tracking table.
type Flow struct {
	// Proto is the IP protocol's number.
	Proto uint8
	// Src and Dst are the ends as the client sent to them: before any NAT. For
	// ICMP the ports are what the kernel keeps in their place, the identifier, and
	// type and code; they are zero for protocols without.
	Src, Dst netip.AddrPort
	// ReplySrc and ReplyDst are the ends of the answer as the host receives it:
	// behind a forward, ReplySrc is the guest.
	ReplySrc, ReplyDst netip.AddrPort
	// DNAT says that the destination was translated (IPS_DST_NAT).
	DNAT bool
	// ID tells the entry from others that had the same ends before or after
	// (CTA_ID, a hash: nf_ct_get_id).
	ID uint32
	// Packets and Bytes are those of both directions; zero if the flow began
	// while net/netfilter/nf_conntrack_acct was 0.
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

// Conntrack reads and cuts the connections that this network namespace tracks.
// Its methods open a socket each and may be called from several goroutines.
type Conntrack struct{}

// filter is what the kernel is asked to leave out; the rest is left to keeps.
// The kernel compares IPv6 addresses the wrong way round (ipv6_addr_cmp taken
// for equality in ctnetlink_filter_match_tuple; measured on 6.18: it gives all
// flows but those asked for) and SCTP's ports not at all, so that neither may be
// asked of it. A kernel before 5.8 knows no filter, one
// before 5.15 none for the status, and both send more than was asked for.
func (q FlowQuery) filter() (family byte, attrs []byte) {
	var orig, reply tupleFilter
	if q.Dst.Is4() || q.Guest.Is4() {
		family = unix.AF_INET
	} else if q.Dst.IsValid() || q.Guest.IsValid() {
		family = unix.AF_INET6
	}
	if family == unix.AF_INET {
		orig.add(q.Dst, ctaIPv4Dst, filterDst)
		reply.add(q.Guest, ctaIPv4Src, filterSrc)
	}
	if q.Proto != 0 && family != 0 {
		orig.proto = put(orig.proto, ctaProtoNum, []byte{q.Proto})
		orig.flags |= filterProto
		if q.First == q.Last && q.First != 0 && q.Proto != unix.IPPROTO_SCTP {
			orig.proto = put(orig.proto, ctaProtoDstPort, []byte{byte(q.First >> 8), byte(q.First)})
			orig.flags |= filterDstPort
		}
	}
	if q.DNAT {
		attrs = putU32(attrs, ctaStatus, statusDNAT)
		attrs = putU32(attrs, ctaStatusMask, statusDNAT)
	}
	if orig.flags|reply.flags == 0 {
		return family, attrs
	}
	var flags []byte
	for kind, f := range map[uint16]tupleFilter{ctaTupleOrig: orig, ctaTupleReply: reply} {
		if f.flags != 0 {
			attrs = putNest(attrs, kind, f.tuple())
			flags = put(flags, kind, nativeU32(f.flags)) // CTA_FILTER_ORIG_FLAGS is 1 as well, REPLY 2
		}
	}
	return family, putNest(attrs, ctaFilter, flags)
}

// keeps says whether a flow is one that was asked for.
func (q FlowQuery) keeps(f Flow) bool {
	port := f.Dst.Port()
	return (q.Proto == 0 || f.Proto == q.Proto) && (!q.DNAT || f.DNAT) &&
		isMeant(q.Dst, f.Dst.Addr()) && isMeant(q.Guest, f.ReplySrc.Addr()) &&
		(q.First == 0 || port >= q.First) && (q.Last == 0 || port <= q.Last)
}

func isMeant(want, have netip.Addr) bool {
	return !want.IsValid() || want == have || want.IsUnspecified() && want.Is4() == have.Is4()
}

// List gives the flows that the query means, until yield says no. Flows of other
// conntrack zones than the default are left out. The kernel does most of the
// choosing; it looks at the whole table, at some six million flows a second.
func (Conntrack) List(ctx context.Context, q FlowQuery, yield func(Flow) bool) error {
	return listEntries(ctx, q, func(e entry) bool { return yield(e.Flow) })
}

// entry is a flow with what the kernel keeps of its state: status are its bits
// (enum ip_conntrack_status).
type entry struct {
	Flow
	status, mark uint32
}

func listEntries(ctx context.Context, q FlowQuery, yield func(entry) bool) error {
	sock, _, err := openAsk(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("list connections: %w", err)
	}
	defer sock.Close()
	family, attrs := q.filter()
	err = sock.Send(netlink.Message{
		Header: netlink.Header{Type: ctType(ctGet), Flags: netlink.Request | netlink.Dump, Length: uint32(unix.NLMSG_HDRLEN + 4 + len(attrs)), Sequence: 1},
		Data:   append(nfgenmsg(family, 0), attrs...),
	})
	for err == nil {
		if err = ctx.Err(); err != nil {
			break
		}
		var more bool
		more, err = listSome(sock, q, yield)
		if !more {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("list connections: %w", err)
	}
	return nil
}

// listSome reads one datagram of a listing; more is false at its end.
func listSome(sock *askSocket, q FlowQuery, yield func(entry) bool) (more bool, err error) {
	for m, err := range sock.ReceiveIter() {
		if err != nil {
			return false, err
		}
		switch m.Header.Type {
		case netlink.Done, netlink.Error:
			return false, errnoOf(m.Data)
		}
		if e, ok := decodeEntry(m.Data); ok && q.keeps(e.Flow) && !yield(e) {
			return false, nil
		}
	}
	return true, nil
}

// cutBatch is how many flows are cut by one message to the kernel: what it says
// about each of them must fit into the socket's buffer.
const cutBatch = 128

// Cut deletes flows, each by its original ends and its ID; one that is gone is
// no error. What a peer sends after that begins a new flow, by the rules of then.
func (Conntrack) Cut(ctx context.Context, flows []Flow) error {
	if len(flows) == 0 {
		return nil
	}
	sock, _, err := openAsk(unix.NETLINK_NETFILTER, unix.NETLINK_CAP_ACK)
	if err != nil {
		return fmt.Errorf("cut connections: %w", err)
	}
	defer sock.Close()
	for len(flows) > 0 {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("cut connections: %w", err)
		}
		n := min(cutBatch, len(flows))
		if err := cutSome(sock, flows[:n]); err != nil {
			return fmt.Errorf("cut connections: %w", err)
		}
		flows = flows[n:]
	}
	return nil
}

func cutSome(sock *askSocket, flows []Flow) error {
	msgs := make([]netlink.Message, len(flows))
	for i, f := range flows {
		family, data := encodeCut(f)
		msgs[i] = netlink.Message{
			Header: netlink.Header{Type: ctType(ctDelete), Flags: netlink.Request, Sequence: uint32(i + 1), Length: uint32(unix.NLMSG_HDRLEN + 4 + len(data))},
			Data:   append(nfgenmsg(family, 0), data...),
		}
	}
	// Only refusals are answered, and the last in any case.
	last := uint32(len(msgs))
	msgs[len(msgs)-1].Header.Flags |= netlink.Acknowledge
	if err := sock.SendMessages(msgs); err != nil {
		return err
	}
	var errs []error
	for {
		for m, err := range sock.ReceiveIter() {
			if err != nil {
				return errors.Join(append(errs, err)...)
			}
			if m.Header.Type != netlink.Error {
				continue
			}
			if err := errnoOf(m.Data); err != nil && !isGone(err) && len(errs) < 3 {
				i := int(m.Header.Sequence) - 1
				errs = append(errs, fmt.Errorf("%s to %s: %w", flows[i].Src, flows[i].Dst, err))
			}
			if m.Header.Sequence == last {
				return errors.Join(errs...)
			}
		}
	}
}
