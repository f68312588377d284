package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Role is what the holder of the lock is.
type Role string

// The roles.
const (
	// Daemon holds the lock as long as it lives.
	Daemon Role = "daemon"
	// Command is one that works without the daemon, and holds it for a moment.
	Command Role = "command"
	// Guard holds it while it takes a change back.
	Guard Role = "guard"
)

// Lock is the right to act on the host: one process at a time has it, and the
// kernel takes it from one that dies (flock(2)).
type Lock struct{ file *os.File }

// HeldError says who has the lock.
type HeldError struct {
	PID  int
	Role Role
}

// Error says who.
func (e *HeldError) Error() string {
	switch e.Role {
	case Daemon:
		return fmt.Sprintf("a drawbridge daemon runs already (process %d)", e.PID)
	case Guard:
		return fmt.Sprintf("a change is being taken back by its guard (process %d)", e.PID)
	}
	return fmt.Sprintf("another drawbridge command is at work (process %d)", e.PID)
}

// TryLock takes the lock of a run directory, which must exist, or returns
// *HeldError at once.
func TryLock(runDir string, as Role) (*Lock, error) {
	f, err := os.OpenFile(filepath.Join(runDir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		held := &HeldError{}
		// Between taking the lock and writing this the holder is unknown: 0.
		_, _ = fmt.Fscan(f, &held.PID, &held.Role)
		return nil, held
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintln(f, os.Getpid(), as)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock: %w", err)
	}
	return &Lock{f}, nil
}

// Release gives the lock back.
func (l *Lock) Release() {
	_ = l.file.Truncate(0) // who comes next writes it anew
	_ = l.file.Close()
}

// patience is how long one who comes waits for a holder. A daemon is not waited
// for, a guard that takes longer than this hangs and is killed.
var patience = map[Role]time.Duration{Command: 5 * time.Second, Guard: time.Minute, "": time.Second}

// Wait takes the lock when it gets free, and kills a guard that hangs. The error
// is *HeldError if a daemon has it, or others for too long.
func Wait(ctx context.Context, runDir string, as Role) (*Lock, error) {
	began := time.Now()
	for {
		l, err := TryLock(runDir, as)
		var held *HeldError
		if !errors.As(err, &held) {
			return l, err
		}
		if time.Since(began) >= patience[held.Role] {
			if held.Role != Guard {
				return nil, held
			}
			if err := kill(runDir, held.PID); err != nil {
				return nil, errors.Join(held, err)
			}
			began = time.Now()
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(held, ctx.Err())
		case <-time.After(lookPause):
		}
	}
}

// lookPause is how often a lock that is held is tried again.
const lookPause = 5 * time.Millisecond

// kill ends the holder of the lock. pid is what TryLock said; that it still holds
// the lock is checked with its descriptor open, so that no other process can have
// its number.
func kill(runDir string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	l, err := TryLock(runDir, Guard)
	var held *HeldError
	switch {
	case err == nil:
		l.Release()
		return nil
	case !errors.As(err, &held) || held.PID != pid:
		return nil // somebody else by now: looked at again
	}
	// A stopped process dies of it too.
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}
