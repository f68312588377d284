package engine

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// Undo puts the things of the document that a change altered back to what they
// were before it. It is a change like any other, and can be undone itself.
type Undo struct {
	Entry txn.Entry
	// Later are the changes since, the newest first; they are named when one of
	// them stands on this.
	Later []txn.Entry
}

// Title names the change and what it was.
func (c Undo) Title() string { return fmt.Sprintf("undo %s (%s)", c.Entry.ID, c.Entry.Title) }

// Edit puts everything back; *StandsError if something is not any more as the
// change left it.
func (c Undo) Edit(d spec.Document) (spec.Document, error) {
	for _, o := range c.Entry.Objects {
		if !stands(d, o, c.Entry.Objects) {
			return d, c.standsOn(o)
		}
	}
	d = d.Clone()
	for _, o := range c.Entry.Objects { // networks come before what is in them
		n, there := d.Networks[o.Network]
		switch {
		case o.Bare != nil && o.Bare.Before == nil:
			delete(d.Networks, o.Network)
			continue
		case o.Bare != nil:
			back := o.Bare.Before.Clone()
			back.Forwards, back.Reservations = n.Forwards, n.Reservations
			n = back
		case !there:
			continue // its network was made by the same change, and is gone again
		case o.Reservation != nil && o.Reservation.Before != nil:
			n = n.Clone().Reserve(*o.Reservation.Before)
		case o.Reservation != nil:
			n = n.Clone().Unreserve(o.Reservation.After.MAC)
		case o.Forward != nil:
			if o.Forward.After != nil {
				n = n.WithoutForward(*o.Forward.After)
			}
			if o.Forward.Before != nil {
				n = n.WithForward(*o.Forward.Before)
			}
		}
		d.Networks[o.Network] = n
	}
	return d, nil
}

// stands says whether a thing still is as the change left it; all are the things
// that the change altered.
func stands(d spec.Document, o txn.Object, all []txn.Object) bool {
	n, there := d.Networks[o.Network]
	switch {
	case o.Bare != nil && o.Bare.After == nil:
		return !there
	case o.Bare != nil:
		return there && txn.Bare(n).Equal(*o.Bare.After) && (o.Bare.Before != nil || nothingElse(n, all))
	case o.Reservation != nil:
		for _, r := range n.Reservations {
			if r.MAC == o.Name() {
				return o.Reservation.After != nil && r == *o.Reservation.After
			}
		}
		return o.Reservation.After == nil
	case o.Forward != nil && o.Forward.After != nil:
		f, found := n.Forwards.Find(*o.Forward.After)
		return found && f.Equal(*o.Forward.After)
	case o.Forward != nil:
		_, found := n.Forwards.Find(*o.Forward.Before)
		return !found
	}
	return false
}

// nothingElse says whether a network has only what the change gave it: else
// removing it would take away what others made.
func nothingElse(n spec.Network, all []txn.Object) bool {
	reservations, forwards := 0, 0
	for _, o := range all {
		switch {
		case o.Network != n.Name:
		case o.Reservation != nil:
			reservations++
		case o.Forward != nil:
			forwards++
		}
	}
	return len(n.Reservations) == reservations && n.Forwards.Len() == forwards
}

func (c Undo) standsOn(o txn.Object) error {
	err := &StandsError{ID: c.Entry.ID, Object: strings.TrimSpace("network " + string(o.Network) + " " + o.Name())}
	whole := o.Bare != nil && (o.Bare.Before == nil || o.Bare.After == nil)
	for _, later := range c.Later {
		for _, p := range later.Objects {
			if o.Same(p) || p.Network == o.Network && (whole || p.Bare != nil && (p.Bare.Before == nil || p.Bare.After == nil)) {
				err.Later = append(err.Later, later)
				break
			}
		}
	}
	return err
}

// StandsError refuses to undo a change on which later ones stand.
type StandsError struct {
	ID, Object string
	// Later changes of the same thing, the newest first; none if the record does
	// not go that far.
	Later []txn.Entry
}

// Error names the later changes, in the order in which they could be undone.
func (e *StandsError) Error() string {
	if len(e.Later) == 0 {
		return fmt.Sprintf("change %s cannot be undone: %s is not any more as it left it", e.ID, e.Object)
	}
	var names []string
	for _, l := range e.Later {
		names = append(names, fmt.Sprintf("%s (%s)", l.ID, l.Title))
	}
	return fmt.Sprintf("change %s cannot be undone: later changes of %s stand on it: %s; undo them first, in this order", e.ID, e.Object, strings.Join(names, ", "))
}

// Unwrap returns spec.ErrInUse.
func (e *StandsError) Unwrap() error { return spec.ErrInUse }

// Undo takes a change of the record back by a new one, and what Mend turned too. It is
// *StandsError if later changes stand on it.
func (e *Engine) Undo(ctx context.Context, id string, o Options) (Result, error) {
	c, err := e.undoing(id)
	if err != nil {
		return Result{}, fmt.Errorf("undo: %w", err)
	}
	if c.Entry.Mends {
		return e.unmend(ctx, c, o)
	}
	return e.Do(ctx, c, o)
}

// unmend turns things of the host back that a change turned, if they are as it
// left them.
func (e *Engine) unmend(ctx context.Context, c Undo, o Options) (Result, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	keys := make([]host.Key, 0, len(c.Entry.Steps))
	for _, s := range c.Entry.Steps {
		keys = append(keys, s.Key())
	}
	seen, err := e.Host.Observe(ctx, keys...)
	if err != nil {
		return Result{}, fmt.Errorf("%s: look at the host: %w", c.Title(), err)
	}
	var back []plan.Step
	for _, s := range slices.Backward(c.Entry.Steps) {
		step, ok := turnedBack(s, seen[s.Key()])
		if !ok {
			return Result{}, fmt.Errorf("%s: %w", c.Title(), &StandsError{ID: c.Entry.ID, Object: s.Key().String()})
		}
		back = append(back, step)
	}
	return e.turn(ctx, c.Title(), back, o)
}

// turnedBack is the step that takes back what a step did to a thing that is as now says:
// ok if that is as it was left. Of a link only what was turned counts and is turned back:
// others may change the rest, and the kernel gives a bridge the address of another port.
func turnedBack(s plan.Step, now host.Resource) (back plan.Step, ok bool) {
	before, link1 := s.Before.(host.Link)
	after, link2 := s.After.(host.Link)
	is, link3 := now.(host.Link)
	if !link1 || !link2 || !link3 {
		return plan.Step{Before: s.After, After: s.Before}, now == s.After
	}
	want, ok := is, true
	was, left, there, wanted := reflect.ValueOf(before), reflect.ValueOf(after), reflect.ValueOf(is), reflect.ValueOf(&want).Elem()
	for i := range was.NumField() {
		if was.Field(i).Equal(left.Field(i)) {
			continue
		}
		ok = ok && there.Field(i).Equal(left.Field(i))
		wanted.Field(i).Set(was.Field(i))
	}
	return plan.Step{Before: is, After: want}, ok
}

func (e *Engine) undoing(id string) (Undo, error) {
	var c Undo
	found := false
	err := e.Store.History(func(entry txn.Entry) bool {
		if found = entry.ID == id; found {
			c.Entry = entry
			return false
		}
		if entry.Kind == txn.EntryChange && entry.Phase == txn.Confirmed {
			c.Later = append(c.Later, entry)
		}
		return true
	})
	switch {
	case err != nil:
		return c, fmt.Errorf("read the record: %w", err)
	case !found:
		return c, fmt.Errorf("change %q: %w in the record", id, spec.ErrNotFound)
	case c.Entry.Phase != txn.Confirmed:
		return c, fmt.Errorf("change %s was %s, there is nothing of it to undo: %w", id, c.Entry.Phase, spec.ErrInUse)
	case c.Entry.Mends && len(c.Entry.Steps) == c.Entry.StepCount:
		return c, nil
	case c.Entry.Kind != txn.EntryChange || c.Entry.ObjectCount == 0:
		return c, fmt.Errorf("change %s altered nothing that anybody asked for, so there is nothing to undo: %w", id, spec.ErrInUse)
	case !c.Entry.Whole():
		return c, fmt.Errorf("change %s altered %d things, more than the record holds of one change; use an exported document: %w", id, c.Entry.ObjectCount, spec.ErrInUse)
	}
	return c, nil
}

// History lists the record, the newest entry first, until each says no.
func (e *Engine) History(each func(txn.Entry) bool) error { return e.Store.History(each) }
