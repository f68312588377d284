package linux

import (
	"context"

	"golang.org/x/sys/unix"
)

// Counter is what a rule with the word counter has seen. It starts at zero
// again whenever the rule's chain is changed.
type Counter struct {
	Packets uint64
	Bytes   uint64
}

// counters reads the counters of our rules, by the name of the chain's key, a
// space, and the rule's text without its comment:
// "inet drawbridge guest_services udp dport 67 counter accept". Rules with the
// same text in one chain are added up; rules that are not ours are left out.
func (a *nftAdapter) counters(ctx context.Context) (map[string]Counter, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out := map[string]Counter{}
	v := a.view()
	for _, t := range ourTables {
		rules, err := v.rules(t, "")
		if err != nil {
			return nil, err
		}
		for chain, list := range rules {
			for _, r := range list {
				text, _, hash := readUserData(r.udata)
				if hash != "" {
					text = v.textOf(hash)
				}
				c, counts := countOf(r.exprs)
				if text == "" || !counts {
					continue
				}
				key := t.String() + " " + chain + " " + text
				sum := out[key]
				out[key] = Counter{sum.Packets + c.Packets, sum.Bytes + c.Bytes}
			}
		}
	}
	return out, nil
}

// countOf finds the first counter among a rule's expressions.
func countOf(exprs []byte) (Counter, bool) {
	for one := range nftAttrs(exprs) {
		name, _ := find(one.data, unix.NFTA_EXPR_NAME)
		if name.text() != "counter" {
			continue
		}
		data, _ := find(one.data, unix.NFTA_EXPR_DATA)
		packets, _ := find(data.data, unix.NFTA_COUNTER_PACKETS)
		bytes, _ := find(data.data, unix.NFTA_COUNTER_BYTES)
		return Counter{packets.u64(), bytes.u64()}, true
	}
	return Counter{}, false
}
