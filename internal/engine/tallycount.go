package engine

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Counts is what went through a forward: packets and bytes in both directions.
type Counts struct {
	Connections uint64 `json:"connections"`
	Packets     uint64 `json:"packets"`
	Bytes       uint64 `json:"bytes"`
}

func (c Counts) plus(o Counts) Counts {
	return Counts{c.Connections + o.Connections, c.Packets + o.Packets, c.Bytes + o.Bytes}
}

func (c Counts) minus(o Counts) Counts {
	return Counts{c.Connections - o.Connections, c.Packets - o.Packets, c.Bytes - o.Bytes}
}

const (
	// missingGrace is how long a flow that is no longer listed may take to tell
	// its end before it is believed to have ended untold.
	missingGrace = 15 * time.Second
	// rememberedFlows bounds the memory for live flows, some 25 MB. The kernel's
	// own bound is nf_conntrack_max, 262144 on most hosts.
	rememberedFlows = 1 << 18
	// savedFlows is how many live flows are saved, those with most bytes.
	savedFlows = 4096
	// recentEnds is how many ends are kept in mind, twice, so that a listing that
	// still has a flow does not bring it back.
	recentEnds = 4096
)

// flowID tells a flow from all others: protocol, both ends, and the kernel's ID.
type flowID [41]byte

func idOf(f Flow) (id flowID) {
	id[0] = f.Proto
	src, dst := f.Src.Addr().As16(), f.Dst.Addr().As16()
	copy(id[1:], src[:])
	copy(id[17:], dst[:])
	binary.BigEndian.PutUint16(id[33:], f.Src.Port())
	binary.BigEndian.PutUint16(id[35:], f.Dst.Port())
	binary.BigEndian.PutUint32(id[37:], f.ID)
	return id
}

// liveFlow is a flow as it was last listed.
type liveFlow struct {
	forward string
	counts  Counts
	// missing is when it was first not listed any more; zero if it was.
	missing time.Time
}

// count is what the tally knows, and how what is listed and told changes it.
// Every flow is in one place at a time: among those that ended, with its final
// counts, or among the live ones, as it was last seen. So a flow that outlives
// the daemon is neither lost nor counted twice: the kernel has its counts.
type count struct {
	lookup func(Flow) (string, bool)
	ended  map[string]Counts
	live   map[flowID]liveFlow
	// sums are the live flows of each forward; those beyond rememberedFlows are
	// here only, and may be off until the next listing.
	sums map[string]Counts
	// recent and earlier are flows that ended; during a listing none is forgotten.
	recent, earlier map[flowID]struct{}
	listing         bool
	// changed are forwards whose ended counts are not saved, or are to go.
	changed map[string]bool
	saved   string
}

func newCount(lookup func(Flow) (string, bool)) *count {
	return &count{
		lookup: lookup, ended: map[string]Counts{}, live: map[flowID]liveFlow{}, sums: map[string]Counts{},
		recent: map[flowID]struct{}{}, earlier: map[flowID]struct{}{}, changed: map[string]bool{},
	}
}

// end counts a flow that is told to have ended.
func (c *count) end(f Flow) {
	id := idOf(f)
	was, known := c.live[id]
	if known {
		delete(c.live, id)
		c.sums[was.forward] = c.sums[was.forward].minus(was.counts)
	}
	if len(c.recent) >= recentEnds && !c.listing {
		c.recent, c.earlier = c.earlier, c.recent
		clear(c.recent)
	}
	c.recent[id] = struct{}{}
	if forward, ok := c.lookup(f); ok {
		c.add(forward, Counts{1, max(f.Packets, was.counts.Packets), max(f.Bytes, was.counts.Bytes)})
	}
}

func (c *count) add(forward string, n Counts) {
	c.ended[forward] = c.ended[forward].plus(n)
	c.changed[forward] = true
}

// listing collects the live flows of one listing.
type listing struct {
	live map[flowID]liveFlow
	// more are flows beyond what is remembered.
	more map[string]Counts
}

func (c *count) beginListing() *listing {
	c.listing = true
	return &listing{make(map[flowID]liveFlow, len(c.live)), map[string]Counts{}}
}

func (l *listing) add(f Flow, forward string) {
	n := Counts{1, f.Packets, f.Bytes}
	if len(l.live) >= rememberedFlows {
		l.more[forward] = l.more[forward].plus(n)
		return
	}
	l.live[idOf(f)] = liveFlow{forward: forward, counts: n}
}

// endListing takes over what was listed, nil if the listing failed.
func (c *count) endListing(l *listing, now time.Time) {
	c.listing = false
	if l == nil {
		return
	}
	for _, ends := range []map[flowID]struct{}{c.recent, c.earlier} {
		for id := range ends {
			delete(l.live, id)
		}
	}
	for id, f := range c.live {
		if _, there := l.live[id]; there {
			continue
		}
		switch {
		case f.missing.IsZero():
			f.missing = now
			l.live[id] = f
		case now.Sub(f.missing) < missingGrace:
			l.live[id] = f
		default:
			c.add(f.forward, f.counts)
		}
	}
	c.live, c.sums = l.live, l.more
	for _, f := range c.live {
		c.sums[f.forward] = c.sums[f.forward].plus(f.counts)
	}
}

func (c *count) total(forward string) Counts { return c.ended[forward].plus(c.sums[forward]) }

// forget drops one forward.
func (c *count) forget(forward string) {
	if _, there := c.ended[forward]; there {
		delete(c.ended, forward)
		c.changed[forward] = true
	}
	if c.sums[forward] != (Counts{}) {
		maps.DeleteFunc(c.live, func(_ flowID, f liveFlow) bool { return f.forward == forward })
	}
	delete(c.sums, forward)
}

// known lists the forwards that there are counts of.
func (c *count) known() []string {
	all := maps.Clone(c.ended)
	maps.Copy(all, c.sums)
	return slices.Collect(maps.Keys(all))
}

// What is saved: the ended counts of each forward, and the live flows.
const (
	savedForward = "forward "
	savedLive    = "live"
)

// unsaved is what differs from what is saved; nil values are to be deleted.
func (c *count) unsaved() (map[string][]byte, error) {
	entries := map[string][]byte{}
	for forward := range c.changed {
		n, there := c.ended[forward]
		if !there {
			entries[savedForward+forward] = nil
			continue
		}
		b, err := json.Marshal(n)
		if err != nil {
			return nil, fmt.Errorf("encode counts of %s: %w", forward, err)
		}
		entries[savedForward+forward] = b
	}
	if live := c.encodeLive(); string(live) != c.saved {
		entries[savedLive] = live
	}
	return entries, nil
}

// wasSaved says that these entries are on disk; what changed meanwhile is not.
func (c *count) wasSaved(entries map[string][]byte) {
	if live, ok := entries[savedLive]; ok {
		c.saved = string(live)
	}
}

// encodeLive writes the flows that count most, in a stable order.
func (c *count) encodeLive() []byte {
	type ranked struct {
		bytes uint64
		id    flowID
	}
	order := make([]ranked, 0, len(c.live))
	for id, f := range c.live {
		order = append(order, ranked{f.counts.Bytes, id})
	}
	slices.SortFunc(order, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.bytes, a.bytes), slices.Compare(a.id[:], b.id[:]))
	})
	var out []byte
	for _, r := range order[:min(len(order), savedFlows)] {
		id, f := r.id, c.live[r.id]
		out = append(out, id[:]...)
		out = binary.BigEndian.AppendUint64(out, f.counts.Packets)
		out = binary.BigEndian.AppendUint64(out, f.counts.Bytes)
		out = binary.AppendUvarint(out, uint64(len(f.forward)))
		out = append(out, f.forward...)
	}
	return out
}

// restore reads what was saved. The flows in it are live, or ended while nobody
// looked: the next listings tell.
func (c *count) restore(entries map[string][]byte) error {
	for key, value := range entries {
		if forward, ok := strings.CutPrefix(key, savedForward); ok {
			var n Counts
			if err := json.Unmarshal(value, &n); err != nil {
				return fmt.Errorf("read counts of %s: %w", forward, err)
			}
			c.ended[forward] = n
		}
	}
	b := entries[savedLive]
	c.saved = string(b)
	for len(b) > 0 {
		if len(b) < len(flowID{})+16 {
			return fmt.Errorf("read live connections: cut short")
		}
		id := flowID(b)
		b = b[len(id):]
		n := Counts{1, binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
		length, used := binary.Uvarint(b[16:])
		if used <= 0 || length > uint64(len(b)-16-used) {
			return fmt.Errorf("read live connections: cut short")
		}
		b = b[16+used:]
		forward := string(b[:length])
		b = b[length:]
		c.live[id] = liveFlow{forward: forward, counts: n}
		c.sums[forward] = c.sums[forward].plus(n)
	}
	return nil
}
