package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A process has come to rest when it allocated less than restBytes in a
// restTime, and it is worth the few milliseconds to give memory back once
// workBytes were allocated since it was done last.
const (
	restTime  = time.Second
	restBytes = 1 << 20
	workBytes = 4 << 20
)

// giveBack returns memory to the system when the process comes to rest, until
// ctx ends. Both of our processes work for moments and rest for hours; by
// itself the runtime would keep the heap of its busiest moment for minutes.
func giveBack(ctx context.Context) {
	ticker := time.NewTicker(restTime)
	defer ticker.Stop()
	var last, freed uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := allocated()
		if now-last < restBytes && now-freed > workBytes {
			debug.FreeOSMemory()
			freed = now
		}
		last = now
	}
}

// allocated is how many bytes of heap were ever allocated.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
