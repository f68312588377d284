package rest

import (
	"maps"
	"slices"

	"drawbridge/internal/engine"
	"drawbridge/internal/latency"
	"drawbridge/internal/spec"
)

// metricDescs is every metric that there is. docs/metrics.md is written from it.
func metricDescs() []metricDesc {
	return slices.Concat(hostMetrics(), networkMetrics(), trafficMetrics(), dhcpMetrics(), dnsMetrics())
}

const (
	gauge   = "gauge"
	counter = "counter"
)

func hostMetrics() []metricDesc {
	return []metricDesc{
		{"drawbridge_build_info", gauge, "Always 1; the labels say which program runs.", []string{"version", "goversion"}, info},
		{"drawbridge_start_time_seconds", gauge, "When the daemon was started, in seconds since 1970.", nil,
			single(func(c *scrape) float64 { return float64(c.s.started.UnixMilli()) / 1000 })},
		{"drawbridge_problems", gauge, "Problems of the host as a whole, as drawbridge status lists them.", nil,
			single(func(c *scrape) float64 { return float64(len(c.view.Problems)) })},
		{"drawbridge_guest_services_up", gauge, "1 if the process that serves DHCP, DNS and router advertisements answers.", nil,
			single(func(c *scrape) float64 { return c.servicesUp })},
		{"drawbridge_changes_total", counter, "Changes since the daemon was started, by how they ended. Repairs are not among them.", []string{"result"},
			byWord("result", func(c *scrape) map[string]uint64 { return c.feed.result }, results()...)},
		{"drawbridge_changes_pending", gauge, "Changes that are not finished: under way, waiting for a person, or stuck.", nil,
			single(func(c *scrape) float64 { return float64(len(c.view.Changes)) })},
		{"drawbridge_repairs_total", counter, "How often something was put back that others had changed.", nil,
			single(func(c *scrape) float64 { return float64(c.view.Repairs) })},
		{"drawbridge_events_total", counter, "Events since the daemon was started.", []string{"kind"},
			byWord("kind", func(c *scrape) map[string]uint64 { return c.feed.kinds }, eventKinds()...)},
		{"drawbridge_event_listeners", gauge, "Who listens to events just now.", nil,
			single(func(c *scrape) float64 { return float64(c.feed.listeners) })},
		{"drawbridge_event_listeners_dropped_total", counter, "Listeners that were disconnected as they did not read.", nil,
			single(func(c *scrape) float64 { return float64(c.feed.dropped) })},
		{"drawbridge_conntrack_entries", gauge, "Connections that the kernel tracks in the daemon's network namespace.", nil, conntrackValue(func(c *scrape) float64 { return c.entries })},
		{"drawbridge_conntrack_entries_limit", gauge, "How many connections it can track; new ones are dropped beyond.", nil, conntrackValue(func(c *scrape) float64 { return c.limit })},
	}
}

func conntrackValue(of func(*scrape) float64) func(*promText, *scrape) {
	return func(p *promText, c *scrape) {
		if c.conntrack {
			p.value("", nil, of(c))
		}
	}
}

func networkMetrics() []metricDesc {
	perNet := []string{"network"}
	type view = engine.NetworkView
	return []metricDesc{
		{"drawbridge_network_running", gauge, "1 if all that the network needs is there as wanted.", perNet,
			perNetwork(func(_ spec.Network, v view, _ *scrape) float64 { return oneIf(v.Running) })},
		{"drawbridge_network_wanted", gauge, "1 if the network shall run.", perNet,
			perNetwork(func(n spec.Network, _ view, _ *scrape) float64 { return oneIf(n.Started) })},
		{"drawbridge_network_problems", gauge, "What is not as wanted.", perNet,
			perNetwork(func(_ spec.Network, v view, _ *scrape) float64 { return float64(len(v.Problems)) })},
		{"drawbridge_network_guests", gauge, "Guests' NICs that are plugged in.", perNet,
			perNetwork(func(_ spec.Network, v view, _ *scrape) float64 { return float64(v.Guests) })},
		{"drawbridge_bridge_ports", gauge, "Ports of the network's bridge, uplinks and those of other programs included.", perNet, perNetwork(portsOf)},
		{"drawbridge_bridge_ports_limit", gauge, "How many ports a bridge can have.", nil, single(func(*scrape) float64 { return bridgePorts })},
		{"drawbridge_leases", gauge, "Addresses that are leased to guests.", perNet,
			perNetwork(func(_ spec.Network, v view, _ *scrape) float64 { return float64(v.Leases) })},
	}
}

func trafficMetrics() []metricDesc {
	port, forward := []string{"network", "guest", "port"}, []string{"network", "forward"}
	return []metricDesc{
		{"drawbridge_port_receive_bytes_total", counter, "Bytes that the guest received.", port, perPort(func(p engine.Port) uint64 { return p.RxBytes })},
		{"drawbridge_port_transmit_bytes_total", counter, "Bytes that the guest sent.", port, perPort(func(p engine.Port) uint64 { return p.TxBytes })},
		{"drawbridge_port_receive_packets_total", counter, "Packets that the guest received.", port, perPort(func(p engine.Port) uint64 { return p.RxPackets })},
		{"drawbridge_port_transmit_packets_total", counter, "Packets that the guest sent.", port, perPort(func(p engine.Port) uint64 { return p.TxPackets })},
		{"drawbridge_forward_connections_total", counter, "Connections that came through the forward since it was made.", forward, perForward(func(c engine.Counts) uint64 { return c.Connections })},
		{"drawbridge_forward_packets_total", counter, "Packets of these connections, both ways.", forward, perForward(func(c engine.Counts) uint64 { return c.Packets })},
		{"drawbridge_forward_bytes_total", counter, "Bytes of these connections, both ways.", forward, perForward(func(c engine.Counts) uint64 { return c.Bytes })},
		{"drawbridge_forwards", gauge, "Forwards by whether they lead somewhere: open, or waiting for their guest.", []string{"network", "state"}, func(p *promText, c *scrape) {
			var t sums
			for _, f := range c.forwards {
				state := "open"
				if f.Waiting != "" {
					state = "waiting"
				}
				t.add(1, "network", c.name(f.Network), "state", state)
			}
			t.write(p)
		}},
	}
}

func dhcpMetrics() []metricDesc {
	perNet := []string{"network"}
	one := func(of func(ServiceCounts) float64) func(*promText, *scrape) {
		return perService(func(n string, s ServiceCounts, t *sums) { t.add(of(s), "network", n) })
	}
	many := func(label string, of func(ServiceCounts) map[string]uint64) func(*promText, *scrape) {
		return perService(func(n string, s ServiceCounts, t *sums) {
			for _, k := range slices.Sorted(maps.Keys(of(s))) {
				t.add(float64(of(s)[k]), "network", n, label, k)
			}
		})
	}
	return []metricDesc{
		{"drawbridge_dhcp_pool_size", gauge, "Addresses that DHCP may give away.", perNet, one(func(s ServiceCounts) float64 { return float64(s.PoolSize) })},
		{"drawbridge_dhcp_pool_used", gauge, "Addresses of the pool that are leased, offered or set aside.", perNet, one(func(s ServiceCounts) float64 { return float64(s.PoolUsed) })},
		{"drawbridge_dhcp_messages_total", counter, "Messages received and sent.", []string{"network", "type"}, many("type", func(s ServiceCounts) map[string]uint64 { return s.Messages })},
		{"drawbridge_dhcp_dropped_total", counter, "Messages that got no answer.", []string{"network", "reason"}, many("reason", func(s ServiceCounts) map[string]uint64 { return s.Dropped })},
		{"drawbridge_dhcp_probes_total", counter, "ARP probes for addresses that were never leased.", perNet, one(func(s ServiceCounts) float64 { return float64(s.Probes) })},
		{"drawbridge_dhcp_unprobed_total", counter, "New addresses that were offered without a probe, as too many guests came at once.", perNet, one(func(s ServiceCounts) float64 { return float64(s.Unprobed) })},
		{"drawbridge_dhcp_conflicts_total", counter, "Addresses that somebody was found to use already.", perNet, one(func(s ServiceCounts) float64 { return float64(s.Conflicts) })},
		{"drawbridge_dhcp_errors_total", counter, "Replies that could not be sent, and leases that could not be stored.", []string{"network", "kind"}, many("kind", func(s ServiceCounts) map[string]uint64 {
			return map[string]uint64{"send": s.SendErrs, "store": s.CommitErrs}
		})},
		{"drawbridge_dhcp_reply_seconds", "histogram", "From receiving a message to handing over the reply, a probe and the storing of the lease included.", perNet,
			perServiceLatency(func(s ServiceCounts) latency.Snapshot { return s.DHCPLatency })},
	}
}

func dnsMetrics() []metricDesc {
	perNet := []string{"network"}
	many := func(label string, of func(ServiceCounts) map[string]uint64) func(*promText, *scrape) {
		return perService(func(n string, s ServiceCounts, t *sums) {
			all := of(s)
			for _, k := range slices.Sorted(maps.Keys(all)) {
				t.add(float64(all[k]), "network", n, label, k)
			}
		})
	}
	return []metricDesc{
		{"drawbridge_dns_queries_total", counter, "Questions from guests.", perNet,
			perService(func(n string, s ServiceCounts, t *sums) { t.add(float64(s.Queries), "network", n) })},
		{"drawbridge_dns_answers_total", counter, "Answers by where they came from; failed ones are SERVFAIL and REFUSED.", []string{"network", "source"},
			many("source", func(s ServiceCounts) map[string]uint64 {
				return map[string]uint64{"local": s.Local, "cache": s.Cached, "forwarded": s.Forwarded, "failed": s.Failed}
			})},
		{"drawbridge_dns_discarded_total", counter, "Packets that were no question, or not from a guest.", []string{"network", "reason"},
			many("reason", func(s ServiceCounts) map[string]uint64 {
				return map[string]uint64{"malformed": s.Malformed, "outside": s.Outside}
			})},
		{"drawbridge_dns_answer_seconds", "histogram", "From receiving a question to handing over the answer.", perNet,
			perServiceLatency(func(s ServiceCounts) latency.Snapshot { return s.DNSLatency })},
	}
}
