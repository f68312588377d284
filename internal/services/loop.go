package services

import (
	"context"
	"slices"
)

// running is a loop that serves one role on a bridge.
type running struct {
	cancel context.CancelFunc
	// ended is closed when the loop has returned and closed its socket.
	ended <-chan struct{}
}

// run starts a loop; what serve returns after its context has ended is not told.
func run(ctx context.Context, serve func(context.Context) error, failed func(error)) running {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := serve(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
	}()
	return running{cancel, ended}
}

// endTogether is how many loops end at one time: closing a packet socket waits
// for a grace period of the kernel (packet_release, net/packet/af_packet.c; 10 ms
// measured), which sockets closed at the same time share, but blocks a thread
// each.
const endTogether = 32

// end ends loops and returns when their sockets are closed, so that new ones
// can be bound to the same addresses.
func end(loops []running) {
	for some := range slices.Chunk(loops, endTogether) {
		for _, l := range some {
			l.cancel()
		}
		for _, l := range some {
			<-l.ended
		}
	}
}
