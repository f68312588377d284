package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/txn"
)

// Process is the guard of one change.
type Process struct {
	RunDir string
	ID     string
	// Runner has the host, opened before the change begins, and no journal.
	Runner txn.Runner
	// Journal opens the journal; it is called with the lock held.
	Journal func() (j txn.Journal, stop func() error, err error)
	Log     *slog.Logger
}

const (
	// grace is how long after the deadline a daemon that lives is killed: by then
	// it should have taken the change back itself.
	grace = 10 * time.Second
	// tick is how often the guard looks. It reads a clock that goes on in suspend,
	// so that a timer need not.
	tick = 100 * time.Millisecond
)

// Run waits until the change is disarmed, and returns nil, or acts.
//
// When the daemon is dead it takes back at once what was half done, and what
// waits for a person at its deadline: until then another daemon may come. When
// the daemon lives it is killed a while after the deadline.
func (p *Process) Run(ctx context.Context) error {
	stands, err := os.OpenFile(standName(p.RunDir, p.ID), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	defer stands.Close()
	if err := unix.Flock(int(stands.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("guard: another one stands for change %s: %w", p.ID, err)
	}
	// For people: the lock is what counts.
	_, _ = fmt.Fprintln(stands, os.Getpid())
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		over, err := p.look(ctx)
		if over {
			_ = os.Remove(standName(p.RunDir, p.ID)) // a file in /run, a few bytes
			return err
		}
		if err != nil {
			p.Log.Error("guard", "id", p.ID, "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// look looks once, and acts if it is time.
func (p *Process) look(ctx context.Context) (over bool, err error) {
	// The clock first: between the two the machine may be suspended, and the daemon
	// go on with a later deadline.
	now := p.Runner.Boottime()
	t, err := readCopy(p.RunDir, p.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	late := time.Duration(now - t.Deadline)
	lock, err := TryLock(p.RunDir, Guard)
	var held *HeldError
	if errors.As(err, &held) {
		if late < grace || held.PID == 0 {
			return false, nil
		}
		p.Log.Warn("the change is overdue and its daemon hangs: it is killed", "id", p.ID, "process", held.PID)
		return false, kill(p.RunDir, held.PID)
	}
	if err != nil {
		return false, err
	}
	defer lock.Release()
	// With the lock: nobody changes the copy any more.
	if t, err = readCopy(p.RunDir, p.ID); err != nil {
		return errors.Is(err, fs.ErrNotExist), nil
	}
	if waits := t.Phase == txn.Waiting || t.Phase == txn.Confirmed; waits && p.Runner.Boottime() < t.Deadline {
		return false, nil
	}
	err = p.act(ctx, t)
	return true, errors.Join(err, New(p.RunDir, nil).Disarm(p.ID))
}

// act ends the change as a daemon that starts would.
func (p *Process) act(ctx context.Context, t txn.Txn) error {
	journal, stop, err := p.Journal()
	if err != nil {
		p.Log.Error("the journal cannot be read; the guard goes by its copy", "id", t.ID, "err", err)
		if t.Phase == txn.Confirmed {
			return fmt.Errorf("change %s was being confirmed, and stays: %w", t.ID, err)
		}
		journal, stop = only(t), func() error { return nil }
	}
	runner := p.Runner
	runner.Journal = journal
	left, err := journal.Load()
	if err != nil {
		runner.Journal, left = only(t), []txn.Txn{t}
	}
	for _, entry := range left {
		if entry.ID == t.ID {
			_, err = runner.RecoverOne(ctx, entry)
		}
	}
	return errors.Join(err, stop())
}

// only is the journal of one change where there is no disk: a daemon that finds
// the change in its own later takes it back again, which changes nothing.
type only txn.Txn

func (only) Save(txn.Txn) error         { return nil }
func (only) Commit(txn.Txn) error       { return errors.New("there is no journal") }
func (only) End(txn.Txn) error          { return nil }
func (o only) Load() ([]txn.Txn, error) { return []txn.Txn{txn.Txn(o)}, nil }
