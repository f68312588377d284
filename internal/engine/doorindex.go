package engine

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"drawbridge/internal/render"
	"drawbridge/internal/spec"
)

// doorIndex finds the forward that a flow came through, as the rules do: what
// listens on the one address before what listens on every address, ports before
// whole addresses.
type doorIndex struct {
	// doc is what the index was made of.
	doc    spec.Document
	single map[doorKey]*door
	// ranges of one protocol and address, by first port; they do not overlap.
	ranges map[doorKey][]*door
	whole  map[netip.Addr]*door
}

// doorKey is what a forward listens on; the port is 0 for ranges.
type doorKey struct {
	proto  spec.Proto
	listen netip.Addr
	port   uint16
}

type door struct {
	network spec.NetworkName
	spec.Forward
	// key is Forward.Key, made once: it is asked for with every flow.
	key string
}

func newDoorIndex(doc spec.Document) *doorIndex {
	ix := &doorIndex{single: map[doorKey]*door{}, ranges: map[doorKey][]*door{}, whole: map[netip.Addr]*door{}}
	ix.turn(doc)
	return ix
}

// turn makes the index that of another document, by what differs.
func (ix *doorIndex) turn(doc spec.Document) {
	for name, had := range ix.doc.Networks {
		for old := range had.Forwards.Changes(doc.Networks[name].Forwards) {
			if old != nil {
				ix.drop(*old)
			}
		}
	}
	for name, n := range doc.Networks {
		for _, now := range ix.doc.Networks[name].Forwards.Changes(n.Forwards) {
			if now != nil {
				ix.put(&door{network: name, Forward: *now, key: now.Key()})
			}
		}
	}
	ix.doc = doc
}

func (ix *doorIndex) put(d *door) {
	at := doorKey{d.Proto, d.Listen, 0}
	switch {
	case d.Proto == spec.ProtoAll:
		ix.whole[d.Listen] = d
	case d.First == d.Last:
		at.port = d.First
		ix.single[at] = d
	default:
		i, _ := slices.BinarySearchFunc(ix.ranges[at], d.First, byFirst)
		ix.ranges[at] = slices.Insert(ix.ranges[at], i, d)
	}
}

func (ix *doorIndex) drop(f spec.Forward) {
	at := doorKey{f.Proto, f.Listen, 0}
	switch {
	case f.Proto == spec.ProtoAll:
		delete(ix.whole, f.Listen)
	case f.First == f.Last:
		at.port = f.First
		delete(ix.single, at)
	default:
		if i, ok := slices.BinarySearchFunc(ix.ranges[at], f.First, byFirst); ok {
			ix.ranges[at] = slices.Delete(ix.ranges[at], i, i+1)
		}
	}
}

func byFirst(d *door, port uint16) int { return cmp.Compare(d.First, port) }

// protoNames are the protocols with ports, by IANA's numbers.
var protoNames = map[uint8]spec.Proto{6: spec.TCP, 17: spec.UDP, 132: spec.SCTP}

// find is the forward that a flow, as its client sent it, goes through.
func (ix *doorIndex) find(f Flow) (*door, bool) {
	to, from := f.Dst.Addr().Unmap(), f.Src.Addr().Unmap()
	everywhere := netip.IPv4Unspecified()
	if to.Is6() {
		everywhere = netip.IPv6Unspecified()
	}
	proto := protoNames[f.Proto]
	for _, listen := range []netip.Addr{to, everywhere} {
		if d, ok := ix.at(proto, listen, f.Dst.Port()); ok && admits(d, from) {
			return d, true
		}
		if d, ok := ix.whole[listen]; ok && admits(d, from) {
			return d, true
		}
	}
	return nil, false
}

func (ix *doorIndex) at(proto spec.Proto, listen netip.Addr, port uint16) (*door, bool) {
	if d, ok := ix.single[doorKey{proto, listen, port}]; ok {
		return d, true
	}
	list := ix.ranges[doorKey{proto, listen, 0}]
	i, exact := slices.BinarySearchFunc(list, port, byFirst)
	if !exact {
		i--
	}
	if i < 0 || port > list[i].Last {
		return nil, false
	}
	return list[i], true
}

func admits(d *door, from netip.Addr) bool {
	return len(d.From) == 0 || slices.ContainsFunc(d.From, func(p netip.Prefix) bool { return p.Contains(from) })
}

// findDoor is doorIndex.find for what is committed; the index is made when it is
// first needed, and follows the document after each change.
func (e *Engine) findDoor(f Flow) (*door, bool) {
	e.indexMu.Lock()
	defer e.indexMu.Unlock()
	switch {
	case e.index == nil:
		e.index = newDoorIndex(e.Store.Document())
	case e.stale:
		e.index.turn(e.Store.Document())
	}
	e.stale = false
	return e.index.find(f)
}

// staleDoors says that the document may have changed.
func (e *Engine) staleDoors() {
	e.indexMu.Lock()
	defer e.indexMu.Unlock()
	e.stale = true
}

// DoorOf is the key of the forward that a flow came through.
func (e *Engine) DoorOf(f Flow) (string, bool) {
	d, ok := e.findDoor(f)
	if !ok {
		return "", false
	}
	return d.key, true
}

// cutFlows ends the connections that no longer go where their forward leads:
// of forwards that closed, or lead elsewhere. For UDP also those that went to
// the host itself before there was a forward, since the kernel would keep them
// on their way for as long as the client goes on sending. The caller holds e.mu.
func (e *Engine) cutFlows(ctx context.Context, list []spec.Forward) {
	if len(list) == 0 {
		return
	}
	ctx = context.WithoutCancel(ctx)
	e.staleDoors()
	doc := e.Store.Document()
	who, facts := e.guests(ctx, doc), render.Facts{Targets: map[render.Target]netip.Addr{}, Now: e.Now().Unix()}
	leads := func(d *door) (netip.Addr, bool) {
		n := doc.Networks[d.network]
		who.targets(facts.Targets, n, slices.Values([]spec.Forward{d.Forward}))
		addr, ok := facts.GuestAddr(n.Name, d.Forward)
		return addr, ok && e.runs(n) && (d.Until == 0 || d.Until > facts.Now)
	}
	strays := func(f Flow) bool {
		d, open := e.findDoor(f)
		if !open {
			return f.DNAT && e.oursAt(doc, f.ReplySrc.Addr())
		}
		addr, there := leads(d)
		if !f.DNAT {
			return there && f.Proto == protoUDP
		}
		return !there || f.ReplySrc.Addr().Unmap() != addr || d.Proto != spec.ProtoAll && f.ReplySrc.Port() != d.TargetPort+f.Dst.Port()-d.First
	}
	for _, q := range flowQueries(list) {
		if _, err := CutFlows(ctx, e.Flows, q, strays); err != nil {
			e.Log.Warn("connections of a forward that changed go on", "err", err)
			return
		}
	}
}

const protoUDP = 17

// forgetCounts drops the counts of forwards that are no longer in the document.
func (e *Engine) forgetCounts(had spec.Document) {
	if e.Tally == nil {
		return
	}
	now := e.Store.Document()
	for name, old := range had.Networks {
		n := now.Networks[name]
		for _, c := range diffForwards(n, old.Forwards) {
			if c.new == nil {
				e.Tally.Forget(c.old.Key())
			}
		}
	}
}

// manyQueries is from how many changed forwards on all flows are listed at once.
const manyQueries = 8

func flowQueries(list []spec.Forward) []FlowQuery {
	if len(list) > manyQueries {
		return []FlowQuery{{}}
	}
	numbers := map[spec.Proto]uint8{}
	for number, name := range protoNames {
		numbers[name] = number
	}
	var all []FlowQuery
	for _, f := range list {
		// The unspecified address means every one of its family.
		all = append(all, FlowQuery{Proto: numbers[f.Proto], First: f.First, Last: f.Last, Dst: f.Listen})
	}
	return all
}

// oursAt says whether an address is of a guest of ours.
func (e *Engine) oursAt(doc spec.Document, a netip.Addr) bool {
	for _, n := range doc.Networks {
		for _, s := range n.Subnets {
			if s.Prefix.Contains(a.Unmap()) {
				return true
			}
		}
	}
	return false
}
