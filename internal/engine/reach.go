package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/txn"
)

// Reach gathers what shows that the host is reached, and reaches others.
type Reach interface {
	// Operator finds the TCP connections by which a process is reached from another
	// machine; none is no error.
	Operator(ctx context.Context, pid int) ([]host.Connection, error)
	// Traffic says what went over one; fs.ErrNotExist if it is closed.
	Traffic(ctx context.Context, c host.Connection) (host.Traffic, error)
	// Peers lists the gateways and resolvers that the host uses.
	Peers(ctx context.Context) ([]host.Peer, error)
	// Answers asks one of them until ctx ends, and says why if it does not answer.
	Answers(ctx context.Context, p host.Peer) error
}

// Condition is one thing that has to be seen for a change to confirm itself.
type Condition struct {
	// What is to be seen, as "gateway 192.168.99.1 answers".
	What string
	Met  bool
	// Detail says what is seen instead while it is not met.
	Detail string
}

const (
	// answerPatience is how long a gateway or a resolver has to answer once asked.
	answerPatience = time.Second
	// reachPause is how often it is looked whether new data was acknowledged.
	reachPause = 20 * time.Millisecond
)

// reaching is what was seen so far for changes that wait to confirm themselves.
// It is not stored: a daemon that comes after begins anew, which only asks more.
type reaching struct {
	mu   sync.Mutex
	of   map[string]*sighting
	wake chan struct{}
}

// sighting is for one change.
type sighting struct {
	// sent is what had been written to each connection after the cut-over; what is
	// acknowledged beyond it is new, and went the new way there and back.
	sent map[host.Connection]uint64
	// reached is the connection that carried new data, once one did.
	reached *host.Connection
	// closed are connections that ended.
	closed map[host.Connection]bool
	// silent says why a peer did not answer; nil while none was asked.
	silent map[host.Peer]string
	asked  time.Time
}

// look wakes up whoever follows.
func (r *reaching) look() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// gather finds, before a change, by what it will be able to confirm itself.
func (e *Engine) gather(ctx context.Context, pid int) *host.Reach {
	found := &host.Reach{}
	if e.Reach == nil || pid == 0 {
		return found
	}
	var err error
	if found.Connections, err = e.Reach.Operator(ctx, pid); err != nil {
		e.Log.Warn("whoever asked is not found", "err", err)
		return found
	}
	if len(found.Connections) == 0 {
		return found // it is up to a person anyway
	}
	peers, err := e.Reach.Peers(ctx)
	if err != nil {
		e.Log.Warn("gateways and resolvers are not found", "err", err)
	}
	silent := e.ask(ctx, peers)
	for _, p := range peers {
		if _, dead := silent[p]; !dead {
			found.Peers = append(found.Peers, p)
		}
	}
	return found
}

// ways is by what the host and whoever asked can be reached.
func (e *Engine) ways(ctx context.Context, pid int) []Fact {
	if e.Reach == nil {
		return nil
	}
	var facts []Fact
	if peers, err := e.Reach.Peers(ctx); err == nil {
		var resolvers []string
		for _, p := range peers {
			if p.Role == host.RoleResolver {
				resolvers = append(resolvers, p.Addr.String())
			}
		}
		if len(resolvers) > 0 {
			facts = append(facts, Fact{Name: "DNS", Values: resolvers})
		}
	}
	if pid == 0 {
		return facts
	}
	you := Fact{Name: "you", Values: []string{"not over a TCP connection of this host, as far as can be seen"}}
	if list, err := e.Reach.Operator(ctx, pid); err == nil && len(list) > 0 {
		you.Values = nil
		for _, c := range list {
			you.Values = append(you.Values, fmt.Sprintf("%s, connected to port %d of %s", c.Remote, c.Local.Port(), c.Local.Addr()))
		}
	}
	return append(facts, you)
}

// ask asks all peers at the same time, and says why some do not answer.
func (e *Engine) ask(ctx context.Context, peers []host.Peer) map[host.Peer]string {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	silent := map[host.Peer]string{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, p := range peers {
		asking.Go(func() {
			if err := e.Reach.Answers(ctx, p); err != nil {
				mu.Lock()
				defer mu.Unlock()
				silent[p], _, _ = strings.Cut(err.Error(), "\n")
			}
		})
	}
	asking.Wait()
	return silent
}

// beginReach notes, right after the cut-over and before whoever asked is told,
// from where on data is new.
func (e *Engine) beginReach(ctx context.Context, t txn.Txn) {
	if t.Phase != txn.Waiting || t.Reach == nil || e.Reach == nil {
		return
	}
	s := &sighting{sent: map[host.Connection]uint64{}, closed: map[host.Connection]bool{}}
	for _, c := range t.Reach.Connections {
		traffic, err := e.Reach.Traffic(ctx, c)
		if err != nil {
			s.closed[c] = errors.Is(err, fs.ErrNotExist)
			continue // it is tried again
		}
		s.sent[c] = traffic.Written
	}
	e.reach.mu.Lock()
	clear(e.reach.of) // there is one such change at a time
	e.reach.of[t.ID] = s
	e.reach.mu.Unlock()
	e.reach.look()
}

// followReach confirms changes that were asked to confirm themselves, until ctx
// ends.
func (e *Engine) followReach(ctx context.Context) {
	for {
		busy := false
		for _, t := range e.open.all() {
			if t.Phase == txn.Waiting && t.Reach != nil && len(t.Reach.Connections) > 0 && e.Reach != nil {
				e.lookReach(ctx, t)
				busy = true
			}
		}
		if !busy {
			select {
			case <-ctx.Done():
				return
			case <-e.reach.wake:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(reachPause):
		}
	}
}

func (r *reaching) find(id string) *sighting {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.of[id]
}

// lookReach looks once, and confirms the change if all is seen.
func (e *Engine) lookReach(ctx context.Context, t txn.Txn) {
	s := e.reach.find(t.ID)
	if s == nil {
		e.beginReach(ctx, t)
		return
	}
	if s.reached == nil {
		e.lookConnections(ctx, t.Reach.Connections, s)
	}
	if s.reached == nil || time.Since(s.asked) < answerPatience/2 {
		return
	}
	silent := e.ask(ctx, t.Reach.Peers)
	e.reach.mu.Lock()
	s.asked, s.silent = time.Now(), silent
	e.reach.mu.Unlock()
	if len(silent) > 0 || ctx.Err() != nil {
		return
	}
	proof := []string{"new data went to " + s.reached.Remote.String() + " and was acknowledged"}
	for _, p := range t.Reach.Peers {
		proof = append(proof, p.String()+" answers")
	}
	if err := e.confirmItself(ctx, t.ID, strings.Join(proof, ", ")); err != nil {
		e.Log.Error("a change could not confirm itself", "id", t.ID, "err", err)
	}
}

// lookConnections looks for new data that was acknowledged.
func (e *Engine) lookConnections(ctx context.Context, connections []host.Connection, s *sighting) {
	for _, c := range connections {
		traffic, err := e.Reach.Traffic(ctx, c)
		e.reach.mu.Lock()
		sent, begun := s.sent[c]
		switch {
		case errors.Is(err, fs.ErrNotExist):
			s.closed[c] = true
		case err != nil: // it is tried again
		case !begun:
			s.sent[c] = traffic.Written
		case traffic.Acked > sent:
			s.reached = &c
		}
		e.reach.mu.Unlock()
	}
}

func (e *Engine) confirmItself(ctx context.Context, id, proof string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.waiting(id)
	var over *OverError
	if errors.As(err, &over) {
		return nil // somebody was faster
	}
	if err != nil {
		return err
	}
	t.Proof = proof
	if err := e.confirm(ctx, t); err != nil {
		return err
	}
	e.Log.Info("change confirmed itself", "id", t.ID, "title", t.Title, "as", proof)
	return nil
}

// Conditions are what has to be seen for a change that waits to confirm itself;
// none if it was not asked to.
func (e *Engine) Conditions(t txn.Txn) []Condition {
	if t.Reach == nil || t.Phase != txn.Waiting {
		return nil
	}
	if len(t.Reach.Connections) == 0 {
		return []Condition{{
			What:   "new data is acknowledged over the connection of whoever asked",
			Detail: "no such TCP connection was found, so confirm it by hand",
		}}
	}
	e.reach.mu.Lock()
	defer e.reach.mu.Unlock()
	s := e.reach.of[t.ID]
	if s == nil {
		s = &sighting{}
	}
	var list []Condition
	for _, c := range t.Reach.Connections {
		one := Condition{What: fmt.Sprintf("new data is acknowledged over the connection from %s", c), Met: s.reached != nil && *s.reached == c}
		switch {
		case one.Met:
		case s.reached != nil:
			continue // one is enough
		case s.closed[c]:
			one.Detail = "it is closed; confirm by hand, over another"
		default:
			one.Detail = "nothing yet"
		}
		list = append(list, one)
	}
	for _, p := range t.Reach.Peers {
		one := Condition{What: p.String() + " answers again"}
		why, dead := s.silent[p]
		switch {
		case s.silent == nil:
			one.Detail = "not asked yet"
		case dead:
			one.Detail = why
		default:
			one.Met = true
		}
		list = append(list, one)
	}
	return list
}
