package services

import (
	"errors"
	"slices"
)

// KeepLeases has the process forget the leases of all networks but these; those
// of a network that it serves stay in any case. Where no process is there it
// starts none, and says so.
func (a *Adapter) KeepLeases(networks []string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if networks == nil {
		networks = []string{}
	}
	_, err := a.ask(message{Keep: &networks}, nil)
	return err
}

func (p *Process) keepLeases(networks []string) error {
	over := map[string]bool{}
	for _, l := range p.leases.List() {
		if _, served := p.bridgeOf[l.Network]; !served && !slices.Contains(networks, l.Network) {
			over[l.Network] = true
		}
	}
	var errs []error
	for network := range over {
		errs = append(errs, p.leases.Forget(network))
	}
	return errors.Join(errs...)
}
