package dhcp

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
)

// ErrLocked says that another process has the lease file open.
var ErrLocked = errors.New("lease file is in use by another process")

// ErrClosed says that the leases were closed.
var ErrClosed = errors.New("leases are closed")

// CorruptError says that the lease file could not be read and where it is kept
// now. Leases that could still be read were carried over.
type CorruptError struct {
	Path  string // the lease file
	Aside string // the damaged one under its new name
	Cause error
	// Salvaged counts the leases that were carried over.
	Salvaged int
}

// Error says what happened and where the file is.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("lease file %s is damaged (%v): kept as %s, %d leases carried over", e.Path, e.Cause, e.Aside, e.Salvaged)
}

// Unwrap is the cause.
func (e *CorruptError) Unwrap() error { return e.Cause }

// Leases are all leases of all networks, on disk and in memory. What List and
// Watch show is on disk already. Safe for use by several goroutines.
type Leases struct {
	path    string
	log     *slog.Logger
	corrupt *CorruptError

	done    chan job
	stopped chan struct{} // closed when the last job was answered
	commits atomic.Uint64

	// jobs wait in the order in which they must reach the disk; changed tells
	// that jobs or closed did.
	queue   sync.Mutex
	changed *sync.Cond
	jobs    []job
	closed  bool
	// beforeCommit runs before each write to disk; tests only.
	beforeCommit func() error

	// db is used by open, then by the committing goroutine alone.
	db *bbolt.DB

	mu       sync.Mutex
	byKey    map[key]Lease
	watchers map[*watcher]bool
	expiry   expiry
}

type key struct {
	network string
	addr    netip.Addr
}

// job is something to be made durable; done is called once, in another
// goroutine, after it is on disk or could not be put there.
type job struct {
	put    []Lease
	forget string
	done   func(error)
	err    error
}

// maxJobs bounds the jobs that wait for the disk; see room.
const maxJobs = 256

// OpenLeases opens the lease file, making it if it is not there. A damaged file
// is renamed, never overwritten, and a new one begun with what could be read:
// see Corrupt. The error wraps ErrLocked if another process has the file; it is
// tried for a second.
func OpenLeases(path string, log *slog.Logger) (*Leases, error) {
	l := &Leases{
		path: path, log: log, byKey: map[key]Lease{}, watchers: map[*watcher]bool{},
		done: make(chan job, maxJobs), stopped: make(chan struct{}),
	}
	l.changed = sync.NewCond(&l.queue)
	var leases []Lease
	err := guarded(func() (err error) {
		l.db, leases, err = openBolt(path)
		return err
	})
	for _, lease := range leases {
		l.byKey[key{lease.Network, lease.Addr}] = lease
	}
	if damage(err) {
		err = l.startAfresh(err)
	}
	if err != nil {
		return nil, fmt.Errorf("open lease file %s: %w", path, err)
	}
	l.mu.Lock()
	l.expiry.told = time.Now().Unix()
	l.tellExpired()
	l.mu.Unlock()
	go l.commitLoop()
	go l.answerLoop()
	return l, nil
}

// Corrupt tells what happened if the lease file was damaged, else nil.
func (l *Leases) Corrupt() *CorruptError {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.corrupt
}

// Close finishes what is under way and closes the file.
func (l *Leases) Close() error {
	l.queue.Lock()
	l.closed = true
	l.changed.Broadcast()
	l.queue.Unlock()
	<-l.stopped
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expiry.stop()
	for w := range l.watchers {
		delete(l.watchers, w)
		close(w.ch)
	}
	if l.db == nil {
		return nil
	}
	db := l.db
	l.db = nil
	if err := guarded(db.Close); err != nil {
		return fmt.Errorf("close lease file %s: %w", l.path, err)
	}
	return nil
}

// List returns all leases, those that are over included, by network and address.
func (l *Leases) List() []Lease {
	return l.list(func(key) bool { return true })
}

// Network returns the leases of one network by address.
func (l *Leases) Network(name string) []Lease {
	return l.list(func(k key) bool { return k.network == name })
}

func (l *Leases) list(want func(key) bool) []Lease {
	l.mu.Lock()
	var out []Lease
	for k, lease := range l.byKey {
		if want(k) {
			out = append(out, lease)
		}
	}
	l.mu.Unlock()
	slices.SortFunc(out, func(a, b Lease) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Addr.Compare(b.Addr))
	})
	return out
}

// Commits counts the writes to disk so far, each of which carries all leases
// that were waiting.
func (l *Leases) Commits() uint64 { return l.commits.Load() }

// Forget removes all leases of a network, for when it is no more. A server that
// has a pool of that network must have been told to drop it before.
func (l *Leases) Forget(network string) error {
	result := make(chan error, 1)
	l.commit(job{forget: network, done: func(err error) { result <- err }})
	if err := <-result; err != nil {
		return fmt.Errorf("forget leases of network %q: %w", network, err)
	}
	return nil
}

// settle waits until all that was queued before is on disk, or failed.
func (l *Leases) settle() {
	settled := make(chan struct{})
	l.commit(job{done: func(error) { close(settled) }})
	<-settled
}

// commit queues a job. It never waits, so that callers can keep a lock over
// it and thereby the order of their jobs; see room.
func (l *Leases) commit(j job) {
	l.queue.Lock()
	defer l.queue.Unlock()
	if l.closed {
		go j.done(ErrClosed)
		return
	}
	l.jobs = append(l.jobs, j)
	l.changed.Broadcast()
}

// room waits while too many jobs are queued. Receivers call it before they take
// more messages, so that it is the kernel that drops what cannot be kept.
func (l *Leases) room() {
	l.queue.Lock()
	defer l.queue.Unlock()
	for len(l.jobs) >= maxJobs && !l.closed {
		l.changed.Wait()
	}
}

// next waits for jobs and takes all of them; none means that it is over.
func (l *Leases) next() []job {
	l.queue.Lock()
	defer l.queue.Unlock()
	for len(l.jobs) == 0 && !l.closed {
		l.changed.Wait()
	}
	batch := l.jobs
	l.jobs = nil
	l.changed.Broadcast()
	return batch
}

// commitLoop is the one goroutine that writes: all jobs that queued up while
// the last write was under way share the next one.
func (l *Leases) commitLoop() {
	defer close(l.done)
	for batch := l.next(); len(batch) > 0; batch = l.next() {
		err := l.store(batch)
		for _, j := range batch {
			j.err = err
			l.done <- j
		}
	}
}

// answerLoop calls the jobs' done functions, so that packets leave while the
// next write is under way.
func (l *Leases) answerLoop() {
	defer close(l.stopped)
	for j := range l.done {
		j.done(j.err)
	}
}

// store makes a batch durable, then visible.
func (l *Leases) store(batch []job) error {
	err := l.write(batch)
	if damage(err) {
		l.log.Error("lease file is damaged, starting a new one", "path", l.path, "error", err)
		if err = l.startAfresh(err); err == nil {
			err = l.write(batch)
		}
	}
	if err != nil {
		l.log.Error("leases could not be stored: no lease is given until they can", "path", l.path, "error", err)
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range batch {
		l.show(j)
	}
	return nil
}

// show makes a job's leases visible and tells the watchers. l.mu is held.
func (l *Leases) show(j job) {
	if j.forget != "" {
		for k := range l.byKey {
			if k.network == j.forget {
				delete(l.byKey, k)
			}
		}
		for w := range l.watchers {
			w.lose()
		}
	}
	for _, lease := range j.put {
		l.byKey[key{lease.Network, lease.Addr}] = lease
		if lease.State == Bound {
			l.expiry.by(lease.Expires, l.expire)
		}
		for w := range l.watchers {
			w.tell(lease)
		}
	}
}
