package rest

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"runtime"
	"slices"

	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/latency"
	"drawbridge/internal/spec"
	"drawbridge/internal/txn"
)

// ServiceCounts are what the guest services of one bridge counted.
type ServiceCounts struct {
	Bridge string
	// DHCP messages by type and dropped ones by reason; replies by their latency.
	Messages, Dropped                                 map[string]uint64
	Probes, Unprobed, Conflicts, SendErrs, CommitErrs uint64
	PoolSize, PoolUsed                                int
	DHCPLatency                                       latency.Snapshot
	Queries, Local, Cached, Forwarded, Failed         uint64
	Malformed, Outside                                uint64
	DNSLatency                                        latency.Snapshot
}

// Sources are where metrics come from beside the engine; a nil one is left out.
type Sources struct {
	// Services counts what guest services did.
	Services func() ([]ServiceCounts, error)
	// Conntrack is how many connections the kernel tracks, and how many it can.
	Conntrack func() (entries, limit int, err error)
}

// How many of each have metrics of their own: those with the most traffic. The
// others are one, named "other".
const (
	mostNetworks = 200
	mostPorts    = 500
	mostForwards = 500
	// otherName stands for all that have no metrics of their own.
	otherName = "other"
)

// bridgePorts is BR_MAX_PORTS - 1: the kernel adds no more ports to a bridge
// (net/bridge/br_private.h; measured).
const bridgePorts = 1023

type metricDesc struct {
	name, kind, help string
	labels           []string
	write            func(*promText, *scrape)
}

// scrape is what one answer is made of.
type scrape struct {
	s        *Server
	view     engine.View
	forwards []engine.ForwardView
	services []ServiceCounts
	// networkOf is the network's name by bridge.
	networkOf                  map[string]string
	servicesUp, entries, limit float64
	conntrack                  bool
	feed                       feedStats
}

// feedStats is what the feed of events counted.
type feedStats struct {
	listeners     int
	dropped       uint64
	kinds, result map[string]uint64
}

func (f *feed) stats() feedStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return feedStats{f.listeners, f.dropped, maps.Clone(f.kinds), maps.Clone(f.results)}
}

func (s *Server) registerMetrics() {
	s.mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		text, err := s.metrics(r.Context())
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(text)
	})
}

func (s *Server) metrics(ctx context.Context) ([]byte, error) {
	c := &scrape{s: s, networkOf: map[string]string{}, feed: s.feed.stats()}
	var err error
	if c.view, err = s.Engine.View(ctx); err != nil {
		return nil, err
	}
	if c.forwards, err = s.Engine.Forwards(ctx); err != nil {
		return nil, err
	}
	for i, name := range c.view.Document.Names() {
		own := string(name)
		if i >= mostNetworks {
			own = otherName
		}
		c.networkOf[c.view.Document.Networks[name].GuestLink()] = own
	}
	if s.Sources.Services != nil {
		// Services that do not answer are a metric, no reason to have none.
		if c.services, err = s.Sources.Services(); err == nil && len(c.services) > 0 {
			c.servicesUp = 1
		}
	}
	if s.Sources.Conntrack != nil {
		entries, limit, err := s.Sources.Conntrack()
		c.entries, c.limit, c.conntrack = float64(entries), float64(limit), err == nil
	}
	var p promText
	for _, d := range metricDescs() {
		p.family(d)
		d.write(&p, c)
	}
	return p.buf.Bytes(), nil
}

// sums adds up values that share their labels, and keeps the order in which the
// labels first came.
type sums struct {
	order  [][]string
	values map[string]float64
}

func (t *sums) add(v float64, labels ...string) {
	key := ""
	for _, l := range labels {
		key += l + "\x00"
	}
	if t.values == nil {
		t.values = map[string]float64{}
	}
	if _, there := t.values[key]; !there {
		t.order = append(t.order, labels)
	}
	t.values[key] += v
}

func (t *sums) write(p *promText) {
	for _, labels := range t.order {
		key := ""
		for _, l := range labels {
			key += l + "\x00"
		}
		p.value("", labels, t.values[key])
	}
}

// perNetwork writes a value of each network.
func perNetwork(value func(spec.Network, engine.NetworkView, *scrape) float64) func(*promText, *scrape) {
	return func(p *promText, c *scrape) {
		var t sums
		for _, name := range c.view.Document.Names() {
			n := c.view.Document.Networks[name]
			t.add(value(n, c.view.Networks[name], c), "network", c.networkOf[n.GuestLink()])
		}
		t.write(p)
	}
}

// perService writes values of each bridge's services; each is called with what to
// add to.
func perService(each func(n string, s ServiceCounts, t *sums)) func(*promText, *scrape) {
	return func(p *promText, c *scrape) {
		var t sums
		for _, s := range c.services {
			if n, ours := c.networkOf[s.Bridge]; ours {
				each(n, s, &t)
			}
		}
		t.write(p)
	}
}

func perServiceLatency(of func(ServiceCounts) latency.Snapshot) func(*promText, *scrape) {
	return func(p *promText, c *scrape) {
		all := map[string]latency.Snapshot{}
		for _, s := range c.services {
			n, ours := c.networkOf[s.Bridge]
			if !ours {
				continue
			}
			one, sum := of(s), all[n]
			sum.Sum += one.Sum
			counts := make([]uint64, max(len(one.Counts), len(sum.Counts)))
			copy(counts, sum.Counts)
			for i, v := range one.Counts {
				counts[i] += v
			}
			sum.Counts = counts
			all[n] = sum
		}
		for _, n := range slices.Sorted(maps.Keys(all)) {
			p.histogram([]string{"network", n}, all[n])
		}
	}
}

// perPort writes a counter of each port, those with the most traffic first.
func perPort(value func(engine.Port) uint64) func(*promText, *scrape) {
	return func(p *promText, c *scrape) {
		ports := slices.Clone(c.view.Ports)
		slices.SortStableFunc(ports, func(a, b engine.Port) int { return cmp.Compare(b.RxBytes+b.TxBytes, a.RxBytes+a.TxBytes) })
		var t sums
		for i, port := range ports {
			if i < mostPorts {
				t.add(float64(value(port)), "network", c.name(port.Network), "guest", port.Guest, "port", port.Tap)
			} else {
				t.add(float64(value(port)), "network", otherName, "guest", otherName, "port", otherName)
			}
		}
		t.write(p)
	}
}

func perForward(value func(engine.Counts) uint64) func(*promText, *scrape) {
	return func(p *promText, c *scrape) {
		list := slices.Clone(c.forwards)
		slices.SortStableFunc(list, func(a, b engine.ForwardView) int {
			return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(b.Connections, a.Connections))
		})
		var t sums
		for i, f := range list {
			if i < mostForwards {
				t.add(float64(value(f.Counts)), "network", c.name(f.Network), "forward", f.Key())
			} else {
				t.add(float64(value(f.Counts)), "network", otherName, "forward", otherName)
			}
		}
		t.write(p)
	}
}

// name is what a network is called in labels.
func (c *scrape) name(n spec.NetworkName) string {
	return c.networkOf[c.view.Document.Networks[n].GuestLink()]
}

func single(value func(*scrape) float64) func(*promText, *scrape) {
	return func(p *promText, c *scrape) { p.value("", nil, value(c)) }
}

func byWord(label string, of func(*scrape) map[string]uint64, always ...string) func(*promText, *scrape) {
	return func(p *promText, c *scrape) {
		all := of(c)
		keys := slices.Collect(maps.Keys(all))
		for _, k := range always {
			if _, there := all[k]; !there {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		for _, k := range keys {
			p.value("", []string{label, k}, float64(all[k]))
		}
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// portsOf counts the ports of a bridge, the uplink and those of others included, or
// those that share a NIC.
func portsOf(n spec.Network, _ engine.NetworkView, c *scrape) float64 {
	ports := 0
	for _, r := range c.view.State {
		if l, ok := r.(host.Link); ok && l.On() != "" && l.On() == n.GuestLink() {
			ports++
		}
	}
	return float64(ports)
}

func info(p *promText, c *scrape) {
	p.value("", []string{"version", c.s.Version, "goversion", runtime.Version()}, 1)
}

// results are how changes end.
func results() []string {
	return []string{string(txn.Confirmed), string(txn.RolledBack), string(txn.Stuck)}
}
