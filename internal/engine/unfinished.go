package engine

import (
	"slices"
	"sync"

	"drawbridge/internal/host"
	"drawbridge/internal/txn"
)

// unfinished are the changes under way: applied just now, waiting for a person,
// taken back, stuck, or confirmed without all that follows. It has a lock of its
// own, so that one can be seen while it is carried out.
type unfinished struct {
	mu   sync.Mutex
	list []txn.Txn
}

// enter notes the phase of a change, and forgets one that is over.
func (u *unfinished) enter(t txn.Txn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.list = slices.DeleteFunc(u.list, func(o txn.Txn) bool { return o.ID == t.ID })
	if t.Phase != txn.RolledBack && (t.Phase != txn.Confirmed || t.Problem != "") {
		u.list = append(u.list, t)
	}
}

func (u *unfinished) set(list []txn.Txn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.list = slices.Clone(list)
}

func (u *unfinished) all() []txn.Txn {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.list)
}

func (u *unfinished) find(id string) (txn.Txn, bool) {
	all := u.all()
	i := slices.IndexFunc(all, func(t txn.Txn) bool { return t.ID == id })
	if i < 0 {
		return txn.Txn{}, false
	}
	return all[i], true
}

// touched are the things that unfinished changes are about: nobody else may
// touch them until those are decided.
func (u *unfinished) touched() map[host.Key]bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.list) == 0 {
		return nil
	}
	keys := map[host.Key]bool{}
	for _, t := range u.list {
		for _, k := range t.Scope {
			keys[k] = true
		}
		for _, s := range t.After {
			keys[s.Key()] = true
		}
	}
	return keys
}
