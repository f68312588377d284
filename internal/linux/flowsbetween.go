package linux

import (
	"context"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"drawbridge/internal/diagnose"
)

// manyFlows is after how many flows between two ends no more are asked for.
const manyFlows = 64

// flowsBetween are the tracked connections that one end began to another, as it
// sent to it before any NAT. from may be unknown (invalid): whoever began them.
func flowsBetween(ctx context.Context, proto uint8, from, to netip.Addr) ([]diagnose.Connection, error) {
	var found []diagnose.Connection
	err := listEntries(ctx, FlowQuery{Proto: proto, Dst: to}, func(f entry) bool {
		if from.IsValid() && f.Src.Addr() != from {
			return true
		}
		found = append(found, connectionOf(f))
		return len(found) < manyFlows
	})
	return found, err
}

func connectionOf(f entry) diagnose.Connection {
	c := diagnose.Connection{
		State: diagnose.New, Status: f.status, Mark: f.mark,
		Original: diagnose.Tuple{Source: f.Src.Addr(), Target: f.Dst.Addr(), SourcePort: f.Src.Port(), TargetPort: f.Dst.Port()},
		Answer:   diagnose.Tuple{Source: f.ReplySrc.Addr(), Target: f.ReplyDst.Addr(), SourcePort: f.ReplySrc.Port(), TargetPort: f.ReplyDst.Port()},
	}
	if f.status&diagnose.StatusSeenReply != 0 {
		c.State = diagnose.Established
	}
	if f.Proto == unix.IPPROTO_ICMP || f.Proto == unix.IPPROTO_ICMPV6 {
		// What stands in the place of ports is none.
		c.Original.SourcePort, c.Original.TargetPort, c.Answer.SourcePort, c.Answer.TargetPort = 0, 0, 0, 0
	}
	return c
}

// trackedNow is how many connections are tracked, and may be; 0 of 0 if nothing
// is.
func trackedNow() (count, limit int) {
	read := func(name string) int {
		b, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return n
	}
	return read("nf_conntrack_count"), read("nf_conntrack_max")
}
