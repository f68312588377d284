package topology

import (
	"net/netip"

	"drawbridge/internal/host"
)

// doors adds the forwards in the order given, each on the NIC whose address it
// listens on, else on the uplink, and to its guest if that is there.
func (b *builder) doors() {
	for _, f := range b.in.Forwards {
		n := Node{
			Kind: KindForward, Name: f.Key, Listen: f.Listen, Target: f.Target, Leads: f.Address, Network: f.Network,
			RxBytes: f.Bytes, Connections: f.Connections,
		}
		if f.Waiting != "" {
			n.Health, n.Note = Down, f.Waiting
		}
		if b.has(id(KindForward, f.Key)) {
			continue
		}
		door := b.node(n)
		if nic := b.doorNIC(f.At); nic != "" {
			b.edge(Edge{From: nic, To: door, Kind: EdgeDoor, Health: n.Health})
		}
		if guest := id(KindGuest, f.Guest); f.Guest != "" && b.has(guest) {
			b.edge(Edge{From: door, To: guest, Kind: EdgeDoor, Health: n.Health, Note: n.Note})
		}
	}
}

// doorNIC is the node that a door is on.
func (b *builder) doorNIC(at string) string {
	link := b.uplink()
	if a, err := netip.ParseAddr(at); err == nil && !a.IsUnspecified() {
		for _, name := range b.names {
			if b.holds(name, a) {
				link = name
				break
			}
		}
	}
	for _, node := range []string{id(KindNIC, link), id(KindHost, link)} {
		if b.has(node) {
			return node
		}
	}
	if l := b.links[link]; l.Type == host.TypeBridge && b.has(id(KindBridge, link)) {
		return id(KindBridge, link)
	}
	return ""
}
