package engine

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"drawbridge/internal/spec"
)

// TestIndexFollowsDocument asks an index that was turned from document to document
// the same as one that is made anew.
func TestIndexFollowsDocument(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	doc := spec.Document{Networks: map[spec.NetworkName]spec.Network{}}
	turned := newDoorIndex(doc)
	listens := []netip.Addr{netip.IPv4Unspecified(), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	found := 0
	for range 400 {
		doc = doc.Clone()
		for range 1 + r.IntN(4) {
			name := spec.NetworkName([]string{"a", "b"}[r.IntN(2)])
			n := doc.Networks[name]
			f := spec.Forward{Proto: []spec.Proto{spec.TCP, spec.UDP}[r.IntN(2)], Listen: listens[r.IntN(3)], First: uint16(1 + r.IntN(20)), Target: "g", TargetPort: uint16(1 + r.IntN(2))}
			f.Last = f.First + uint16(r.IntN(3))
			if r.IntN(10) == 0 && !f.Everywhere() {
				f = spec.Forward{Proto: spec.ProtoAll, Listen: f.Listen, Target: "g"}
			}
			if r.IntN(3) == 0 && n.Forwards.Len() > 0 {
				n = n.WithoutForward(n.Forwards.List()[r.IntN(n.Forwards.Len())])
			} else if next := n.WithForward(f); doc.With(next).ForwardConflict() == nil {
				n = next
			}
			if n.Name = name; r.IntN(15) == 0 {
				delete(doc.Networks, name)
			} else {
				doc.Networks[name] = n
			}
		}
		if doc.ForwardConflict() != nil {
			t.Fatal("the test made a document that cannot be")
		}
		turned.turn(doc)
		fresh := newDoorIndex(doc)
		for port := range uint16(24) {
			for _, at := range listens {
				flow := Flow{Proto: []uint8{6, 17}[r.IntN(2)], Src: netip.MustParseAddrPort("198.51.100.1:999"), Dst: netip.AddrPortFrom(at, port)}
				got, ok := turned.find(flow)
				want, there := fresh.find(flow)
				if ok != there || ok && (got.key != want.key || got.network != want.network || got.TargetPort != want.TargetPort) {
					t.Fatalf("%s: turned %v %v, fresh %v %v", flow.Dst, got, ok, want, there)
				}
				if ok {
					found++
				}
			}
		}
	}
	if found < 1000 {
		t.Errorf("only %d flows came through a forward", found)
	}
}
