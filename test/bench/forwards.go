package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"drawbridge/internal/api"
)

func forwardsGroup() Group {
	return Group{"forwards", "Thirty thousand forwards", `
Forwards of single TCP ports, all to one guest of namespaces. The peer is one linear rule for each port
(` + "`tcp dport N dnat to GUEST:80`" + ` in a chain at prerouting, loaded by ` + "`nft -f`" + `), as Docker, Incus, CNI and hook scripts of libvirt make
them; it is changed as a script does, by flushing the chain and filling it again. A machine on the LAN opens connections to ports
chosen at random and closes each at once; the time is that of connect(2) alone. Each figure of a connect is the median of four hundred, the
four hosts taking turns. Commands are whole processes, the daemon with everything that it holds and writes.`, runForwards}
}

const (
	someForwards = 10
	firstPort    = 1000
	sparePort    = 500   // no forward is there
	rangeFirst   = 40000 // nor in this range
	rangeLast    = 49999
	// alike is how much slower something may be that is to be as fast: half of
	// what figures vary by.
	alike = 1.25
)

// doorHosts are ours and the peer, each with few forwards and with many.
type doorHosts struct {
	few, many         *doorScene
	fewRules, manyAll *doorScene
	count             int
}

func (d *doorHosts) all() []*doorScene { return []*doorScene{d.few, d.many, d.fewRules, d.manyAll} }

func (d *doorHosts) Close() error {
	var errs []error
	for _, s := range d.all() {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

func runForwards(ctx context.Context, b *Bench) (err error) {
	d := &doorHosts{count: b.runs(30000, 300)}
	defer func() { err = errors.Join(err, d.Close()) }()
	if d.few, err = newDoorScene(ctx, b, "ours-few", someForwards); err == nil {
		d.many, err = newDoorScene(ctx, b, "ours-many", 0)
	}
	if err == nil {
		d.fewRules, err = newChainScene(ctx, b, "chain-few", someForwards)
	}
	if err == nil {
		d.manyAll, err = newChainScene(ctx, b, "chain-many", d.count)
	}
	if err != nil {
		return err
	}
	for _, part := range []func(context.Context, *Bench) error{d.load, d.connect, d.change, d.ranges, d.stream} {
		if err := part(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// load puts all forwards in, takes them out, and leaves them in.
func (d *doorHosts) load(ctx context.Context, b *Bench) error {
	var in, again, out, refill Series
	for range b.runs(5, 1) {
		err := errors.Join(d.many.apply(ctx, d.count, &in), d.many.apply(ctx, d.count, &again), d.many.apply(ctx, 0, &out),
			d.manyAll.refill(ctx, d.count, &refill))
		if err != nil {
			return err
		}
	}
	if err := d.many.apply(ctx, d.count, new(Series)); err != nil {
		return err
	}
	b.add(Row{Work: fmt.Sprintf("load %d from YAML, one transaction", d.count), Ours: in, Peer: refill, Target: below(2000, Millis),
		Notes: []string{"the peer: `nft -f` with one rule for each"}})
	b.add(Row{Work: "apply the same again", Ours: again})
	b.add(Row{Work: fmt.Sprintf("take all %d out by one apply", d.count), Ours: out})
	return nil
}

// connect measures what a new connection costs.
func (d *doorHosts) connect(ctx context.Context, b *Bench) error {
	each := b.runs(400, 50)
	var p50 [4]Series
	for range b.runs(31, 2) {
		for i, s := range d.all() {
			n := someForwards
			if i%2 == 1 {
				n = d.count
			}
			median, err := s.connects(each, func() int { return firstPort + rand.IntN(n) })
			if err != nil {
				return err
			}
			p50[i].Counted(Micros, median)
		}
	}
	few, many := p50[0], p50[1]
	b.add(Row{Work: fmt.Sprintf("TCP connect p50, %d forwards", someForwards), Ours: few, Peer: p50[2]})
	b.add(Row{Work: fmt.Sprintf("TCP connect p50, %d forwards", d.count), Ours: many, Peer: p50[3],
		Target: Target{fmt.Sprintf("within 10 %% of p50 with %d", someForwards), func(ours, _ Series) float64 { return 1.1 * few.Median() / ours.Median() }}})
	return nil
}

// change adds and removes one forward.
func (d *doorHosts) change(ctx context.Context, b *Bench) error {
	var add, remove [2]Series
	var refill Series
	spare := fmt.Sprint(sparePort)
	for round := range 1 + b.runs(31, 2) {
		if round == 1 { // the first warms caches
			add, remove = [2]Series{}, [2]Series{}
		}
		for i, s := range []*doorScene{d.few, d.many} {
			err := errors.Join(
				timed(ctx, s.host, []string{"forward", "add", spare, guestOfDoors + ":80"}, &add[i]),
				timed(ctx, s.host, []string{"forward", "rm", spare}, &remove[i]))
			if err != nil {
				return err
			}
		}
	}
	for range b.runs(3, 1) {
		if err := d.manyAll.refill(ctx, d.count+1, &refill); err != nil {
			return err
		}
	}
	for i, row := range []struct {
		verb string
		took [2]Series
	}{{"add", add}, {"remove", remove}} {
		few := row.took[0]
		b.add(Row{Work: fmt.Sprintf("%s one of %d, whole command", row.verb, someForwards), Ours: few})
		r := Row{Work: fmt.Sprintf("%s one of %d, whole command", row.verb, d.count), Ours: row.took[1], Peer: refill,
			Target: Target{"under 30 ms, and as beside 10 (± 25 %)", func(ours, _ Series) float64 {
				return min(30/ours.Median(), alike*few.Median()/ours.Median())
			}}}
		if i == 0 {
			r.Notes = []string{"the peer flushes the chain and fills it again, by one `nft -f`"}
		}
		b.add(r)
	}
	return nil
}

// ranges adds ten thousand ports at once.
func (d *doorHosts) ranges(ctx context.Context, b *Bench) error {
	var one, add, remove Series
	ports := fmt.Sprintf("%d-%d", rangeFirst, rangeLast)
	for range b.runs(15, 2) {
		err := errors.Join(
			timed(ctx, d.many.host, []string{"forward", "add", fmt.Sprint(sparePort), guestOfDoors + ":80"}, &one),
			timed(ctx, d.many.host, []string{"forward", "rm", fmt.Sprint(sparePort)}, new(Series)),
			timed(ctx, d.many.host, []string{"forward", "add", ports, guestOfDoors}, &add))
		if err != nil {
			return err
		}
		if n, err := d.many.elements(ctx, "ranges4"); err != nil || n != 1 {
			return fmt.Errorf("a range of ports is %d elements: %w", n, err)
		}
		if err := timed(ctx, d.many.host, []string{"forward", "rm", ports}, &remove); err != nil {
			return err
		}
	}
	b.add(Row{Work: "add a range of 10000 ports, whole command", Ours: add,
		Target: Target{"one element; as fast as one port (± 25 %)", func(ours, _ Series) float64 { return alike * one.Median() / ours.Median() }},
		Notes:  []string{"one port beside it: " + one.String() + "; the number of elements is nft's own"}})
	b.add(Row{Work: "remove it", Ours: remove})
	if _, err := d.many.host.run(ctx, "forward", "add", ports, guestOfDoors); err != nil {
		return err
	}
	var through, single Series
	for range b.runs(31, 2) {
		median, err := d.many.connects(b.runs(400, 50), func() int { return inRange })
		if err != nil {
			return err
		}
		through.Counted(Micros, median)
		if median, err = d.many.connects(b.runs(400, 50), func() int { return firstPort + rand.IntN(d.count) }); err != nil {
			return err
		}
		single.Counted(Micros, median)
	}
	b.add(Row{Work: "TCP connect p50 through the range", Ours: through,
		Target: Target{"within 10 % of a single port's", func(ours, _ Series) float64 { return 1.1 * single.Median() / ours.Median() }},
		Notes:  []string{"a single port's in the same turns: " + single.String()}})
	_, err := d.many.host.run(ctx, "forward", "rm", ports)
	return err
}

// stream adds and removes forwards while a connection through another one is busy.
func (d *doorHosts) stream(ctx context.Context, b *Bench) error {
	n := b.runs(1000, 20)
	st, err := d.many.startStream()
	if err != nil {
		return err
	}
	began := time.Now()
	for i := range n {
		listen := fmt.Sprint(rangeFirst + i)
		_, err = d.many.host.client.AddForward(ctx, api.ForwardRequest{Forward: api.Forward{Listen: listen, Guest: guestOfDoors + ":80"}}, api.Options{})
		if err == nil {
			_, err = d.many.host.client.RemoveForward(ctx, listen, api.Options{})
		}
		if err != nil {
			break
		}
	}
	took := time.Since(began)
	got, ended := st.end()
	if err := errors.Join(err, ended); err != nil {
		return err
	}
	var lost Series
	lost.Counted(Bytes, float64(got.missing))
	b.add(Row{Work: fmt.Sprintf("bytes lost by a TCP stream while %d forwards are added and removed", n), Ours: lost, Target: none(Bytes),
		Notes: []string{fmt.Sprintf("%d forwards beside; %.0f MB went through in %s, in order, %d segments were sent again; %.1f ms for an add and a removal, by the API",
			d.count, float64(got.received)/1e6, took.Round(time.Second), got.again, float64(took.Milliseconds())/float64(n))}})
	return nil
}

// elements counts those of a map of ours, as nft lists them.
func (s *doorScene) elements(ctx context.Context, name string) (int, error) {
	out, err := s.host.node.Run(ctx, "nft", "-j", "list", "map", "inet", "drawbridge", name)
	if err != nil {
		return 0, err
	}
	var listed struct {
		Nftables []struct {
			Map struct{ Elem []any }
		}
	}
	if err := json.Unmarshal([]byte(out), &listed); err != nil {
		return 0, fmt.Errorf("read nft's list: %w", err)
	}
	n := 0
	for _, object := range listed.Nftables {
		n += len(object.Map.Elem)
	}
	return n, nil
}
