// Package guard is the second process that takes a change back if the daemon
// cannot: it was killed, it hangs, or it never comes back.
//
// It owns the lock by which only one process at a time acts on a host, the
// guard's copies of changes, and what the guard's process waits for. It does not
// know what changes are about, nor how they are taken back: that is txn, with
// the same code as in the daemon.
//
// Start reading at Process.Run in process.go; this file is the daemon's side,
// lock.go the lock.
package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"drawbridge/internal/txn"
)

// Guards implements txn.Guard with one process for each change, and their copies
// as files below a run directory.
type Guards struct {
	runDir string
	spawn  func(ctx context.Context, id string) error
}

// New returns the guards of a run directory, which must exist. spawn starts the
// process of a change where the end of this process does not end it; that
// process calls Process.Run.
func New(runDir string, spawn func(ctx context.Context, id string) error) *Guards {
	return &Guards{runDir, spawn}
}

// standPatience is how long a process may take from its start until it stands.
const standPatience = 10 * time.Second

// copyName is where the copy of a change is, standName the file that its process
// holds locked.
func copyName(runDir, id string) string  { return filepath.Join(runDir, "guard", id+".json") }
func standName(runDir, id string) string { return filepath.Join(runDir, "guard", id+".stands") }

// Arm writes the copy and starts the process; see txn.Guard.
func (g *Guards) Arm(ctx context.Context, t txn.Txn) error {
	if t.ID == "" || t.ID != filepath.Base(t.ID) || strings.HasPrefix(t.ID, ".") {
		return fmt.Errorf("%q is not the id of a change", t.ID)
	}
	// Only root reads it: the host's configuration may have secrets.
	if err := os.MkdirAll(filepath.Join(g.runDir, "guard"), 0o700); err != nil {
		return fmt.Errorf("write the guard's copy: %w", err)
	}
	if err := g.write(t); err != nil {
		return err
	}
	if g.Stands(t.ID) {
		return nil
	}
	if err := g.start(ctx, t.ID); err != nil {
		return errors.Join(fmt.Errorf("start the guard: %w", err), g.Disarm(t.ID))
	}
	return nil
}

func (g *Guards) start(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, standPatience)
	defer cancel()
	if err := g.spawn(ctx, id); err != nil {
		return err
	}
	const look = 2 * time.Millisecond
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for !g.Stands(id) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("it does not stand: %w", ctx.Err())
		case <-ticker.C:
		}
	}
	return nil
}

// Update replaces the copy, if there is one.
func (g *Guards) Update(t txn.Txn) error {
	if _, err := os.Stat(copyName(g.runDir, t.ID)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return g.write(t)
}

func (g *Guards) write(t txn.Txn) error {
	b, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("write the guard's copy: %w", err)
	}
	name := copyName(g.runDir, t.ID)
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		return fmt.Errorf("write the guard's copy: %w", err)
	}
	// No fsync: the run directory ends with the boot, as the change does.
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("write the guard's copy: %w", err)
	}
	return nil
}

// Stands says whether the process of a change is there.
func (g *Guards) Stands(id string) bool {
	f, err := os.Open(standName(g.runDir, id))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// Disarm removes the copy; the process ends when it sees that.
func (g *Guards) Disarm(id string) error {
	if err := os.Remove(copyName(g.runDir, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("disarm: %w", err)
	}
	if g.Stands(id) {
		return nil // it removes the other file itself
	}
	// One that was killed leaves it.
	if err := os.Remove(standName(g.runDir, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("disarm: %w", err)
	}
	return nil
}

// List names the changes of which there is a copy.
func (g *Guards) List() ([]string, error) {
	names, err := filepath.Glob(copyName(g.runDir, "*"))
	var ids []string
	for _, n := range names {
		ids = append(ids, strings.TrimSuffix(filepath.Base(n), ".json"))
	}
	return ids, err
}

// readCopy reads the copy of a change; fs.ErrNotExist if it was disarmed.
func readCopy(runDir, id string) (txn.Txn, error) {
	var t txn.Txn
	b, err := os.ReadFile(copyName(runDir, id))
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil {
		return t, fmt.Errorf("read the guard's copy: %w", err)
	}
	return t, nil
}
