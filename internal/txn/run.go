package txn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Journal is the disk. Every method is durable before it returns (fsync).
type Journal interface {
	// Save writes a change that is not finished, replacing an earlier version.
	Save(Txn) error
	// Commit is the commit point: in one write it stores the document and the
	// ledger of the change and forgets the change.
	Commit(Txn) error
	// Drop forgets a change that was taken back.
	Drop(id string) error
	// Load lists the unfinished changes.
	Load() ([]Txn, error)
}

// Runner carries changes out, one at a time; the caller serialises.
type Runner struct {
	Host    Host
	Journal Journal
	Log     *slog.Logger
	// Boottime reads CLOCK_BOOTTIME in nanoseconds: it goes on during suspend,
	// and no clock change moves it.
	Boottime func() int64
	// BootID identifies this boot.
	BootID string
}

// NotVerifiedError says that all steps reported success and the host is still
// not as wanted.
type NotVerifiedError struct{ Missing []plan.Step }

// Error names the first differences.
func (e *NotVerifiedError) Error() string {
	var names []string
	for i, s := range e.Missing {
		if i == 3 {
			names = append(names, fmt.Sprintf("and %d more", len(e.Missing)-i))
			break
		}
		names = append(names, s.Key().String())
	}
	return "afterwards the host was not as wanted: " + strings.Join(names, ", ")
}

// StuckError says that a change could neither be finished nor taken back. The
// change stays in the journal.
type StuckError struct {
	ID    string
	Left  []plan.Step
	Cause error
}

// Error says what is left to be done by hand.
func (e *StuckError) Error() string {
	return fmt.Sprintf("change %s is stuck with %d steps left to take back: %v", e.ID, len(e.Left), e.Cause)
}

// Unwrap returns why the change could not be taken back.
func (e *StuckError) Unwrap() error { return e.Cause }

// Run carries out t. On return it is confirmed, or waiting if t has a deadline,
// or everything is as it was and the error says why; only a *StuckError means
// that neither could be reached.
func (r *Runner) Run(ctx context.Context, t Txn) (Txn, error) {
	t.Phase, t.BootID = Applying, r.BootID
	if err := r.Journal.Save(t); err != nil {
		return t, fmt.Errorf("%s: journal: %w", t.Title, err)
	}
	if err := r.Host.Apply(ctx, t.Steps); err != nil {
		return r.Rollback(ctx, t, fmt.Errorf("%s: %w", t.Title, err))
	}
	t.Phase = Verifying
	if err := r.verify(ctx, t); err != nil {
		return r.Rollback(ctx, t, fmt.Errorf("%s: %w", t.Title, err))
	}
	if t.Deadline != 0 {
		t.Phase = Waiting
		if err := r.Journal.Save(t); err != nil {
			return r.Rollback(ctx, t, fmt.Errorf("%s: journal: %w", t.Title, err))
		}
		return t, nil
	}
	return r.Confirm(ctx, t)
}

// Confirm passes the commit point of a verified change.
func (r *Runner) Confirm(ctx context.Context, t Txn) (Txn, error) {
	t.Phase = Confirmed
	if err := r.Journal.Commit(t); err != nil {
		return r.Rollback(ctx, t, fmt.Errorf("%s: commit: %w", t.Title, err))
	}
	r.Log.Debug("change confirmed", "id", t.ID, "title", t.Title, "steps", len(t.Steps))
	return t, nil
}

func (r *Runner) verify(ctx context.Context, t Txn) error {
	seen, err := r.observe(ctx, t.Scope)
	if err != nil {
		return fmt.Errorf("look at the result: %w", err)
	}
	if missing := plan.Diff(t.Goal, seen); len(missing) > 0 {
		return &NotVerifiedError{missing}
	}
	return nil
}

// observe reads exactly the scope; without a scope there is nothing to read.
func (r *Runner) observe(ctx context.Context, scope []host.Key) (host.State, error) {
	if len(scope) == 0 {
		return host.State{}, nil
	}
	return r.Host.Observe(ctx, scope...)
}

// rounds is how often a roll-back looks and acts before the change is called
// stuck: the kernel acts on its own, so that one round may need another.
const rounds = 3

// Rollback takes a change back by planning from what is seen to the snapshot.
// It goes on although ctx is cancelled. The error returned holds cause.
func (r *Runner) Rollback(ctx context.Context, t Txn, cause error) (Txn, error) {
	ctx = context.WithoutCancel(ctx)
	t.Phase, t.Problem = RollingBack, cause.Error()
	errs := []error{cause}
	if err := r.Journal.Save(t); err != nil {
		// The journal still holds an earlier phase, which recovery takes back too.
		errs = append(errs, fmt.Errorf("journal: %w", err))
	}
	var left []plan.Step
	for range rounds {
		var err error
		if left, err = r.leftToUndo(ctx, t); err != nil {
			errs = append(errs, fmt.Errorf("take back: %w", err))
			continue
		}
		if len(left) == 0 {
			return r.rolledBack(t, errs)
		}
		if err := r.Host.Apply(ctx, left); err != nil {
			errs = append(errs, fmt.Errorf("take back: %w", err))
		}
	}
	left, err := r.leftToUndo(ctx, t)
	if err == nil && len(left) == 0 {
		return r.rolledBack(t, errs)
	}
	t.Phase = Stuck
	errs = append(errs, err)
	stuck := &StuckError{ID: t.ID, Left: left, Cause: errors.Join(errs...)}
	t.Problem = stuck.Error()
	if err := r.Journal.Save(t); err != nil {
		stuck.Cause = errors.Join(stuck.Cause, fmt.Errorf("journal: %w", err))
	}
	r.Log.Error("change is stuck", "id", t.ID, "title", t.Title, "left", len(left), "err", stuck.Cause)
	return t, stuck
}

func (r *Runner) rolledBack(t Txn, errs []error) (Txn, error) {
	t.Phase = RolledBack
	if err := r.Journal.Drop(t.ID); err != nil {
		errs = append(errs, fmt.Errorf("journal: %w", err))
	}
	r.Log.Warn("change taken back", "id", t.ID, "title", t.Title, "because", errs[0])
	return t, errors.Join(errs...)
}

// leftToUndo plans from what is seen to the snapshot. A bridge into which
// somebody plugged a link meanwhile stays: the guest behind it comes first.
func (r *Runner) leftToUndo(ctx context.Context, t Txn) ([]plan.Step, error) {
	seen, err := r.observe(ctx, t.Scope)
	if err != nil {
		return nil, err
	}
	steps := plan.Diff(t.Snapshot, seen)
	deletes := map[host.Key]bool{}
	for _, s := range steps {
		if s.After == nil && s.Key().Kind == host.KindLink {
			deletes[s.Key()] = true
		}
	}
	if len(deletes) == 0 {
		return steps, nil
	}
	kept, err := r.inUse(ctx, deletes, t.Scope)
	if err != nil || len(kept) == 0 {
		return steps, err
	}
	for key := range kept {
		delete(seen, key)
		r.Log.Warn("bridge stays: something was plugged into it meanwhile", "link", key.Name)
	}
	return plan.Diff(t.Snapshot, seen), nil
}

// inUse finds which of the links have ports that are outside the scope.
func (r *Runner) inUse(ctx context.Context, links map[host.Key]bool, scope []host.Key) (map[host.Key]bool, error) {
	all, err := r.Host.Observe(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range scope {
		delete(all, k)
	}
	kept := map[host.Key]bool{}
	for _, res := range all {
		if l, ok := res.(host.Link); ok && l.Master != "" && links[host.LinkKey(l.Master)] {
			kept[host.LinkKey(l.Master)] = true
		}
	}
	return kept, nil
}

// Recover ends what a crash left unfinished and returns the changes that are
// still waiting for a person, or stuck. It is called before anything else.
func (r *Runner) Recover(ctx context.Context) ([]Txn, error) {
	left, err := r.Journal.Load()
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	var open []Txn
	for _, t := range left {
		switch {
		case t.BootID != r.BootID:
			// Another boot: the kernel forgot everything that was done, and
			// nothing permanent changes before a change is confirmed.
			if err := r.Journal.Drop(t.ID); err != nil {
				return open, fmt.Errorf("recover: %w", err)
			}
			r.Log.Warn("unconfirmed change ended with the last boot", "id", t.ID, "title", t.Title)
		case t.Phase == Waiting && r.Boottime() < t.Deadline:
			open = append(open, t)
		default:
			done, err := r.Rollback(ctx, t, fmt.Errorf("%s: interrupted", t.Title))
			if done.Phase == Stuck {
				open = append(open, done)
				r.Log.Error("recovery", "err", err)
			}
		}
	}
	return open, nil
}
