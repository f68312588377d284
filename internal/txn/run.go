package txn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// Journal is the disk. Every method is durable before it returns (fsync).
type Journal interface {
	// Save writes a change that is not finished, replacing an earlier version.
	Save(Txn) error
	// Commit is the commit point: in one write it stores the document and the
	// ledger of the change and forgets the change, or keeps it as confirmed if
	// there are steps for afterwards.
	Commit(Txn) error
	// End forgets a change that was taken back, or of which all is done that
	// came after its commit point. How one ended that waited for a person is
	// remembered, here and by Commit.
	End(Txn) error
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
	// Guard stands by while a change waits for a person; without one, such
	// changes are refused.
	Guard Guard
	// Probe, if given, looks for what cannot be seen of a change that waits for a
	// person: whether what answered before answers again. It may take a while.
	Probe func(context.Context, Txn) error
	// Entered, if given, is told of every phase that a change enters.
	Entered func(Txn)
}

func (r *Runner) entered(t Txn) {
	if r.Entered != nil {
		r.Entered(t)
	}
}

// ErrNotConfirmed is why a change is taken back whose time is over.
var ErrNotConfirmed = errors.New("nobody confirmed it in time")

// actPatience bounds the steps and the verification of a change that has a
// guard, which would kill us, and take back, a while later.
const actPatience = 30 * time.Second

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

// Run carries out t. On return it is confirmed, or waiting if a person has to
// confirm, or everything is as it was and the error says why; only a *StuckError
// means that neither could be reached, and an *UnfinishedError that it is
// confirmed and what follows is not done yet.
func (r *Runner) Run(ctx context.Context, t Txn) (Txn, error) {
	t.Phase, t.BootID = Applying, r.BootID
	if t.Within != 0 {
		t.Deadline = r.Boottime() + int64(actPatience)
	}
	if err := r.Journal.Save(t); err != nil {
		return t, fmt.Errorf("%s: journal: %w", t.Title, err)
	}
	r.entered(t)
	t, err := r.act(ctx, t, r.arming(ctx, t))
	if err == nil && t.Within != 0 {
		t, err = r.wait(t)
	}
	switch {
	case err != nil:
		return r.Rollback(ctx, t, fmt.Errorf("%s: %w", t.Title, err))
	case t.Within != 0:
		return t, nil
	}
	return r.commit(ctx, t)
}

// act takes the steps and looks at the result. A guard that armed says to stand is
// waited for before the first step that might do harm.
func (r *Runner) act(ctx context.Context, t Txn, armed <-chan error) (Txn, error) {
	if t.Within != 0 {
		// Whoever asked may be cut off by the change: that must not end it halfway.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), actPatience)
		defer cancel()
	}
	early := 0
	if t.Within != 0 {
		early = plan.Early(t.Steps)
	}
	err := r.Host.Apply(ctx, t.Steps[:early])
	if err == nil {
		r.prepare(ctx, t.Steps[early:])
	}
	if guardErr := <-armed; guardErr != nil {
		return t, errors.Join(guardErr, err)
	}
	if err == nil {
		err = r.Host.Apply(ctx, t.Steps[early:])
	}
	if err != nil {
		return t, err
	}
	t.Phase = Verifying
	r.entered(t)
	err = r.verify(ctx, t)
	var differs *NotVerifiedError
	if t.Within != 0 && errors.As(err, &differs) {
		// The host's own network manager works at the same time and may have put back
		// something just before it was told: by now it has been told.
		r.Log.Info("looked different afterwards, and is mended", "id", t.ID, "title", t.Title, "what", differs.Error())
		if err := r.Host.Apply(ctx, differs.Missing); err != nil {
			return t, err
		}
		err = r.verify(ctx, t)
	}
	if err != nil || t.Within == 0 || r.Probe == nil {
		return t, err
	}
	return t, r.Probe(ctx, t)
}

// prepare lets a host that can do so make ready for steps.
func (r *Runner) prepare(ctx context.Context, steps []plan.Step) {
	if p, ok := r.Host.(Preparer); ok {
		p.Prepare(ctx, steps)
	}
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
	if err := errors.Join(r.Journal.Save(t), r.tellGuard(t)); err != nil {
		// The journal still holds an earlier phase, which recovery takes back too.
		errs = append(errs, fmt.Errorf("journal: %w", err))
	}
	r.entered(t)
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
	t.Phase, t.Left = Stuck, left
	errs = append(errs, err)
	stuck := &StuckError{ID: t.ID, Left: left, Cause: errors.Join(errs...)}
	t.Problem = stuck.Error()
	if err := r.Journal.Save(t); err != nil {
		stuck.Cause = errors.Join(stuck.Cause, fmt.Errorf("journal: %w", err))
	}
	// A guard would not get further, and kill a daemon that can say what is left.
	r.disarm(t)
	r.entered(t)
	r.Log.Error("change is stuck", "id", t.ID, "title", t.Title, "left", len(left), "err", stuck.Cause)
	return t, stuck
}

func (r *Runner) rolledBack(t Txn, errs []error) (Txn, error) {
	t.Phase = RolledBack
	if err := r.Journal.End(t); err != nil {
		errs = append(errs, fmt.Errorf("journal: %w", err))
	}
	r.disarm(t)
	r.entered(t)
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
