package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"drawbridge/internal/nettest/dhcpload"
)

func dhcpGroup() Group {
	return Group{"dhcp", "DHCP", `
Clients are on a guest of namespaces on the bridge, on the same cores as the server; the range has 50 000 addresses on both sides. The saturating client keeps a
number of guests in flight, each from DISCOVER to ACK, with the broadcast flag, so that no neighbour table bounds a server that answers by unicast through the kernel; a message without answer is sent again after a second. Each side is given 1, 8 and 64 in flight in every round,
and its figure is that of the number with its best median. "New" are guests that never had a lease, "known" a thousand that have one. A
server that is given more than it can do keeps everybody waiting, so times are also taken at equal loads: exchanges begin at even distances, on both sides four fifths
of what the peer answers at its best (at all of it guests would queue up without end), and for ours also ten times what the peer answers at its best. Ours writes every lease to the disk before its ACK
leaves; dnsmasq writes its file without waiting for the disk. dnsmasq runs with libvirt's settings, but without its ping before an offer and without libvirt's
lease script, both of which make it slower. perfdhcp (Kea) is given rising rates of new clients for two seconds each, as a relay; the figure is the highest rate of whole exchanges at which
it lost at most 1 % of its messages.`, runDHCP}
}

const dhcpRange = "10.64.20.0,10.64.219.255"

// dnsmasq is the peer as libvirt starts it, on a bridge that is there.
func (h *Host) dnsmasq(ctx context.Context) *exec.Cmd {
	hosts := filepath.Join(h.dir, "hosts")
	var text strings.Builder
	for i := range dnsNames {
		fmt.Fprintf(&text, "%s vm%d.lab.internal\n", reserved(i), i)
	}
	err := os.WriteFile(hosts, []byte(text.String()), 0o644)
	cmd := h.node.Command(ctx, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--user=root", "--pid-file=",
		"--strict-order", "--except-interface=lo", "--bind-dynamic", "--interface=virbr0",
		"--local=/lab.internal/", "--domain=lab.internal", "--addn-hosts="+hosts, "--cache-size=10000",
		"--dhcp-range="+dhcpRange+",255.255.0.0", "--dhcp-no-override", "--dhcp-authoritative", "--no-ping", "--dhcp-lease-max=60000",
		"--quiet-dhcp", "--dhcp-leasefile="+filepath.Join(h.dir, "leases"))
	cmd.Err = errors.Join(cmd.Err, err)
	return cmd
}

func runDHCP(ctx context.Context, b *Bench) (err error) {
	var perf, burst [2]Series
	fresh, known := [2]loads{{}, {}}, [2]loads{{}, {}}
	rounds := b.runs(3, 1)
	for round := range rounds {
		// New hosts each time: a server that has given away a lot is slower, and nobody is new twice.
		sides, err := newServers(ctx, b, fmt.Sprintf("dhcp%d", round))
		if err != nil {
			return err
		}
		for i, s := range []*server{sides.ours, sides.peer} {
			if err == nil {
				err = b.saturate(ctx, s, fresh[i], known[i], &burst[i])
			}
			if err == nil {
				var r float64
				r, err = b.perfdhcp(ctx, s)
				perf[i].Counted(Rate, r)
			}
		}
		if err := errors.Join(err, sides.Close()); err != nil {
			return err
		}
	}
	for _, kind := range []struct {
		name string
		of   [2]loads
	}{{"new clients", fresh}, {"known clients", known}} {
		ours, peer := kind.of[0].best(), kind.of[1].best()
		b.add(Row{Work: "DHCP, " + kind.name + ", leases", Ours: ours.rate, Peer: peer.rate, Target: more(10),
			Notes: []string{fmt.Sprintf("at their best with %d and %d in flight; sent again: ours %.0f, the peer %.0f", ours.inFlight, peer.inFlight, sum(ours.retries.Values), sum(peer.retries.Values))}})
		b.add(Row{Work: "DHCP, " + kind.name + ", p50 of an exchange", Ours: ours.p50, Peer: peer.p50})
		b.add(Row{Work: "DHCP, " + kind.name + ", p99 of an exchange", Ours: ours.p99, Peer: peer.p99, Target: noWorse(),
			Notes: []string{fmt.Sprintf("each side at its own best rate, ours %.0f times the peer's; with 8 in flight on both sides: ours %s, the peer %s",
				ours.rate.Median()/peer.rate.Median(), kind.of[0].at(8).p99, kind.of[1].at(8).p99)}})
	}
	if err := b.equalLoads(ctx, fresh[1].best().rate.Median(), known[1].best().rate.Median()); err != nil {
		return err
	}
	b.add(Row{Work: "DHCP, new clients served in 3 s, without the broadcast flag", Ours: burst[0], Peer: burst[1],
		Notes: []string{"8 in flight; Linux keeps 1024 neighbours by default, and dnsmasq needs one for each answer"}})
	b.add(Row{Work: "DHCP, perfdhcp's highest rate", Ours: perf[0], Peer: perf[1], Target: more(10)})
	return nil
}

// load is what a number of guests in flight gave.
type load struct {
	inFlight                int
	rate, p50, p99, retries Series
}

type loads map[int]*load

func (l loads) at(inFlight int) *load {
	if l[inFlight] == nil {
		l[inFlight] = &load{inFlight: inFlight}
	}
	return l[inFlight]
}

func (l loads) best() *load {
	best := &load{}
	for _, one := range l {
		if len(best.rate.Values) == 0 || one.rate.Median() > best.rate.Median() {
			best = one
		}
	}
	return best
}

// saturate lets new guests come, then lets a thousand of them come again.
func (b *Bench) saturate(ctx context.Context, s *server, fresh, known loads, burst *Series) error {
	var c *dhcpload.Client
	if err := s.guest.Do(func() (err error) {
		c, err = dhcpload.Open("eth0")
		return err
	}); err != nil {
		return err
	}
	defer c.Close()
	// A warm-up: the first new guests are probed for, one address after the other, on both sides.
	if _, err := c.Run(ctx, dhcpload.Load{Broadcast: true, Clients: 100, InFlight: 8, Exchanges: 100, Duration: 5 * time.Second}); err != nil {
		return err
	}
	next := 100
	for _, inFlight := range []int{1, 8, 64} {
		r, err := c.Run(ctx, dhcpload.Load{First: next, Clients: 40000 - next, InFlight: inFlight, Broadcast: true, Exchanges: 12000, Duration: 1500 * time.Millisecond})
		if err != nil {
			return err
		}
		next += r.Exchanges + inFlight
		if r.Exchanges == 0 || r.Twice > 0 {
			return fmt.Errorf("%s: %s", s.node.Name, r)
		}
		b.say("%s: new, %d in flight: %s", s.node.Name, inFlight, r)
		fresh.at(inFlight).take(r)
	}
	for _, inFlight := range []int{1, 8, 64} {
		r, err := c.Run(ctx, dhcpload.Load{Clients: min(1000, next-64), InFlight: inFlight, Broadcast: true, Duration: 1500 * time.Millisecond})
		if err != nil {
			return err
		}
		if r.Exchanges == 0 {
			return fmt.Errorf("%s: %s", s.node.Name, r)
		}
		b.say("%s: known, %d in flight: %s", s.node.Name, inFlight, r)
		known.at(inFlight).take(r)
	}
	r, err := c.Run(ctx, dhcpload.Load{First: next, Clients: 10000, InFlight: 8, Duration: 3 * time.Second})
	if err != nil {
		return err
	}
	b.say("%s: new, 8 in flight, answers by unicast: %s", s.node.Name, r)
	burst.Counted(Clients, float64(r.Exchanges))
	return nil
}

func (l *load) take(r dhcpload.Result) {
	l.rate.Counted(Rate, r.PerSecond)
	l.p50.Took(r.P50)
	l.p99.Took(r.P99)
	l.retries.Counted("messages", float64(r.Retries))
}

type perfReport struct{ sent, lost, leases int }

// perfdhcp finds the highest rate at which at most 1 % is lost.
func (b *Bench) perfdhcp(ctx context.Context, s *server) (float64, error) {
	best := 0.0
	seconds := b.runs(2, 1)
	for i, rate := range []int{250, 500, 1000, 2000, 3000, 4000, 5000, 6000, 8000} {
		base := fmt.Sprintf("mac=00:0c:%02x:00:00:00", i+1) // nobody asks twice
		out, err := s.guest.Command(ctx, "perfdhcp", "-4", "-l", "eth0", "-r", strconv.Itoa(rate), "-R", strconv.Itoa(rate*seconds*2), "-b", base,
			"-p", strconv.Itoa(seconds), "-W", "500000", s.addr.String()).CombinedOutput()
		var exit *exec.ExitError // it ends with 3 when messages are missing
		if err != nil && !errors.As(err, &exit) {
			return 0, fmt.Errorf("run perfdhcp: %w", err)
		}
		r, err := parsePerfdhcp(string(out))
		if err != nil {
			return 0, err
		}
		reached := float64(r.leases) / float64(seconds)
		b.say("%s: perfdhcp at %d/s: %.0f leases/s, %d of %d messages lost", s.node.Name, rate, reached, r.lost, r.sent)
		if r.sent == 0 || r.lost*100 > r.sent {
			break
		}
		best = max(best, reached)
	}
	return best, nil
}

var perfCount = regexp.MustCompile(`(?m)^(sent packets|received packets|drops): (\d+)`)

// parsePerfdhcp reads the counts of both halves of the exchange.
func parsePerfdhcp(text string) (perfReport, error) {
	var r perfReport
	counts := perfCount.FindAllStringSubmatch(text, -1)
	if len(counts) != 6 {
		return r, fmt.Errorf("read perfdhcp's report: it is not as known: %q", text)
	}
	for _, c := range counts {
		n, err := strconv.Atoi(c[2])
		if err != nil {
			return r, fmt.Errorf("read perfdhcp's report: %w", err)
		}
		switch c[1] {
		case "sent packets":
			r.sent += n
		case "drops":
			r.lost += n
		default:
			r.leases = n // of REQUEST-ACK, which comes last
		}
	}
	return r, nil
}
