package linux

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// moves is host A of a LAN, as the engine would see it.
type moves struct {
	lan *nettest.LAN
	h   *Host
}

func onLAN(t *testing.T) moves {
	t.Helper()
	nettest.Need(t, nettest.Namespace, nettest.Root, "ip", "ping")
	lan, err := nettest.NewLAN(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lan.Close(); err != nil {
			t.Error(err)
		}
	})
	m := moves{lan: lan}
	// Link-local addresses are probed for a second.
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		out, err := lan.HostA.Run(t.Context(), "ip", "-6", "addr", "show", "tentative")
		if err != nil {
			t.Fatal(err)
		}
		if out == "" {
			tick.Stop()
			break
		}
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatal("addresses are still tentative: ", out)
		}
	}
	m.do(t, func() (err error) {
		m.h, err = New(slog.New(slog.DiscardHandler))
		return err
	})
	t.Cleanup(func() { m.h.Close() })
	return m
}

func (m moves) do(t *testing.T, f func() error) {
	t.Helper()
	if err := m.lan.HostA.Do(f); err != nil {
		t.Fatal(err)
	}
}

func lanDocument() spec.Document {
	return spec.Document{}.Clone().With(spec.Network{Name: "lan", Mode: "bridged", Uplinks: []string{nettest.HostANIC}, Started: true})
}

// think plans the way from one document to another, as the engine does.
func (m moves) think(ctx context.Context, had, want spec.Document) (txn.Txn, spec.Document, error) {
	seen, err := m.h.Observe(ctx)
	if err != nil {
		return txn.Txn{}, want, err
	}
	f := render.Facts{Seen: seen, Seed: "seed", KernelIPv6: true}
	want, err = render.Settle(had, want, f)
	if err != nil {
		return txn.Txn{}, want, err
	}
	if err := render.Validate(want); err != nil {
		return txn.Txn{}, want, err
	}
	f.Moving, f.Leaving = render.Turn(had, want)
	more, err := m.h.Observe(ctx, append(render.Asks(want, f.Moving, seen), host.SysctlKey("net/ipv4/ip_forward"))...)
	if err != nil {
		return txn.Txn{}, want, err
	}
	maps.Copy(seen, more)
	wish, _, err := render.Wish(want, f)
	if err != nil {
		return txn.Txn{}, want, err
	}
	// The rules are another test's.
	maps.DeleteFunc(wish.Present, func(k host.Key, _ host.Resource) bool { return familyOf(k.Kind) == host.KindTable })
	p, err := plan.Make(wish, host.Ledger{}, seen)
	if err != nil {
		return txn.Txn{}, want, err
	}
	if p.Risk != plan.RiskHost {
		return txn.Txn{}, want, fmt.Errorf("risk is %q", p.Risk)
	}
	scope, snapshot, goal := plan.Frame(p.Steps, seen)
	return txn.Txn{ID: "1", Title: "move", Steps: p.Steps, Scope: scope, Snapshot: snapshot, Goal: goal}, want, nil
}

// hardships is what a host can have that a careless move would lose. %s is the NIC.
var hardships = []string{
	"addr add 192.168.99.67/24 brd + dev %s",                                      // secondary
	"addr add 192.168.99.68/24 dev %s label %s:x",                                 // secondary with a label, no broadcast
	"addr add 10.77.0.1/16 brd + dev %s metric 77",                                // another subnet, its route's metric
	"addr add 10.78.0.1 peer 10.78.0.2/32 dev %s",                                 // point to point
	"addr add 192.168.50.5/24 dev %s noprefixroute valid_lft 900 preferred_lft 0", // deprecated
	"addr add 192.168.99.70/24 brd + dev %s valid_lft 800 preferred_lft 600",      // from DHCP
	"addr add fd00:99::70/64 dev %s nodad valid_lft 700 preferred_lft 300",
	"addr add fd00:99::71/64 dev %s nodad home",
	"addr add fd00:55::5/64 dev %s nodad noprefixroute preferred_lft 0",
	"addr add fe80::66/64 dev %s nodad",
	"route add 203.0.113.128/25 via 192.168.99.1 dev %s src 192.168.99.67 mtu 1400 advmss 1300 metric 30",
	"route add 198.51.100.0/24 via 192.168.99.1 dev %s mtu lock 1300 window 4000 proto static",
	"route add default via 192.168.99.1 dev %s table 100 metric 5",
	"route add 192.168.99.0/24 dev %s table 100 scope link src 192.168.99.66",
	"route add 172.20.0.0/16 via 172.19.0.1 dev %s onlink",
	"route add 172.21.0.0/16 nexthop via 192.168.99.1 dev %s weight 2 nexthop via 192.168.99.10 dev %s weight 1",
	"route add 172.22.0.0/16 dev %s scope global tos 0x10",
	"route add 172.23.0.0/16 dev %s proto 99",
	"route add 2001:db8:6::/48 via fd00:99::1 dev %s src fd00:99::70 metric 300 pref high",
	"route add 2001:db8:7::/48 via fe80::1 dev %s expires 500",
	"route add 2001:db8:8::/48 nexthop via fd00:99::1 dev %s nexthop via fd00:99::10 dev %s weight 3",
	"route add default via fd00:99::1 dev %s table 100",
	"rule add iif %s lookup 100 pref 1000",
	"rule add from 192.168.99.67 oif %s fwmark 0x7/0xff lookup 100 pref 1001",
	"-6 rule add not from fd00:99::/64 iif %s ipproto tcp dport 80-90 lookup 101 pref 1002",
	"neigh add 192.168.99.99 lladdr 02:00:00:00:00:99 dev %s nud permanent",
}

func (m moves) harden(t *testing.T) {
	t.Helper()
	for _, line := range hardships {
		line = strings.ReplaceAll(line, "%s", nettest.HostANIC)
		if _, err := m.lan.HostA.Run(t.Context(), "ip", strings.Fields(line)...); err != nil {
			t.Fatal(err)
		}
	}
	m.do(t, func() error {
		for path, value := range map[string]string{
			"ipv4/conf/" + nettest.HostANIC + "/arp_ignore": "1", "ipv6/conf/" + nettest.HostANIC + "/accept_ra": "2",
			"ipv6/conf/" + nettest.HostANIC + "/hop_limit": "61",
		} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// timers are attributes that run by themselves, and indexes of what was made again.
var timers = regexp.MustCompile(`"(ifindex|link_index|expires|hello_timer|tcn_timer|topology_change_timer|gc_timer|preferred_life_time|valid_life_time|hold_timer|message_age_timer|forward_delay_timer|group_fwd_mask_timer)":`)

// life is when a lifetime ends, of CLOCK_MONOTONIC: between two moments, as ip
// tells whole seconds and takes a while to run.
type life struct{ from, to time.Duration }

// account is the whole host as ip shows it, one thing a line; lives are by what
// they are of.
func (m moves) account(t *testing.T) (text string, lives map[string]life) {
	t.Helper()
	lives = map[string]life{}
	var lines []string
	for _, args := range [][]string{
		{"addr"}, {"link"}, {"-4", "route", "show", "table", "all"}, {"-6", "route", "show", "table", "all"}, {"-4", "rule"}, {"-6", "rule"},
		{"neigh", "show", "nud", "permanent"},
	} {
		asked := monotonic()
		out, err := m.lan.HostA.Run(t.Context(), "ip", append([]string{"-d", "-j"}, args...)...)
		told := monotonic()
		if err != nil {
			t.Fatal(err)
		}
		var all []map[string]any
		if err := json.Unmarshal([]byte(out), &all); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		for i, one := range all {
			strip(one, fmt.Sprintf("%v %d", args, i), life{asked, told}, lives)
			b, err := json.Marshal(one)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, strings.Join(args, " ")+" "+string(b))
		}
	}
	// The kernel lists routes of one table in the order of their making.
	slices.Sort(lines)
	return strings.Join(lines, "\n"), lives
}

// strip takes out what runs by itself, and notes lifetimes.
func strip(v any, at string, now life, lives map[string]life) {
	switch v := v.(type) {
	case map[string]any:
		for k, in := range v {
			name := fmt.Sprintf("%s %v%v%v %s", at, v["dst"], v["local"], v["dev"], k)
			if n, ok := in.(float64); ok && (k == "expires" || strings.HasSuffix(k, "_life_time")) && n < forever {
				left := time.Duration(n) * time.Second
				switch {
				case n <= 0: // it is over, whenever that was
				case k == "expires": // rounded down
					lives[name] = life{now.from + left, now.to + left + time.Second}
				default: // rounded up
					lives[name] = life{now.from + left - time.Second, now.to + left}
				}
			} else if ok && n == forever {
				lives[name] = life{math.MaxInt64, math.MaxInt64}
			}
			if timers.MatchString(strconv.Quote(k) + ":") {
				delete(v, k)
				continue
			}
			strip(in, at+"/"+k, now, lives)
		}
	case []any:
		for i, in := range v {
			strip(in, at+"/"+strconv.Itoa(i), now, lives)
		}
	}
}

// precision is what a lifetime may be off after it was read and written again:
// the kernel tells and takes whole seconds, and we round both ways.
const precision = time.Second

// same compares two accounts; late is how long the kernel was at most busy with
// one change, since a lifetime counts from when it gets to it.
func same(t *testing.T, when, before, after string, livesBefore, livesAfter map[string]life, late time.Duration) bool {
	t.Helper()
	ok := before == after
	if !ok {
		t.Errorf("%s: the host is not as it was:\n%s", when, difference(before, after))
	}
	for k, was := range livesBefore {
		is, there := livesAfter[k]
		over := was.from < monotonic()
		off := max(was.from-is.to, is.from-was.to)
		if !over && (!there || off > precision+late) {
			t.Errorf("%s: %s ends in %s…%s, was to end in %s…%s", when, k, is.from, is.to, was.from, was.to)
			ok = false
		}
	}
	return ok
}

func difference(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	var out []string
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

var errCrash = errors.New("the program ended")

// crashAfter makes everything fail after n more changes of the kernel; late is
// the longest time between two.
func (m moves) crashAfter(n int, late *time.Duration) {
	last := monotonic()
	m.h.rtnl.before = func() error {
		*late = max(*late, monotonic()-last)
		last = monotonic()
		if n == 0 {
			return errCrash
		}
		n--
		return nil
	}
}

// undo takes a change back as package txn does: observe, plan, apply.
func (m moves) undo(ctx context.Context, x txn.Txn) error {
	for range 3 {
		seen, err := m.h.Observe(ctx, x.Scope...)
		if err != nil {
			return err
		}
		left := plan.Diff(x.Snapshot, seen)
		if len(left) == 0 {
			return nil
		}
		if err := m.h.Apply(ctx, left); err != nil {
			return err
		}
	}
	return errors.New("three rounds were not enough")
}

// TestMoveCrashAfterEveryEffect moves a NIC that has everything into a bridge,
// ends after each single change of the kernel, and takes it back.
func TestMoveCrashAfterEveryEffect(t *testing.T) {
	m := onLAN(t)
	m.harden(t)
	ctx := t.Context()
	for n := 0; ; n++ {
		before, lives := m.account(t)
		var crashed bool
		var late time.Duration
		m.do(t, func() error {
			x, _, err := m.think(ctx, spec.Document{}, lanDocument())
			if err != nil {
				return err
			}
			m.crashAfter(n, &late)
			err = m.h.Apply(ctx, x.Steps)
			crashed = errors.Is(err, errCrash)
			if err != nil && !crashed {
				return fmt.Errorf("after %d effects: %w", n, err)
			}
			if !crashed {
				seen, err := m.h.Observe(ctx, x.Scope...)
				if err != nil {
					return err
				}
				for _, s := range plan.Diff(x.Goal, seen) {
					t.Errorf("left: %s %s: %+v\n       %+v", s.Verb(), s.Key(), s.Before, s.After)
				}
			}
			m.crashAfter(-1, &late) // never
			if err := m.undo(ctx, x); err != nil {
				return fmt.Errorf("after %d effects: take back: %w", n, err)
			}
			return nil
		})
		after, livesNow := m.account(t)
		if !same(t, fmt.Sprintf("after %d effects", n), before, after, lives, livesNow, late) {
			return
		}
		if !crashed {
			t.Logf("%d effects", n)
			return
		}
	}
}

// TestMoveAndBack moves a NIC in and out for good; out is planned from what
// is seen, not from memory. The host is as it was.
func TestMoveAndBack(t *testing.T) {
	m := onLAN(t)
	m.harden(t)
	ctx := t.Context()
	before, lives := m.account(t)
	var late time.Duration
	m.do(t, func() error {
		in, doc, err := m.think(ctx, spec.Document{}, lanDocument())
		if err != nil {
			return err
		}
		m.crashAfter(-1, &late) // never
		if err := m.h.Apply(ctx, in.Steps); err != nil {
			return err
		}
		for _, file := range []string{"ipv4/conf/br0/arp_ignore=1", "ipv6/conf/br0/accept_ra=2", "ipv6/conf/br0/hop_limit=61"} {
			path, want, _ := strings.Cut(file, "=")
			if b, err := os.ReadFile("/proc/sys/net/" + path); err != nil || strings.TrimSpace(string(b)) != want {
				t.Errorf("%s is %q, %v", path, b, err)
			}
		}
		out, _, err := m.think(ctx, doc, spec.Document{}.Clone())
		if err != nil {
			return err
		}
		return m.h.Apply(ctx, out.Steps)
	})
	after, livesNow := m.account(t)
	// Read and written twice.
	same(t, "in and out", before, after, lives, livesNow, precision+2*late)
}
