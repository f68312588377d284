package main

import (
	"drawbridge/internal/linux"
	"drawbridge/internal/rest"
)

// sources are where metrics come from beside the engine.
func (d *running) sources() rest.Sources {
	return rest.Sources{Services: d.serviceCounts, Conntrack: linux.ConntrackFill}
}

// serviceCounts joins what DHCP and DNS counted, by bridge.
func (d *running) serviceCounts() ([]rest.ServiceCounts, error) {
	counts, err := d.adapter.Counts()
	if err != nil {
		return nil, err
	}
	all := map[string]*rest.ServiceCounts{}
	of := func(bridge string) *rest.ServiceCounts {
		if all[bridge] == nil {
			all[bridge] = &rest.ServiceCounts{Bridge: bridge}
		}
		return all[bridge]
	}
	for _, s := range counts.DHCP {
		to := of(s.Bridge)
		to.Messages = map[string]uint64{
			"discover": s.Discover, "request": s.Request, "release": s.Release, "decline": s.Decline, "inform": s.Inform,
			"offer": s.Offer, "ack": s.Ack, "nak": s.Nak,
		}
		to.Dropped, to.Probes, to.Unprobed, to.Conflicts = s.Dropped, s.Probes, s.Unprobed, s.Conflicts
		to.SendErrs, to.CommitErrs, to.PoolSize, to.PoolUsed, to.DHCPLatency = s.SendErrors, s.CommitErrors, s.PoolSize, s.PoolUsed, s.Latency
	}
	for bridge, s := range counts.DNS {
		to := of(bridge)
		to.Queries, to.Local, to.Cached, to.Forwarded, to.Failed = s.Queries, s.Local, s.Cached, s.Forwarded, s.Failed
		to.Malformed, to.Outside, to.DNSLatency = s.Malformed, s.Outside, s.Latency
	}
	var list []rest.ServiceCounts
	for _, s := range all {
		list = append(list, *s)
	}
	return list, nil
}
