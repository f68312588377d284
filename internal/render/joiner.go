package render

import (
	"slices"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// joiner is a mode that joins guests with a network of the host's own, over
// links that the host uses itself. Joining and leaving are moves that a person
// asks for; in between the host's own manager keeps what was moved.
type joiner interface {
	Mode
	// Settle fills in what is left open, in place of what a switch of our own
	// would have.
	Settle(n spec.Network, d spec.Document, f Facts) spec.Network
	// Asks lists what has to be seen before Render, beyond what is always seen.
	Asks(n spec.Network, seen host.State) []host.Key
	// Leave says what the host gets back when a network ends.
	Leave(n spec.Network, f Facts) (host.Wish, []Note, error)
	// Trouble says in one line why a running network does not work; "" if it does.
	Trouble(n spec.Network, seen host.State) string
}

func joinerOf(n spec.Network) (joiner, bool) {
	mode, err := ModeOf(n.Mode)
	if err != nil {
		return nil, false
	}
	j, joins := mode.(joiner)
	return j, joins
}

// Asks lists what has to be seen of the host, beyond links, addresses, routes and
// rules, before Wish is asked.
func Asks(d spec.Document, moving map[spec.NetworkName]bool, seen host.State) []host.Key {
	var keys []host.Key
	for _, name := range d.Names() {
		n := d.Networks[name]
		if j, joins := joinerOf(n); joins && n.Started && moving[name] {
			keys = append(keys, j.Asks(n, seen)...)
		}
	}
	return keys
}

// Turn says what a change from had to want means for links of the host's own:
// the networks that begin to use some, and those that cease to. A network that
// does both, with others, is in both.
func Turn(had, want spec.Document) (moving map[spec.NetworkName]bool, leaving []spec.Network) {
	moving = map[spec.NetworkName]bool{}
	for _, name := range want.Names() {
		n := want.Networks[name]
		if _, joins := joinerOf(n); joins && n.Started && !stays(had, n) {
			moving[name] = true
		}
	}
	for _, name := range had.Names() {
		n := had.Networks[name]
		if _, joins := joinerOf(n); joins && n.Started && !stays(want, n) {
			leaving = append(leaving, n)
		}
	}
	return moving, leaving
}

// stays says whether the network runs in d with the same links.
func stays(d spec.Document, n spec.Network) bool {
	o, there := d.Networks[n.Name]
	return there && o.Started && o.Mode == n.Mode && o.Bridge == n.Bridge && o.Adopt == n.Adopt && slices.Equal(o.Uplinks, n.Uplinks)
}

// Trouble says in one line why a running network does not work, where that is
// the doing of the host's own links; "" if it is not.
func Trouble(n spec.Network, seen host.State) string {
	if j, joins := joinerOf(n); joins && n.Started {
		return j.Trouble(n, seen)
	}
	return ""
}

// Unattended says whether a network may be started without anybody asking, at
// boot, although it was stopped: not if that moves links of the host's own.
func Unattended(n spec.Network) bool {
	_, joins := joinerOf(n)
	return !joins || IsDirect(n)
}

// MovesUplinks says whether a network takes links of the host's own into a bridge.
func MovesUplinks(n spec.Network) bool {
	return n.Mode == (bridged{}).Name() && !n.Adopt && len(n.Uplinks) > 0
}

// IsDirect says whether guests share a NIC of the host's by macvtap, without a bridge.
func IsDirect(n spec.Network) bool { return n.Mode == (direct{}).Name() }

// Open says whether a guest may be a server on the network as any other machine
// there may: it is not ours, and others give out addresses and names.
func Open(n spec.Network) bool {
	_, joins := joinerOf(n)
	return joins
}

// IsUplink says whether a link on the network's bridge is not a guest's.
func IsUplink(n spec.Network, l host.Link) bool {
	_, joins := joinerOf(n)
	return joins && (slices.Contains(n.Uplinks, l.Name) || !slices.Contains([]string{host.TypeTap, host.TypeVeth, host.TypeMacvtap}, l.Type))
}
