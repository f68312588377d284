package engine

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// soleGuest refuses a name that another running guest has: names are unique on
// the host, since DNS answers for them and a hardware address is made of them.
// One guest may have several NICs under its name: ports that one process holds or
// asks for (also through a helper that it started), and those made by attach,
// which stands for a program that is not known yet.
func (e *Engine) soleGuest(ctx context.Context, r PortRequest, persist bool) error {
	var same []host.Port
	for _, p := range e.live {
		if r.Guest != "" && p.Guest == r.Guest {
			same = append(same, p)
		}
	}
	if len(same) == 0 {
		return nil
	}
	slices.SortFunc(same, func(a, b host.Port) int { return strings.Compare(a.Tap, b.Tap) })
	var taps []host.Key
	for _, p := range same {
		taps = append(taps, host.LinkKey(p.Tap))
	}
	// A guest that ended just now may not have been noticed yet; who starts it
	// again gets name and hardware address back.
	seen, err := e.Host.Observe(ctx, taps...)
	if err != nil {
		return fmt.Errorf("look for guests of that name: %w", err)
	}
	if err := e.reapOf(ctx, same, seen); err != nil {
		return err
	}
	if persist || r.PID == 0 {
		return nil
	}
	users, err := e.Taps.TapUsers(ctx)
	if err != nil {
		return fmt.Errorf("look for guests of that name: %w", err)
	}
	for _, p := range same {
		if _, live := e.live[p.Tap]; !live {
			continue
		}
		user := users[p.Tap]
		if user.PID == 0 || user.PID == os.Getpid() {
			user = TapUser{} // nobody, or its descriptor is on the way
			if !p.Persistent {
				user.PID = p.PID
			}
		}
		if user.PID == 0 || user.PID == r.PID || e.Taps.Descends(r.PID, user.PID) {
			continue
		}
		return &spec.InvalidError{Field: "name", Reason: fmt.Sprintf(
			"%q is the guest of process %d%s, on network %s as %s: give this one another name, or end that one",
			r.Guest, user.PID, inBrackets(user.Process), p.Network, p.Tap)}
	}
	return nil
}

func inBrackets(word string) string {
	if word == "" {
		return ""
	}
	return " (" + word + ")"
}

// reapOf forgets those of the ports whose tap is gone.
func (e *Engine) reapOf(ctx context.Context, ports []host.Port, seen host.State) error {
	var gone []host.Port
	for _, p := range ports {
		if _, there := seen[host.LinkKey(p.Tap)]; !there {
			gone = append(gone, p)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return e.unplug(ctx, gone, nil)
}

// sharedNames tells of guests' names that two processes use all the same, since
// the taps that attach made are opened by whoever opens them.
func (e *Engine) sharedNames(ports []Port) []string {
	users := map[string][]string{}
	for _, p := range ports {
		if live, ours := e.live[p.Tap]; !ours || live.Guest == "" || p.PID == 0 {
			continue
		}
		who := fmt.Sprintf("%d%s", p.PID, inBrackets(p.Process))
		if !slices.Contains(users[p.Guest], who) {
			users[p.Guest] = append(users[p.Guest], who)
		}
	}
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(users)) {
		if who := users[name]; len(who) > 1 {
			problems = append(problems, fmt.Sprintf("guest name %q is used by processes %s: name one of them otherwise", name, strings.Join(who, " and ")))
		}
	}
	return problems
}
