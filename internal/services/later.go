package services

import (
	"io"
	"sync"
)

// later closes what nobody has to wait for, one after the other on a thread of
// its own: closing a packet socket waits for a grace period of the kernel and
// blocks a thread meanwhile. What is not closed when the process ends, the kernel closes.
type later struct {
	mu      sync.Mutex
	waiting []io.Closer
	closing bool
}

// close puts c at the end of the row.
func (l *later) close(c io.Closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, c)
	if !l.closing {
		l.closing = true
		go l.run()
	}
}

func (l *later) run() {
	for {
		l.mu.Lock()
		if len(l.waiting) == 0 {
			l.waiting, l.closing = nil, false
			l.mu.Unlock()
			return
		}
		next := l.waiting[0]
		l.waiting[0], l.waiting = nil, l.waiting[1:]
		l.mu.Unlock()
		_ = next.Close() // of a packet socket, it does not fail
	}
}
