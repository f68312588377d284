package engine

import (
	"maps"

	"drawbridge/internal/host"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
)

// disownUsurped takes out of a ledger what we made on a bridge that is gone, where another
// program's stands under its name now: the kernel took all that along, and what is there
// is theirs. The network is then held, as if the name had never been ours, and started by
// the first look that finds it free.
func disownUsurped(ledger host.Ledger, had spec.Document, seen host.State) {
	for _, n := range had.Networks {
		if ledger[host.LinkKey(n.Bridge)].Kind != host.Made || !render.Usurped(n, seen) {
			continue
		}
		maps.DeleteFunc(ledger, func(k host.Key, _ host.Claim) bool {
			switch k.Kind {
			case host.KindLink, host.KindAddress, host.KindRoute, host.KindSysctl:
				return hangsOn(k, n.Bridge)
			}
			return false
		})
	}
}

// staysHeld are the networks that something foreign keeps from running and that a change
// does not set out to start, by itself or in another place: the change is about others,
// and they must not keep it from being made.
func (e *Engine) staysHeld(had, want spec.Document) map[spec.NetworkName]string {
	stays := map[spec.NetworkName]string{}
	for name, why := range e.held {
		was, is := had.Networks[name], want.Networks[name]
		if was.Started && is.Started && was.GuestLink() == is.GuestLink() && !want.Equal(had) {
			stays[name] = why
		}
	}
	return stays
}
