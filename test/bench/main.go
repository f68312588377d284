// Command bench measures drawbridge side by side with Debian's libvirtd and its dnsmasq, in one run,
// and writes docs/bench.md.
//
// It owns what is measured, how, and against which target. Everything happens in namespaces of its
// own; it knows the program by its command line and its API, and nothing of its packages but api.
//
// Start reading at groups below; hosts.go has ours and the peer, row.go the targets, document.go the
// table, sandbox.go how nothing is left behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"drawbridge/internal/nettest/dnsload"
)

// Group is what is measured together, on the same hosts.
type Group struct {
	Name   string // for --only
	Title  string
	Method string
	Run    func(context.Context, *Bench) error
}

// groups is everything that is measured, in this order.
func groups() []Group {
	return []Group{networkGroup(), manyGroup(), restartGroup(), flushGroup(), dhcpGroup(), dnsGroup(), portGroup(), forwardsGroup(), topologyGroup(), eventsGroup(), pageGroup(), bridgedGroup(), understandGroup()}
}

// choose picks the groups that are named, by comma, or all.
func choose(all []Group, only string) ([]Group, error) {
	if only == "" {
		return all, nil
	}
	var chosen []Group
	for name := range strings.SplitSeq(only, ",") {
		n := len(chosen)
		for _, g := range all {
			if g.Name == name {
				chosen = append(chosen, g)
			}
		}
		if len(chosen) == n {
			var names []string
			for _, g := range all {
				names = append(names, g.Name)
			}
			return nil, fmt.Errorf("--only: there is no %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	return chosen, nil
}

// Bench is a run.
type Bench struct {
	binary  string // a copy, so that a build meanwhile changes nothing
	scratch string // a directory of the run's own, on a disk
	quick   bool
	start   time.Time
	group   string
	rows    []Row
}

// runs is how often something is done: n times, or quick times in a smoke run.
func (b *Bench) runs(n, quick int) int {
	if b.quick {
		return quick
	}
	return n
}

// say prints progress.
func (b *Bench) say(format string, args ...any) {
	fmt.Printf("%4.0f s  %-8s %s\n", time.Since(b.start).Seconds(), b.group, fmt.Sprintf(format, args...))
}

// add takes a finished row and prints it.
func (b *Bench) add(r Row) {
	r.Group = b.group
	b.rows = append(b.rows, r)
	b.say("= %s", r.Line())
	for _, n := range r.Notes {
		b.say("    %s", n)
	}
}

func main() {
	dnsload.Child()
	switch os.Getenv(roleEnv) {
	case "init":
		os.Exit(beInit())
	case "bench":
		os.Exit(complain(inside()))
	}
	os.Exit(outside())
}

type options struct {
	binary, scratch, only, out string
	quick                      bool
}

func parse() options {
	var o options
	flag.StringVar(&o.binary, "drawbridge", "./drawbridge", "the program to measure")
	flag.StringVar(&o.scratch, "scratch", "/var/tmp", "where a directory for state is made; a disk, since both sides keep state")
	flag.StringVar(&o.only, "only", "", "measure these alone (network, many, restart, flush, dhcp, dns, port, forwards, topology, events, page, bridged, understand), by comma, and write no document unless -out names one")
	flag.BoolVar(&o.quick, "quick", false, "few and small runs, to see that it works; writes no document")
	flag.StringVar(&o.out, "out", "", "where the document goes (default docs/bench.md, where everything was measured in full); what it says of what is not measured stays")
	flag.Parse()
	return o
}

// outside prepares the machine's side: a copy of the program, a directory, the sandbox.
func outside() int {
	o := parse()
	if _, err := choose(groups(), o.only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	if os.Geteuid() != 0 {
		return complain(errors.New("measuring takes namespaces and needs root: sudo make bench"))
	}
	scratch, err := os.MkdirTemp(o.scratch, "drawbridge-bench-")
	if err != nil {
		return complain(err)
	}
	defer os.RemoveAll(scratch)
	// The guest services are another user and reach their state through it.
	if err := os.Chmod(scratch, 0o755); err != nil {
		return complain(err)
	}
	program, err := os.ReadFile(o.binary)
	if err != nil {
		return complain(fmt.Errorf("find the program to measure (make build): %w", err))
	}
	if err := os.WriteFile(filepath.Join(scratch, "drawbridge"), program, 0o755); err != nil {
		return complain(err)
	}
	if err := managersRoot(o.only); err != nil {
		return complain(err)
	}
	before, err := takeTraces()
	if err != nil {
		return complain(err)
	}
	code, err := sandbox(scratch)
	if err != nil {
		return complain(err)
	}
	if err := before.compare(); err != nil {
		return complain(fmt.Errorf("left behind: %w", err))
	}
	return code
}

// managersRoot has the root of a host with ifupdown made, which takes the machine's own network, if
// it is measured against.
func managersRoot(only string) error {
	chosen, err := choose(groups(), only)
	if err != nil || !slices.ContainsFunc(chosen, func(g Group) bool { return g.Name == bridgedGroup().Name }) {
		return err
	}
	script := exec.Command("scripts/managers-root", "ifupdown")
	script.Stderr = os.Stderr
	root, err := script.Output()
	if err != nil {
		return fmt.Errorf("make a root with ifupdown: %w", err)
	}
	return os.Setenv(rootEnv, strings.TrimSpace(string(root)))
}

// inside measures.
func inside() error {
	o := parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	chosen, err := choose(groups(), o.only)
	if err != nil {
		return err
	}
	scratch := os.Getenv(scratchEnv)
	b := &Bench{binary: filepath.Join(scratch, "drawbridge"), scratch: scratch, quick: o.quick, start: time.Now()}
	if err := manyFiles(); err != nil {
		return err
	}
	facts, err := facts(ctx, b)
	if err != nil {
		return err
	}
	for _, f := range facts {
		b.say("%s: %s", f.What, f.Value)
	}
	var errs []error
	for _, g := range chosen {
		b.group = g.Name
		b.say("%s", g.Title)
		if err := g.Run(ctx, b); err != nil {
			err = fmt.Errorf("%s: %w", g.Name, err)
			b.add(Row{Work: g.Title, Failed: err.Error()})
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	b.group = "end"
	short := 0
	for _, r := range b.rows {
		if r.Short() {
			short++
		}
	}
	b.say("%d rows, %d short of their target", len(b.rows), short)
	report := Report{Facts: facts, All: groups(), Groups: chosen, Rows: b.rows, Elapsed: time.Since(b.start)}
	if o.out == "" && o.only == "" && !o.quick {
		o.out = "docs/bench.md"
	}
	if o.out != "" {
		errs = append(errs, write(o.out, report))
		b.say("written to %s", o.out)
	}
	return errors.Join(errs...)
}

func write(path string, r Report) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(r.Write(f, string(old)), f.Close())
}

// manyFiles checks that this process can hold the descriptors of a thousand ports; Go's runtime has
// raised the soft limit to the hard one.
func manyFiles() error {
	const needed = 2048
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("ask how many files may be open: %w", err)
	}
	if limit.Cur < needed {
		return fmt.Errorf("only %d files may be open, a thousand ports take more: ulimit -n %d", limit.Cur, needed)
	}
	return nil
}

func complain(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	return 1
}
