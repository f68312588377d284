package dhcp

import (
	"math"
	"time"
)

// Change is one event for those who follow leases: a lease as it is on disk
// now, or Lost.
type Change struct {
	Lease Lease
	// Lost says that changes were left out because the reader was slow; call
	// List to catch up. Lease is empty then.
	Lost bool
}

// watchBuffer is how many changes a reader may lag behind.
const watchBuffer = 1024

type watcher struct {
	// ch has one place more than changes are put in, for the mark Lost.
	ch   chan Change
	lost bool
}

// tell never waits: a change that finds no place turns into the mark Lost. Until
// the reader has taken the mark, which is the last thing in the channel, there
// is nothing more to say.
func (w *watcher) tell(lease Lease) {
	if w.lost && len(w.ch) == 0 {
		w.lost = false
	}
	if len(w.ch) < cap(w.ch)-1 && !w.lost {
		w.ch <- Change{Lease: lease}
		return
	}
	w.lose()
}

func (w *watcher) lose() {
	if w.lost && len(w.ch) > 0 {
		return
	}
	w.lost = true
	w.ch <- Change{Lost: true}
}

// Watch follows the changes from now on, each after it is on disk, and the end
// of each lease that is not renewed, up to expiryGap late: the lease is told as it
// was, only that it is no longer Live. It never
// holds up the server: a reader that is too slow gets a Change with Lost and
// calls List. The channel is closed by cancel or Close.
func (l *Leases) Watch() (changes <-chan Change, cancel func()) {
	w := &watcher{ch: make(chan Change, watchBuffer+1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers[w] = true
	return w.ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.watchers[w] {
			delete(l.watchers, w)
			close(w.ch)
		}
	}
}

// expiryGap is the least time between two looks for leases that are over, each
// of which goes through all of them.
const expiryGap = 5 * time.Second

// expiry is when to look for leases that are over, in seconds since 1970.
type expiry struct {
	timer *time.Timer
	at    int64 // 0: not set
	told  int64 // what was over by then was told
}

// by makes sure that look is called once that time has come.
func (e *expiry) by(at int64, look func()) {
	if e.at != 0 && e.at <= at {
		return
	}
	e.stop()
	e.at = at
	e.timer = time.AfterFunc(time.Until(time.Unix(at, 0)), look)
}

func (e *expiry) stop() {
	if e.timer != nil {
		e.timer.Stop()
	}
	e.at = 0
}

func (l *Leases) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tellExpired()
}

// tellExpired tells the watchers what is over since the last time, and sets the
// timer for what will be over next. l.mu is held.
func (l *Leases) tellExpired() {
	now := time.Now().Unix()
	next := int64(math.MaxInt64)
	for _, lease := range l.byKey {
		switch {
		case lease.State != Bound:
		case lease.Expires > now:
			next = min(next, lease.Expires)
		case lease.Expires > l.expiry.told:
			for w := range l.watchers {
				w.tell(lease)
			}
		}
	}
	l.expiry.told = now
	l.expiry.stop()
	if next != math.MaxInt64 {
		l.expiry.by(max(next, now+int64(expiryGap/time.Second)), l.expire)
	}
}
