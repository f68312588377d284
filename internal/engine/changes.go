package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// How long a person may be given to confirm a change.
const (
	shortestWait = time.Second
	longestWait  = time.Hour
	usualWait    = time.Minute
)

// carryOut makes a planned change. One that puts the host's own connections at
// risk waits for a person, under a guard; o is nil for what nobody asked for,
// which therefore cannot have such a risk.
func (e *Engine) carryOut(ctx context.Context, title string, d draft, o *Options) (txn.Txn, error) {
	now, after := parted(d.plan.Steps)
	scope, snapshot, goal := plan.Frame(now, d.seen)
	t := txn.Txn{
		ID: newID(), Title: title, Steps: now, After: after, Scope: scope, Snapshot: snapshot, Goal: goal,
		Doc: d.doc, Ledger: d.plan.Ledger, By: txn.ActorOf(ctx), Mends: d.mends, Began: e.Now(),
	}
	if d.plan.Risk == plan.RiskHost {
		if o == nil {
			return txn.Txn{}, fmt.Errorf("%s: it would touch the host's own links, which only a person may ask for", title)
		}
		var err error
		if t.Within, err = o.within(); err != nil {
			return txn.Txn{}, fmt.Errorf("%s: %w", title, err)
		}
		t.Who = t.By.String()
		if o.WhenReachable {
			t.Reach = e.gather(ctx, o.PID)
		}
	}
	e.begun.note(t.ID, e.Store.Document())
	done, err := e.runner.Run(ctx, t)
	if done.Phase != txn.Waiting && done.Phase != txn.Stuck {
		e.begun.forget(t.ID)
	}
	e.beginReach(ctx, done)
	e.quarrel.changed = time.Now()
	return done, err
}

// parted splits steps into those for now and those for after the commit point:
// the host's permanent configuration does not change while the change may still
// be taken back.
func parted(steps []plan.Step) (now, after []plan.Step) {
	for _, s := range steps {
		if k := s.Key(); k.Kind == host.KindProfile && strings.HasPrefix(k.Name, host.Permanent+" ") {
			after = append(after, s)
		} else {
			now = append(now, s)
		}
	}
	return now, after
}

func (o Options) within() (time.Duration, error) {
	switch {
	case o.Within == 0:
		return usualWait, nil
	case o.Within < shortestWait || o.Within > longestWait:
		return 0, &spec.InvalidError{Field: "confirm_within", Reason: fmt.Sprintf("%s is not between %s and %s", o.Within, shortestWait, longestWait)}
	}
	return o.Within, nil
}

// PendingError refuses a change because another one is not decided yet.
type PendingError struct {
	Title, ID string
	Phase     txn.Phase
}

// Error names the change to decide on.
func (e *PendingError) Error() string {
	return fmt.Sprintf("%s: change %s is pending (%s): confirm or cancel it first", e.Title, e.ID, e.Phase)
}

// Unwrap returns spec.ErrInUse.
func (e *PendingError) Unwrap() error { return spec.ErrInUse }

// OverError says that a change is over, and how it ended.
type OverError struct{ txn.Ended }

// Error says how it ended.
func (e *OverError) Error() string {
	if e.Phase == txn.Confirmed {
		return fmt.Sprintf("change %s is confirmed already", e.ID)
	}
	return (&txn.TakenBackError{ID: e.ID, Why: e.Problem}).Error()
}

// Changes lists the changes that are not finished. It does not wait for one that
// is carried out just now.
func (e *Engine) Changes() []txn.Txn { return e.open.all() }

// Change finds one that is not finished, or says by *OverError how it ended.
func (e *Engine) Change(id string) (txn.Txn, error) {
	if t, ok := e.open.find(id); ok {
		return t, nil
	}
	ended, err := e.Store.Ended()
	if err != nil {
		return txn.Txn{}, fmt.Errorf("change %q: %w", id, err)
	}
	for _, o := range slices.Backward(ended) {
		if o.ID == id {
			return txn.Txn{}, &OverError{o}
		}
	}
	return txn.Txn{}, fmt.Errorf("change %q: %w", id, spec.ErrNotFound)
}

// Confirm keeps a change that waits for a person. It is *OverError if it is over
// already, *txn.TakenBackError if its time is over, *txn.UnfinishedError if it is
// kept and the host's own network files are not written yet.
func (e *Engine) Confirm(ctx context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.waiting(id)
	if err != nil {
		return err
	}
	return e.confirm(ctx, t)
}

func (e *Engine) confirm(ctx context.Context, t txn.Txn) error {
	had := e.Store.Document()
	_, err := e.runner.Confirm(ctx, t)
	e.quarrel.changed = time.Now()
	e.dropLeases(ctx, had)
	return err
}

// Cancel takes back a change that waits for a person, is stuck, or was
// interrupted by a crash.
func (e *Engine) Cancel(ctx context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.Change(id)
	if err != nil {
		return err
	}
	if t.Phase == txn.Confirmed {
		return &OverError{t.Ended()}
	}
	done, err := e.runner.Rollback(ctx, t, errCancelled)
	e.quarrel.changed = time.Now()
	if done.Phase == txn.Stuck {
		return err
	}
	return nil
}

var errCancelled = errors.New("cancelled")

// Extend gives a waiting change more time.
func (e *Engine) Extend(_ context.Context, id string, by time.Duration) error {
	if by < shortestWait || by > longestWait {
		return &spec.InvalidError{Field: "seconds", Reason: fmt.Sprintf("%s is not between %s and %s", by, shortestWait, longestWait)}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.waiting(id)
	if err != nil {
		return err
	}
	_, err = e.runner.Extend(t, by)
	return err
}

func (e *Engine) waiting(id string) (txn.Txn, error) {
	t, err := e.Change(id)
	switch {
	case err != nil:
		return t, err
	case t.Phase == txn.Confirmed:
		return t, &OverError{t.Ended()}
	case t.Phase != txn.Waiting:
		return t, fmt.Errorf("change %s is %s: %w", id, t.Phase, spec.ErrInUse)
	}
	return t, nil
}

// attend does what is due for unfinished changes: takes back those whose time is
// over, starts guards again that are gone, finishes what is confirmed.
func (e *Engine) attend(ctx context.Context) {
	for _, t := range e.open.all() {
		switch {
		case t.Phase == txn.Waiting && e.Boottime() >= t.Deadline:
			_, _ = e.runner.Rollback(ctx, t, fmt.Errorf("%s: %w", t.Title, txn.ErrNotConfirmed)) // logged there
			e.quarrel.changed = time.Now()
		case t.Phase == txn.Waiting:
			if err := e.runner.Attend(ctx, t); err != nil {
				e.Log.Error("a change has no guard", "id", t.ID, "err", err)
			}
		case t.Phase == txn.Confirmed:
			if done, err := e.runner.Finish(ctx, t); err != nil && done.Problem != t.Problem {
				e.Log.Error("confirmed, and not finished", "id", t.ID, "err", err)
			}
		}
	}
}

// entered is told of every phase of every change.
func (e *Engine) entered(t txn.Txn) {
	e.open.enter(t)
	e.tellPhase(t)
}
