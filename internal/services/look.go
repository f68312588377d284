package services

import (
	"context"
	"fmt"
	"maps"

	"drawbridge/internal/host"
)

// This file is about what is served, as the process shows it and the daemon sees it.

// show answers with what is served, unless the daemon has that already.
func (p *Process) show(ctx context.Context, m message, reply *message) (err error) {
	reply.Version = fmt.Sprintf("%s-%d", p.run, p.told)
	if m.Unless == reply.Version {
		return nil
	}
	reply.State, err = p.observe(ctx)
	if len(m.Keys) > 0 {
		reply.State = reply.State.Only(m.Keys)
	}
	reply.Indexes = map[string]int{}
	for name, b := range p.bridges {
		reply.Indexes[name] = b.index
	}
	return err
}

// alive leaves out what the process would serve on sockets that died with their
// link.
func (a *Adapter) alive(reply message) host.State {
	indexes := map[string]int{}
	state := make(host.State, len(reply.State))
	for k, r := range reply.State {
		name := bridgeOf(r)
		if needsSockets(r) && a.blocked[k] == "" {
			if _, known := indexes[name]; !known {
				indexes[name] = a.Opener.Index(name)
			}
			if reply.Indexes[name] != indexes[name] {
				continue
			}
		}
		state[k] = r
	}
	return state
}

// Look implements txn.Looker: the process says if it serves what it did.
func (a *Adapter) Look(context.Context) (*host.Sight, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	reply, err := a.ask(message{Observe: true, Unless: a.looked.Version}, nil)
	switch {
	case err != nil:
		reply = message{} // nobody there is an observation, not a failure
	case a.looked.Version != "" && reply.Version == a.looked.Version:
		reply = a.looked
	}
	a.looked, a.serving = reply, reply.Indexes
	now := a.alive(reply)
	if a.sight == nil || !maps.Equal(now, a.sight.State) {
		a.sight = &host.Sight{State: now}
	}
	return a.sight, nil
}
