package hostconf

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// HandsOff is what the host's network managers are told of links that are none of
// theirs, as the resource host.Unmanaged. It implements txn.Host for that kind.
//
// Measured: networkd takes any link that one of its files matches off the bridge that
// it is in, whenever it is started or reloaded; NetworkManager calls such links its own
// once somebody makes a connection for them. ifupdown2 goes by the bridge's stanza.
// Files below /run say otherwise, to managers that run and to those that will: they are
// written whoever is installed, and end with the boot, as the links do.
type HandsOff struct {
	tree tree
	list string
	tell func(note string)

	mu sync.Mutex
}

// NewHandsOff returns the adapter. run is the program's own folder (/run/drawbridge).
// tell is given what keeps a running manager from being told; it will read its file
// when it is started anew.
func NewHandsOff(run string, tell func(note string)) *HandsOff {
	return &HandsOff{list: run + "/hostconf-unmanaged", tell: tell}
}

const (
	networkdHandsOff = "/run/systemd/network/06-drawbridge.network"
	nmHandsOff       = "/run/NetworkManager/conf.d/06-drawbridge.conf"
)

// handsOffFiles are where the managers are told that links of these names (with
// * as in a shell) are none of theirs. NetworkManager takes the first [device] that
// matches of those in the last file, so that nobody's own choice is overruled
// (NetworkManager.conf(5)).
func handsOffFiles(names []string) []file {
	if len(names) == 0 {
		return []file{{Path: networkdHandsOff}, {Path: nmHandsOff}}
	}
	const why = "# Drawbridge: guests' ports and their bridges are managed by nobody else.\n"
	match := make([]string, len(names))
	for i, n := range names {
		match[i] = "interface-name:" + n
	}
	return []file{
		{Path: networkdHandsOff, Mode: 0o644, After: []byte(why + "[Match]\nName=" + strings.Join(names, " ") + "\n\n[Link]\nUnmanaged=yes\n")},
		{Path: nmHandsOff, Mode: 0o644, After: []byte(why + "[device-drawbridge]\nmatch-device=" + strings.Join(match, ",") + "\nmanaged=0\n")},
	}
}

// names reads which links are meant.
func (h *HandsOff) names() ([]string, error) {
	b, err := h.tree.read(h.list)
	if err != nil {
		return nil, fmt.Errorf("look at unmanaged links: %w", err)
	}
	return strings.Fields(string(b)), nil
}

// Observe reads what the managers are told; see txn.Host. Where a file is not as
// it shall be, nothing is seen.
func (h *HandsOff) Observe(_ context.Context, keys ...host.Key) (host.State, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := host.State{}
	names, err := h.names()
	if err != nil {
		return nil, err
	}
	for _, f := range handsOffFiles(names) {
		there, err := h.tree.read(f.Path)
		if err != nil {
			return nil, fmt.Errorf("look at unmanaged links: %w", err)
		}
		if !bytes.Equal(there, f.After) {
			return seen, nil
		}
	}
	for _, name := range names {
		u := host.Unmanaged{Links: name}
		if len(keys) == 0 || slices.Contains(keys, u.Key()) {
			seen.Add(u)
		}
	}
	return seen, nil
}

// Apply carries out steps; see txn.Host.
func (h *HandsOff) Apply(ctx context.Context, steps []plan.Step) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	names, err := h.names()
	if err != nil {
		return err
	}
	var fresh []string
	for _, s := range steps {
		name := s.Key().Name
		switch {
		case s.Key().Kind != host.KindUnmanaged:
		case s.After == nil:
			names = slices.DeleteFunc(names, func(n string) bool { return n == name })
		default:
			fresh = append(fresh, name)
			names = appendNew(names, name)
		}
	}
	slices.Sort(names)
	files := handsOffFiles(names)
	if err := h.tree.put(files); err != nil {
		return fmt.Errorf("tell network managers what is none of theirs: %w", err)
	}
	if len(names) == 0 {
		err = h.tree.remove(h.list)
	} else {
		err = h.tree.write(h.list, []byte(strings.Join(names, "\n")+"\n"), 0o644, os.Getuid(), os.Getgid())
	}
	if err != nil {
		return err
	}
	// Who has to let go of nothing need not be told: the links of those names are gone.
	if len(fresh) > 0 {
		h.announce(ctx, fresh)
	}
	return nil
}

// tellPatience bounds how long a manager that is just starting is waited for.
const tellPatience = 5 * time.Second

// announce makes running managers read their files again. networkd is told only if
// it might take one of the links: to read all is not free of harm, see reserve.
func (h *HandsOff) announce(ctx context.Context, names []string) {
	ctx, cancel := context.WithTimeout(ctx, tellPatience)
	defer cancel()
	taken := func(name string) bool { return networkdMayTake(h.tree, name, "") }
	if h.tree.running("systemd-network") && slices.ContainsFunc(names, taken) {
		if err := networkdReload(ctx); err != nil {
			h.tell(err.Error())
		}
	}
	if h.tree.running("NetworkManager") {
		// While it is starting, it has read its files and does not listen yet.
		err := await(ctx, func() error {
			bus, err := nmDial(ctx)
			if err != nil {
				return err
			}
			defer bus.Close()
			return bus.reloadConf(ctx)
		})
		if err != nil {
			h.tell(err.Error())
		}
	}
}
