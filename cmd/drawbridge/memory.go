package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A process has come to rest when it allocated less than restBytes in each of
// restTimes in a row, and it is worth the few milliseconds to give memory back once
// workBytes were allocated since it was done last, or mappedBytes mapped. The
// command after that takes a few milliseconds more, so commands that follow one
// another within a second are not made to pay it.
// idleTime is how often a process at rest looks whether it worked.
const (
	idleTime    = 2 * time.Second
	restTime    = 500 * time.Millisecond
	restTimes   = 2
	restBytes   = 256 << 10
	workBytes   = 1 << 20
	mappedBytes = 2 << 20
)

// giveBack returns memory to the system when the process comes to rest, until
// ctx ends. Both of our processes work for moments and rest for hours; by
// itself the runtime would keep the heap of its busiest moment for minutes, and
// the kernel all that was read of the program while it started.
func giveBack(ctx context.Context, log *slog.Logger) {
	timer := time.NewTimer(restTime)
	defer timer.Stop()
	var last, freed, kept uint64
	rested := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := allocated()
		worked, touched := now-freed > workBytes, fileBytes() > kept+mappedBytes
		if rested++; now-last >= restBytes {
			rested = 0
		}
		last = now
		switch {
		case !worked && !touched:
			rested = 0 // what comes next came just now, for all that is known
			timer.Reset(idleTime)
			continue
		case rested < restTimes:
			timer.Reset(restTime)
			continue
		}
		if worked {
			debug.FreeOSMemory()
		}
		if err := letGo(); err != nil {
			log.Debug("the program's own pages stay", "err", err)
		}
		freed, kept = allocated(), fileBytes()
		last = freed
		timer.Reset(idleTime)
	}
}

// allocated is how many bytes of heap were ever allocated.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// fileBytes is how much the process has mapped of files, in bytes.
func fileBytes() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if f := strings.Fields(string(text)); err == nil && len(f) > 2 {
		pages, _ := strconv.ParseUint(f[2], 10, 64) // 0 if the kernel counts in another way
		return pages * uint64(os.Getpagesize())
	}
	return 0
}

// letGo takes out of this process what it has mapped of files and only reads: its
// program, of which starting touches nearly all and resting a tenth, and databases.
// They stay in the page cache, from where what is needed again comes by a page fault without the
// disk, and where the kernel may take them if memory is short.
func letGo() error {
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	var from, to uintptr
	readOnly := false
	for line := range bytes.Lines(text) {
		if f := strings.Fields(string(line)); len(f) >= 5 && len(f[1]) == 4 {
			_, err := fmt.Sscanf(f[0], "%x-%x", &from, &to)
			readOnly = err == nil && len(f) == 6 && strings.HasPrefix(f[5], "/") && f[1][1] == '-'
			continue
		}
		// Pages that are no longer the file's, relocated ones of a program that is built as PIE for one, would be lost.
		if readOnly && bytes.HasPrefix(line, []byte("Anonymous:")) && strings.Fields(string(line))[1] == "0" {
			if err := dontNeed(from, to); err != nil {
				return err
			}
		}
	}
	return nil
}

func dontNeed(from, to uintptr) error {
	if _, _, no := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); no != 0 {
		return os.NewSyscallError("madvise", no)
	}
	return nil
}
