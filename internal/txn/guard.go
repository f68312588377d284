package txn

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Guard is a second process that takes a change back if this one cannot: it was
// killed, it hangs, or it never comes back. It has a copy of the change, and acts
// only when it holds the lock that a daemon holds all its life and that the
// kernel frees when its holder dies: so never both act.
//
//	daemon, lock held              guard
//	Arm: copy, start           ──► stands; takes the lock as soon as the daemon is dead
//	  meanwhile, early steps
//	steps, verify                  … dead now: takes back at once
//	Update(waiting)                … dead now: waits for another daemon until the deadline
//	deadline: takes back, Disarm   a while after the deadline: kills who holds the lock, takes back
//	Confirm: Update(confirmed)     … dead now: the journal tells whether the commit came
//	commit, Disarm             ──► ends
type Guard interface {
	// Arm writes the guard's copy of t, starts the process unless it stands
	// already, and returns once it stands. On an error nothing is armed.
	Arm(ctx context.Context, t Txn) error
	// Update replaces the copy, if there is one; the guard goes by its phase and
	// deadline.
	Update(t Txn) error
	// Stands says whether the process of a change is there.
	Stands(id string) bool
	// Disarm removes the copy: the guard ends without acting. Disarming again is
	// no error.
	Disarm(id string) error
	// List names the changes of which there is a copy.
	List() ([]string, error)
}

// UnguardedError says that a change was not made, since nobody would take it back
// if the daemon died. Nothing that was there before has been touched.
type UnguardedError struct{ Cause error }

// Error says why there is no guard.
func (e *UnguardedError) Error() string {
	return "nothing was touched, because no guard stands by to take it back: " + e.Cause.Error()
}

// Unwrap returns why there is no guard.
func (e *UnguardedError) Unwrap() error { return e.Cause }

// TakenBackError says that a change cannot be confirmed any more.
type TakenBackError struct{ ID, Why string }

// Error says that it is too late.
func (e *TakenBackError) Error() string {
	return fmt.Sprintf("change %s: too late, it was taken back: %s", e.ID, e.Why)
}

// UnfinishedError says that a change is kept, and that what follows the commit
// point could not be done yet. It is tried again.
type UnfinishedError struct {
	ID    string
	Cause error
}

// Error says what is missing.
func (e *UnfinishedError) Error() string {
	return fmt.Sprintf("change %s is kept, but the host's own network files are not written yet (tried again until they are): %v", e.ID, e.Cause)
}

// Unwrap returns why.
func (e *UnfinishedError) Unwrap() error { return e.Cause }

// errNoGuard is why a process without a guard refuses a change that needs one.
var errNoGuard = errors.New("this program cannot start one")

// arming starts the guard of a change that will wait for a person, and says, later,
// once it stands or why it does not; at once of a change that needs none.
func (r *Runner) arming(ctx context.Context, t Txn) <-chan error {
	armed := make(chan error, 1)
	if t.Within == 0 {
		armed <- nil
		return armed
	}
	// Whoever asked may hang up: that must not end it halfway.
	go func() { armed <- r.arm(context.WithoutCancel(ctx), t) }()
	return armed
}

// arm starts the guard of a change that will wait for a person.
func (r *Runner) arm(ctx context.Context, t Txn) error {
	if t.Within == 0 {
		return nil
	}
	if r.Guard == nil {
		return &UnguardedError{errNoGuard}
	}
	if err := r.Guard.Arm(ctx, t); err != nil {
		return &UnguardedError{err}
	}
	return nil
}

// guarded does something with the guard of a change that has one.
func (r *Runner) guarded(t Txn, do func(Guard) error) error {
	if t.Within == 0 || r.Guard == nil {
		return nil
	}
	if err := do(r.Guard); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	return nil
}

func (r *Runner) tellGuard(t Txn) error {
	return r.guarded(t, func(g Guard) error { return g.Update(t) })
}

func (r *Runner) disarm(t Txn) {
	if err := r.guarded(t, func(g Guard) error { return g.Disarm(t.ID) }); err != nil {
		r.Log.Error("guard stays", "id", t.ID, "err", err)
	}
}

// wait begins the time of the person who is to confirm.
func (r *Runner) wait(t Txn) (Txn, error) {
	t.Phase, t.Deadline = Waiting, r.Boottime()+int64(t.Within)
	if err := r.Journal.Save(t); err != nil {
		return t, fmt.Errorf("journal: %w", err)
	}
	if err := r.tellGuard(t); err != nil {
		return t, err
	}
	r.entered(t)
	return t, nil
}

// Confirm passes the commit point of a change that waits for a person, and does
// what was to be done after it. If it is too late the change is taken back and
// the error is *TakenBackError; with *UnfinishedError it is kept and what follows
// is not done yet.
func (r *Runner) Confirm(ctx context.Context, t Txn) (Txn, error) {
	if r.Boottime() >= t.Deadline {
		done, err := r.Rollback(ctx, t, ErrNotConfirmed)
		if done.Phase == Stuck {
			return done, err
		}
		return done, &TakenBackError{t.ID, done.Problem}
	}
	return r.commit(ctx, t)
}

// commit passes the commit point. The guard is told before it: one that cannot
// read the journal must not take back what may have been kept.
func (r *Runner) commit(ctx context.Context, t Txn) (Txn, error) {
	before := t
	t.Phase = Confirmed
	if err := r.tellGuard(t); err != nil {
		return before, fmt.Errorf("confirm change %s: %w", t.ID, err)
	}
	if err := r.Journal.Commit(t); err != nil {
		return r.Rollback(ctx, before, fmt.Errorf("%s: commit: %w", t.Title, err))
	}
	r.disarm(t)
	r.Log.Debug("change confirmed", "id", t.ID, "title", t.Title, "steps", len(t.Steps))
	return r.Finish(ctx, t)
}

// Extend moves the deadline of a change that waits.
func (r *Runner) Extend(t Txn, by time.Duration) (Txn, error) {
	if r.Boottime() >= t.Deadline {
		return t, &TakenBackError{t.ID, ErrNotConfirmed.Error()}
	}
	later := t
	later.Deadline += int64(by)
	// The guard first: it may only ever act later than we would.
	if err := r.tellGuard(later); err != nil {
		return t, fmt.Errorf("extend change %s: %w", t.ID, err)
	}
	if err := r.Journal.Save(later); err != nil {
		return t, errors.Join(fmt.Errorf("extend change %s: %w", t.ID, err), r.tellGuard(t))
	}
	r.entered(later)
	return later, nil
}

// Attend starts the guard of a waiting change again if somebody killed it.
func (r *Runner) Attend(ctx context.Context, t Txn) error {
	if t.Phase != Waiting || r.Guard == nil || r.Guard.Stands(t.ID) {
		return nil
	}
	r.Log.Warn("the guard of a change was gone and is started again", "id", t.ID)
	return r.arm(ctx, t)
}
