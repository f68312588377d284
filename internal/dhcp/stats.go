package dhcp

import (
	"maps"

	"drawbridge/internal/latency"
)

// Stats are the counters of one bridge since its service was begun, and its
// pool as it is now.
type Stats struct {
	Bridge, Network string
	// Serving says that packets are being received.
	Serving bool

	// Messages by kind: received, then sent.
	Discover, Request, Release, Decline, Inform uint64
	Offer, Ack, Nak                             uint64
	// Dropped counts messages that got no answer, by reason: malformed,
	// not-request, bootp, hardware, relay, no-pool, other, state, full, busy,
	// panic, unknown-type.
	Dropped map[string]uint64

	// Probes counts ARP probes, Unprobed the new addresses that were offered
	// without one because too many clients came at once, Conflicts the addresses
	// that somebody was found to use already.
	Probes, Unprobed, Conflicts uint64
	// SendErrors counts replies that the kernel did not take, CommitErrors
	// leases that could not be stored, so that their client was not answered.
	SendErrors, CommitErrors uint64

	// PoolSize is the number of addresses in the range, PoolUsed how many of
	// them are in use or offered.
	PoolSize, PoolUsed int

	// Latency is over all replies, from receiving the message to handing over the
	// reply, a probe and the storing of the lease included.
	Latency latency.Snapshot
}

func (s *service) stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.counts
	out.Dropped = maps.Clone(s.counts.Dropped)
	out.Latency = s.latency.Snapshot()
	out.Bridge, out.Serving = s.bridge, s.conn != nil
	if s.table != nil {
		out.Network = s.pool.Network
		out.PoolUsed, out.PoolSize = s.table.used(s.now())
	}
	return out
}
