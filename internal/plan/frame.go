package plan

import "drawbridge/internal/host"

// Frame says what a change is about: the scope (all that its steps touch, and
// all that hangs on what they delete), the scope as it is seen before, and the
// scope as it will be once the steps hold.
func Frame(steps []Step, seen host.State) (scope []host.Key, snapshot, goal host.State) {
	snapshot, goal = host.State{}, host.State{}
	touched := map[host.Key]bool{}
	deleted := map[host.Key]bool{}
	for _, s := range steps {
		key := s.Key()
		touched[key] = true
		if there, ok := seen[key]; ok {
			snapshot[key] = there
		}
		if s.After != nil {
			goal[key] = s.After
			delete(deleted, key)
		} else {
			deleted[key] = true
			delete(goal, key)
		}
	}
	for key, r := range seen {
		if touched[key] {
			continue
		}
		if route, ok := r.(host.Route); ok && route.FollowsAddress() {
			continue // it comes back with the address, and in no other way
		}
		if diesWith(r, deleted) {
			touched[key], snapshot[key] = true, r
		}
		if l, ok := r.(host.Link); ok && l.Master != "" && deleted[host.LinkKey(l.Master)] {
			// A port loses its bridge and its flags, and nothing else.
			touched[key], snapshot[key] = true, r
			l.Master, l.Isolated, l.Hairpin, l.VLANs = "", false, false, ""
			goal[key] = l
		}
	}
	all := make(host.State, len(touched))
	for key := range touched {
		all[key] = nil
	}
	return all.Keys(), snapshot, goal
}
