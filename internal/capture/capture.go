// Package capture reads packets from a socket that the daemon handed over and
// writes them as pcapng.
//
// It owns the reading, the form of the file, and the way from a filter's text to
// the kernel's program. It does not know guests or networks: what is captured is
// given to it in words.
//
// Start reading at Run below; pcapng.go has the file, socket.go the kernel,
// filter.go the filter.
package capture

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Options of a capture.
type Options struct {
	// Index of the interface that the socket is to be bound to.
	Index int
	// Promiscuous asks for all that crosses the interface.
	Promiscuous bool
	// Filter in the language of pcap-filter(7); "" takes everything.
	Filter string
	// Snap is how many bytes of each packet are kept, 0 for all.
	Snap int
	// Count ends the capture after so many packets, 0 never.
	Count uint64
	// About goes into the file.
	About About
}

// Result is how a capture ended.
type Result struct {
	Packets uint64
	// Dropped were not read in time, and are not in the file.
	Dropped uint64
	// Gone: the interface was removed.
	Gone bool
}

// Run captures from the socket until ctx ends, the count is reached, or the
// interface is gone; in each case what was written is a whole file. It closes the
// socket. ready is called once nothing more is missed.
func Run(ctx context.Context, socket *os.File, out io.Writer, o Options, ready func()) (res Result, err error) {
	defer socket.Close()
	program, err := Compile(ctx, o.Filter)
	if err != nil {
		return res, err
	}
	s, err := listen(socket, o, program)
	if err != nil {
		return res, err
	}
	buffered := bufio.NewWriterSize(out, 1<<20)
	w := &writer{out: buffered, snap: s.snap}
	began := time.Now()
	if err := w.begin(o.About, o.Filter); err != nil {
		return res, err
	}
	if err := buffered.Flush(); err != nil { // a reader at the other end of a pipe begins
		return res, fmt.Errorf("write the capture: %w", err)
	}
	ready()
	defer context.AfterFunc(ctx, s.interrupt)()
	for o.Count == 0 || res.Packets < o.Count {
		p, err := s.next(func() error { return buffered.Flush() })
		if errors.Is(err, errEnded) {
			if err := s.drain(&res, o.Count, w.packet); err != nil {
				return res, fmt.Errorf("capture: %w", err)
			}
			break
		}
		if errors.Is(err, errGone) {
			res.Gone = true
			break
		}
		if err == nil {
			err = w.packet(p)
		}
		if err != nil {
			return res, fmt.Errorf("capture: %w", err)
		}
		res.Packets++
	}
	dropped, err := s.dropped()
	if err != nil {
		return res, err
	}
	res.Dropped = dropped
	if err := errors.Join(w.end(began, time.Now(), res), buffered.Flush()); err != nil {
		return res, fmt.Errorf("write the capture: %w", err)
	}
	return res, nil
}
