package diagnose

import (
	"net/netip"

	"drawbridge/internal/ruleset"
)

// EndKind is what one end of a path is.
type EndKind string

// The kinds of ends. Outside are machines beyond a link of the host.
const (
	Guest   EndKind = "guest"
	Itself  EndKind = "host"
	Outside EndKind = "outside"
)

// End is one end of a path.
type End struct {
	Kind EndKind
	// Name for people.
	Name string
	// Addr is invalid if the end has none, or of Itself, where it is found out.
	Addr netip.Addr
	MAC  string
	// Port and Bridge are where a guest is plugged in. Plugged is false if no such
	// port was found.
	Port, Bridge string
	Plugged      bool
	// Subnet and Gateway are those of a guest's network.
	Subnet  netip.Prefix
	Gateway netip.Addr
	// NoRouter: the network tells its guests no way out.
	NoRouter bool
	// VLAN that an outside end is known to be in, on a bridge that tells them apart;
	// 0 is not known. A guest's follows from its port.
	VLAN    int
	Network string
}

// Heard is what the host knows of an address on a link.
type Heard struct {
	MAC string
	// Failed: it was asked and did not answer. Fixed: somebody said so by hand.
	Failed, Fixed bool
}

// Place is what a bridge's forwarding database says of a hardware address.
type Place struct {
	Port string
	// VLAN is 0 where the bridge does not tell them apart.
	VLAN int
	// Fixed: somebody said so by hand. Local: the host takes it for its own.
	Fixed, Local bool
}

// Scene is all that a path is explained from.
type Scene struct {
	Rules *ruleset.Ruleset
	Host  *Host
	// Neighbours by link and address.
	Neighbours map[string]map[netip.Addr]Heard
	// Learned is behind which port of a bridge an address was seen: port by bridge
	// and hardware address.
	Learned map[string]map[string]string
	// Places is the same with what was said by hand, and with VLANs.
	Places map[string]map[string][]Place
	// Tracked is how many connections are tracked, TrackedMax how many may be; 0 is
	// not known.
	Tracked, TrackedMax int
	// Yields says whether among the tracked connections is one that the kernel may
	// give up for a new one when there is no more room: one that is not assured. nil
	// if nobody can say.
	Yields func() (some bool, err error)
	// Flows are the tracked connections that one end began to another, by its
	// addresses before any NAT; nil if nobody can say. An invalid from is anybody.
	Flows func(proto uint8, from, to netip.Addr) ([]Connection, error)
	// Guests are all that are known, to find who has an address.
	Guests []End
	// Listens says whether a program of the host takes what comes to a port; nil if
	// that is not known. heard says what would hear.
	Listens func(proto uint8, to netip.AddrPort) (heard, known bool)
}
