package rest

import (
	"net/netip"
	"os"
	"slices"
	"sync"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/topology"
)

// drawings are those that were made of one picture. They hold no counters, so that
// they are the same for as long as nothing else of the picture is different.
type drawings struct {
	mu       sync.Mutex
	view     uint64
	host     string
	doors    []doorState
	findings []topology.Finding
	made     map[Drawn]api.Topology
}

// doorState is what a drawing shows of a forward beside what the document says.
type doorState struct {
	key, guest, waiting string
	address             netip.Addr
}

// mostDrawings bounds what is kept: one for each width of a terminal that looks on.
const mostDrawings = 16

// draw draws, or finds what was drawn.
func (d *drawings) draw(how Drawn, v engine.View, forwards []engine.ForwardView, findings []topology.Finding) api.Topology {
	anew := func() api.Topology {
		in := inputOf(v, forwards)
		in.Findings = findings
		return how.draw(topology.Build(in))
	}
	if counts := how.Draw == "" || how.Draw == "graph"; counts || v.Same == 0 {
		return anew()
	}
	doors := make([]doorState, 0, len(forwards))
	for _, f := range forwards {
		doors = append(doors, doorState{f.Key(), f.Guest, f.Waiting, f.Address})
	}
	host, _ := os.Hostname()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.view != v.Same || d.host != host || !slices.Equal(d.doors, doors) || !slices.Equal(d.findings, findings) || len(d.made) >= mostDrawings {
		d.view, d.host, d.doors, d.findings, d.made = v.Same, host, doors, findings, map[Drawn]api.Topology{}
	}
	if _, there := d.made[how]; !there {
		d.made[how] = anew()
	}
	return d.made[how]
}
