package txn

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Finish does what was to be done after the commit point, and forgets the
// change. It may be called again, also after another boot.
func (r *Runner) Finish(ctx context.Context, t Txn) (Txn, error) {
	if len(t.After) == 0 {
		r.entered(t)
		return t, nil // the commit forgot it
	}
	// Half-written files of the host's configuration help nobody.
	ctx = context.WithoutCancel(ctx)
	t.Problem = ""
	err := r.Host.Apply(ctx, t.After)
	if err == nil {
		err = r.verifyAfter(ctx, t.After)
	}
	if err == nil {
		err = r.Journal.End(t)
	}
	if err != nil {
		t.Problem = err.Error()
		err = &UnfinishedError{t.ID, err}
	}
	r.entered(t)
	return t, err
}

func (r *Runner) verifyAfter(ctx context.Context, after []plan.Step) error {
	goal := host.State{}
	var keys []host.Key
	for _, s := range after {
		delete(goal, s.Key())
		if s.After != nil {
			goal.Add(s.After)
		}
		keys = append(keys, s.Key())
	}
	seen, err := r.observe(ctx, keys)
	if err != nil {
		return fmt.Errorf("look at the result: %w", err)
	}
	if missing := plan.Diff(goal, seen); len(missing) > 0 {
		return &NotVerifiedError{missing}
	}
	return nil
}

// Recover ends what a crash left unfinished and returns the changes that are
// still waiting for a person, stuck, or confirmed without all that follows. It
// is called before anything else, under the lock of Guard.
func (r *Runner) Recover(ctx context.Context) ([]Txn, error) {
	left, err := r.Journal.Load()
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	var open []Txn
	for _, t := range left {
		done, err := r.RecoverOne(ctx, t)
		if err != nil && done.Phase != Stuck {
			return open, fmt.Errorf("recover: %w", err)
		}
		if done.Phase == Waiting || done.Phase == Stuck || done.Phase == Confirmed && done.Problem != "" {
			open = append(open, done)
		}
	}
	return open, r.disarmOthers(open)
}

// RecoverOne is Recover for one change of the journal. It is what a guard calls.
func (r *Runner) RecoverOne(ctx context.Context, t Txn) (Txn, error) {
	switch {
	case t.BootID != r.BootID || t.Phase == Confirmed:
		return r.recoverSettled(ctx, t)
	case t.Phase == Waiting && r.Boottime() < t.Deadline && r.Guard != nil && r.Guard.Stands(t.ID):
		r.entered(t)
		return t, nil
	}
	cause := errInterrupted
	switch {
	case t.Phase != Waiting:
	case r.Boottime() >= t.Deadline:
		cause = ErrNotConfirmed
	default:
		cause = errUnguarded
	}
	done, err := r.Rollback(ctx, t, fmt.Errorf("%s: %w", t.Title, cause))
	if done.Phase == Stuck {
		return done, err
	}
	return done, nil
}

// Why changes are taken back by whoever comes after a crash.
var (
	errInterrupted = errors.New("the daemon died while it was made")
	errUnguarded   = errors.New("the daemon and its guard died while it waited")
)

// recoverSettled ends a change of which nothing is left to be decided: it was
// confirmed, or another boot made the kernel forget it.
func (r *Runner) recoverSettled(ctx context.Context, t Txn) (Txn, error) {
	if t.Phase == Confirmed {
		done, err := r.Finish(ctx, t)
		if err != nil {
			r.Log.Error("a confirmed change is not finished", "id", t.ID, "title", t.Title, "err", err)
			return done, nil
		}
		r.Log.Info("finished what was confirmed", "id", t.ID, "title", t.Title)
		return done, nil
	}
	// Nothing permanent changes before a change is confirmed.
	t.Phase, t.Problem = RolledBack, "the host was restarted before it was confirmed"
	if err := r.Journal.End(t); err != nil {
		return t, err
	}
	r.entered(t)
	r.Log.Warn("unconfirmed change ended with the last boot", "id", t.ID, "title", t.Title)
	return t, nil
}

// RecoverBoot is the part of Recover for changes of an earlier boot. It runs
// before the host's own network comes up, so that this finds its files as the
// last confirmed change wants them.
func (r *Runner) RecoverBoot(ctx context.Context) error {
	left, err := r.Journal.Load()
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	var errs []error
	for _, t := range left {
		if t.BootID == r.BootID {
			continue
		}
		done, err := r.recoverSettled(ctx, t)
		if err == nil && done.Phase == Confirmed && done.Problem != "" {
			err = fmt.Errorf("%s: %s", t.Title, done.Problem)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// disarmOthers sends guards home whose change is over: the process that was to
// do it died right before.
func (r *Runner) disarmOthers(open []Txn) error {
	if r.Guard == nil {
		return nil
	}
	ids, err := r.Guard.List()
	if err != nil {
		return fmt.Errorf("recover: guards: %w", err)
	}
	for _, id := range ids {
		if slices.ContainsFunc(open, func(t Txn) bool { return t.ID == id && t.Phase == Waiting }) {
			continue
		}
		if err := r.Guard.Disarm(id); err != nil {
			return fmt.Errorf("recover: guards: %w", err)
		}
	}
	return nil
}
