package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"drawbridge/internal/nettest"
)

const pageGuests = 300

func pageGroup() Group {
	return Group{"page", "The web page", `
A Chromium without a GPU, on the same two cores as the daemon, shows the page of a host with 300 guests in a window of 1600 × 900. "First paint"
is from the beginning of the navigation, with a login and nothing cached but the files, until the last guest is on the screen: the daemon's answers, the page's
own work and the browser's are in it. Frames are counted while broadcasts go to all guests, so that every cable carries moving traffic and
counters are read every two seconds; 60 is the most that the browser makes.`, runPage}
}

// measured is what test/page/measure.mjs prints: milliseconds, and frames a second.
type measured struct {
	Paint, Frames, Longest, Panning []float64
}

func runPage(ctx context.Context, b *Bench) (err error) {
	// There is no way out of the sandbox: the Makefile has it fetched before.
	if _, err := os.Stat("test/page/node_modules"); err != nil {
		return fmt.Errorf("find Playwright (npm --prefix test/page ci): %w", err)
	}
	n := pageGuests
	h, err := newOurs(ctx, b, "ours-page")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if _, err := h.run(ctx, "network", "create", "lab", "--ipv6", "off"); err != nil {
		return err
	}
	g, err := crowd(ctx, h, n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	script, err := filepath.Abs("test/page/measure.mjs")
	if err != nil {
		return err
	}
	cmd := h.node.Command(ctx, "node", script)
	cmd.Env = append(os.Environ(), "DRAWBRIDGE="+b.binary, "DRAWBRIDGE_SOCKET="+h.socket, "SCRATCH="+h.dir, "HOME="+h.dir,
		"GUESTS="+strconv.Itoa(n), "RUNS="+strconv.Itoa(b.runs(9, 2)), "SECONDS="+strconv.Itoa(b.runs(5, 1)))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("measure the page: %w: %s", err, out)
	}
	var m measured
	if err := json.Unmarshal(out, &m); err != nil {
		return fmt.Errorf("measure the page: %w: %s", err, out)
	}
	// A frame is 1/60 s: 59.5 of them are all there are, counted from the outside.
	smooth := Target{"60", func(ours, _ Series) float64 { return ours.Median() / 59.5 }}
	b.add(Row{Work: fmt.Sprintf("first paint with %d guests", n), Ours: Series{Unit: Millis, Values: m.Paint}, Target: below(300, Millis)})
	b.add(Row{Work: "frames a second, counters live", Ours: Series{Unit: Rate, Values: m.Frames}, Target: smooth})
	b.add(Row{Work: "longest time between two frames", Ours: Series{Unit: Millis, Values: m.Longest}})
	b.add(Row{Work: "frames a second while the picture is dragged", Ours: Series{Unit: Rate, Values: m.Panning}})
	return nil
}

// crowd plugs n guests' NICs into virbr0, the other ends in one namespace, of
// which one broadcasts to all.
func crowd(ctx context.Context, h *Host, n int) (*nettest.Node, error) {
	g, err := nettest.NewNode(ctx, "crowd", "")
	if err != nil {
		return nil, err
	}
	var lines, far []string
	for i := range n {
		lines = append(lines, fmt.Sprintf("link add vnet%d type veth peer name eth%d netns %d", i, i, g.PID()), fmt.Sprintf("link set vnet%d addrgenmode none master virbr0 up", i))
		far = append(far, fmt.Sprintf("link set eth%d addrgenmode none up", i))
	}
	far = append(far, "addr add 192.168.122.2/24 dev eth0")
	if err := errors.Join(h.node.IP(ctx, lines...), g.IP(ctx, far...)); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	ping := g.Command(ctx, "ping", "-q", "-b", "-i", "0.1", "-s", "1000", "192.168.122.255")
	ping.Stderr = new(strings.Builder)
	if err := ping.Start(); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	go func() { _ = ping.Wait() }() // ends with its namespace
	return g, nil
}
