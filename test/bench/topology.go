package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drawbridge/internal/api"
)

func topologyGroup() Group {
	return Group{"topology", "The picture of a thousand ports", `
A thousand ports are open on one network. The picture is asked for again and again: by the API on the unix socket, where the time is the client's and
contains reading the kernel, building the graph, laying it out, drawing, and the way there and back; and by the command, from its start to its end.
"As a graph" is all nodes and edges with their places, as the web page takes them (JSON); the command's picture is text with 30 guests of the thousand, the rest folded, as it
is by default, and with all of them. There is no peer: libvirt draws nothing.`, runTopology}
}

func runTopology(ctx context.Context, b *Bench) (err error) {
	n := b.runs(1000, 50)
	h, err := newOurs(ctx, b, "ours-topology")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if _, err := h.run(ctx, "network", "create", "lab", "--subnet", "10.9.0.0/16"); err != nil {
		return err
	}
	files, err := plug(ctx, h, n, new(Series), new(Series), new(Series))
	defer closeAll(files)
	if err != nil {
		return err
	}
	var graph, text, command, all Series
	for range b.runs(50, 3) {
		began := time.Now()
		t, err := h.client.Topology(ctx, api.View{})
		graph.Took(time.Since(began))
		if err != nil {
			return err
		}
		if len(t.Nodes) < 2*n {
			return fmt.Errorf("the graph has %d nodes of %d ports", len(t.Nodes), n)
		}
		began = time.Now()
		if t, err = h.client.Topology(ctx, api.View{Draw: "text", Width: 120}); err != nil {
			return err
		}
		text.Took(time.Since(began))
		if len(t.Lines) < 30 {
			return fmt.Errorf("the picture has %d lines", len(t.Lines))
		}
		if err := errors.Join(timed(ctx, h, []string{"topology"}, &command), timed(ctx, h, []string{"topology", "--all"}, &all)); err != nil {
			return err
		}
	}
	b.add(Row{Work: fmt.Sprintf("picture of %d ports in the daemon, as text", n), Ours: text, Target: below(20, Millis)})
	b.add(Row{Work: fmt.Sprintf("picture of %d ports in the daemon, as a graph", n), Ours: graph})
	b.add(Row{Work: fmt.Sprintf("drawbridge topology with %d ports", n), Ours: command, Target: below(60, Millis)})
	b.add(Row{Work: fmt.Sprintf("drawbridge topology --all with %d ports", n), Ours: all})
	return nil
}
