package linux

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"drawbridge/internal/host"
)

// opinion is what ip and nft say about the host, in our words: nothing of our
// own reader is used.
func opinion(t *testing.T, present host.State, absent []host.Key) {
	t.Helper()
	seen := host.State{}
	seen.Add(ipLinks(t)...)
	seen.Add(ipAddresses(t)...)
	seen.Add(ipRoutes(t)...)
	seen.Add(ipRules(t)...)
	rules := append(nftRules(t), nftAccepts(t)...)
	for k, want := range present {
		switch want := want.(type) {
		case host.Sysctl:
			b, err := os.ReadFile("/proc/sys/" + want.Path)
			if err != nil || strings.TrimSpace(string(b)) != want.Value {
				t.Errorf("%s is %q (%v), not %q", k, b, err, want.Value)
			}
		case host.Feature: // no program says so
		case host.Accept:
			if text := acceptText(want); !slices.Contains(rules, text) {
				t.Errorf("nft has not: %s\nbut: %s", text, strings.Join(rules, "\n     "))
			}
		case host.Table, host.Set, host.Chain, host.Element:
			if text := nftText(want); !slices.Contains(rules, text) {
				t.Errorf("nft has not: %s\nbut: %s", text, strings.Join(rules, "\n     "))
			}
		default:
			if !host.Same(seen[k], want) {
				t.Errorf("ip disagrees: want %+v\n ip says %+v", want, seen[k])
			}
		}
	}
	for _, k := range absent {
		if there, ok := seen[k]; ok {
			t.Errorf("ip sees %s: %+v", k, there)
		}
		if slices.ContainsFunc(rules, func(r string) bool { return strings.HasPrefix(r, k.String()+":") }) {
			t.Errorf("nft sees %s", k)
		}
	}
}

func output(t testing.TB, into any, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	if len(out) == 0 {
		return
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
}

func ipLinks(t *testing.T) (out []host.Resource) {
	var links []struct {
		Ifname, Address, Master, Ifalias string
		Mtu                              int
		Flags                            []string
		Linkinfo                         struct {
			Kind      string `json:"info_kind"`
			SlaveKind string `json:"info_slave_kind"`
			Data      struct {
				STP    int    `json:"stp_state"`
				Delay  uint32 `json:"forward_delay"`
				Filter int    `json:"vlan_filtering"`
			} `json:"info_data"`
			Port struct{ Hairpin, Isolated bool } `json:"info_slave_data"`
		}
	}
	output(t, &links, "ip", "-j", "-d", "link", "show")
	vlans := bridgeVLANs(t)
	for _, l := range links {
		// Not listed at all: in no VLAN.
		if _, in := vlans[l.Ifname]; !in && len(vlans) > 0 && (l.Linkinfo.Kind == "bridge" || l.Linkinfo.SlaveKind == "bridge") {
			vlans[l.Ifname] = host.NoVLANs
		}
		out = append(out, host.Link{
			Filter: l.Linkinfo.Data.Filter != 0, VLANs: vlans[l.Ifname],
			Name: l.Ifname, Type: l.Linkinfo.Kind, MAC: l.Address, MTU: l.Mtu, Up: slices.Contains(l.Flags, "UP"),
			Master: l.Master, Alias: l.Ifalias, STP: l.Linkinfo.Data.STP != 0, ForwardDelay: l.Linkinfo.Data.Delay,
			Isolated: l.Linkinfo.Port.Isolated, Hairpin: l.Linkinfo.Port.Hairpin,
		})
	}
	return out
}

// bridgeVLANs is what iproute2's bridge says, by link.
func bridgeVLANs(t *testing.T) map[string]string {
	var links []struct {
		Ifname string
		Vlans  []struct {
			Vlan, VlanEnd int
			Flags         []string
		}
	}
	if _, err := exec.LookPath("bridge"); err == nil {
		output(t, &links, "bridge", "-j", "vlan", "show")
	}
	texts := map[string]string{}
	for _, l := range links {
		set := host.VLANSet{}
		for _, v := range l.Vlans {
			var flags host.VLANFlags
			if slices.Contains(v.Flags, "PVID") {
				flags |= host.PVID
			}
			if slices.Contains(v.Flags, "Egress Untagged") {
				flags |= host.Untagged
			}
			for id := v.Vlan; id <= max(v.Vlan, v.VlanEnd); id++ {
				set[id] = flags
			}
		}
		texts[l.Ifname] = set.Text(host.DefaultVLAN)
	}
	return texts
}

func ipAddresses(t *testing.T) (out []host.Resource) {
	var links []struct {
		Ifname string
		Addrs  []struct {
			Local     netip.Addr
			Broadcast netip.Addr
			Prefixlen int
			Nodad     bool
			Dynamic   bool
		} `json:"addr_info"`
	}
	output(t, &links, "ip", "-j", "-d", "addr", "show")
	for _, l := range links {
		for _, a := range l.Addrs {
			one := host.Address{Link: l.Ifname, Addr: netip.PrefixFrom(a.Local, a.Prefixlen), NoDAD: a.Nodad, Dynamic: a.Dynamic}
			if b := a.Broadcast; b.IsValid() && (!one.Addr.Contains(b) || one.Addr.Contains(b.Next())) {
				one.Broadcast = b // not the last address of the subnet
			}
			out = append(out, one)
		}
	}
	return out
}

func ipRoutes(t *testing.T) (out []host.Resource) {
	types := map[string]int{"unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5, "blackhole": 6}
	tables := map[string]int{"main": 254, "local": 255, "": 254}
	protocols := map[string]int{"kernel": 2, "boot": 3, "static": 4, "dhcp": 16}
	for family, all := range map[string]string{"-4": "0.0.0.0/0", "-6": "::/0"} {
		var routes []struct {
			Type, Dst, Gateway, Dev, Table, Protocol, Prefsrc string
			Metric                                            int
			Flags                                             []string
			Metrics                                           []struct{ Mtu, Advmss int }
			Nexthops                                          []struct {
				Gateway, Dev string
				Weight       int
			}
		}
		output(t, &routes, "ip", family, "-j", "-d", "route", "show", "table", "all")
		for _, r := range routes {
			if r.Dst == "default" {
				r.Dst = all
			}
			dst, err := netip.ParsePrefix(r.Dst)
			if err != nil {
				ip := netip.MustParseAddr(r.Dst)
				dst = netip.PrefixFrom(ip, ip.BitLen())
			}
			gateway, _ := netip.ParseAddr(r.Gateway)
			src, _ := netip.ParseAddr(r.Prefsrc)
			table, ok := tables[r.Table]
			if !ok {
				fmt.Sscan(r.Table, &table)
			}
			route := host.Route{
				Dst: dst, Gateway: gateway, Link: r.Dev, Table: table, Metric: r.Metric,
				Protocol: protocols[r.Protocol], Type: types[r.Type], Src: src, OnLink: slices.Contains(r.Flags, "onlink"),
			}
			if route.Protocol == 0 {
				fmt.Sscan(r.Protocol, &route.Protocol)
			}
			for _, m := range r.Metrics {
				route.Metrics = fmt.Sprintf("mtu %d advmss %d", m.Mtu, m.Advmss)
			}
			var hops []string
			for _, h := range r.Nexthops {
				hops = append(hops, fmt.Sprintf("via %s dev %s weight %d", h.Gateway, h.Dev, h.Weight))
			}
			route.Hops = strings.Join(hops, "; ")
			out = append(out, route)
		}
	}
	return out
}

func ipRules(t *testing.T) (out []host.Resource) {
	for _, family := range []string{"-4", "-6"} {
		var rules []struct {
			Priority                            uint32
			Src, Dst, Iif, Oif, Table, Protocol string
			Srclen, Dstlen                      int
			Fwmark, Fwmask                      string
			Not                                 json.RawMessage
		}
		output(t, &rules, "ip", family, "-N", "-j", "-d", "rule", "show")
		for _, r := range rules {
			rule := host.Rule{Six: family == "-6", Priority: r.Priority, Iif: r.Iif, Oif: r.Oif, Action: 1, Not: r.Not != nil}
			fmt.Sscan(r.Table, &rule.Table)
			fmt.Sscan(r.Protocol, &rule.Protocol)
			fmt.Sscan(r.Fwmark, &rule.Mark)
			fmt.Sscan(r.Fwmask, &rule.Mask)
			if r.Srclen > 0 {
				rule.From = netip.PrefixFrom(netip.MustParseAddr(r.Src), r.Srclen)
			}
			if r.Dstlen > 0 {
				rule.To = netip.PrefixFrom(netip.MustParseAddr(r.Dst), r.Dstlen)
			}
			out = append(out, rule)
		}
	}
	return out
}

// nftText writes what nftRules should have for a resource: its key and what can
// be compared without reading rules as we do.
func nftText(r host.Resource) string {
	switch r := r.(type) {
	case host.Set:
		return fmt.Sprintf("%s: %s => %s interval %t", r.Key(), r.Type, r.Value, r.Interval)
	case host.Chain:
		return fmt.Sprintf("%s: %s %s %d, %d rules", r.Key(), r.Type, r.Hook, r.Priority, len(strings.Split(r.Rules, "\n")))
	case host.Element:
		return fmt.Sprintf("%s: %s", r.Key(), r.Data)
	}
	return r.Key().String() + ":"
}

// nftRules lists everything in our tables as nftText writes it.
func nftRules(t *testing.T) (out []string) {
	var all struct{ Nftables []map[string]nftObject }
	output(t, &all, "nft", "-j", "list", "ruleset")
	rules := map[host.Key]int{}
	for _, o := range all.Nftables {
		if r, ok := o["rule"]; ok {
			rules[host.ChainKey(r.table(), r.Chain)]++
		}
	}
	for _, o := range all.Nftables {
		for what, v := range o {
			switch what {
			case "table":
				in := host.Table{Family: v.Family, Name: v.Name}
				out = append(out, nftText(in))
			case "chain":
				k := host.ChainKey(v.table(), v.Name)
				out = append(out, fmt.Sprintf("%s: %s %s %d, %d rules", k, inWords(v.Type), v.Hook, v.Prio, rules[k]))
			case "set", "map":
				value, _ := v.Map.(string)
				out = append(out, fmt.Sprintf("%s: %s => %s interval %t", host.SetKey(v.table(), v.Name), inWords(v.Type), value, slices.Contains(v.Flags, "interval")))
				for _, e := range v.Elem {
					key, data := e, any(nil)
					if pair, ok := e.([]any); ok {
						key, data = pair[0], pair[1]
					}
					el := host.Element{Table: v.table(), Set: v.Name, Value: inWords(key), Data: inWords(data)}
					out = append(out, nftText(el))
				}
			}
		}
	}
	return out
}

type nftObject struct {
	Family                   host.Family
	Table, Name, Chain, Hook string
	Comment                  string
	Expr                     []map[string]any
	Type, Map                any
	Prio                     int
	Flags                    []string
	Elem                     []any
}

func (o nftObject) table() host.Table { return host.Table{Family: o.Family, Name: o.Table} }

// inWords writes a value of nft's JSON in nft's words.
func inWords(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case float64:
		return fmt.Sprint(v)
	case []any: // the type of a set of several parts
		var parts []string
		for _, p := range v {
			parts = append(parts, inWords(p))
		}
		return strings.Join(parts, " . ")
	case map[string]any:
		for what, in := range v {
			switch what {
			case "concat":
				return inWords(in)
			case "prefix":
				p := in.(map[string]any)
				return fmt.Sprintf("%v/%v", p["addr"], p["len"])
			case "jump", "goto":
				return what + " " + in.(map[string]any)["target"].(string)
			case "accept", "drop", "return":
				return what
			case "elem":
				return inWords(in.(map[string]any)["val"])
			}
		}
	}
	return fmt.Sprintf("unknown value %v", v)
}
