package linux

import (
	"context"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
)

// everyAccept is one rule of each way, in a chain.
func everyAccept(t host.Table, chain string) []host.Accept {
	four, six := netip.MustParsePrefix("192.168.122.0/23"), netip.MustParsePrefix("fd00:1:2:3::/64")
	var all []host.Accept
	add := func(p netip.Prefix, ways ...host.Way) {
		for _, w := range ways {
			all = append(all, host.Accept{Table: t, Chain: chain, Bridge: "virbr0", Way: w, Subnet: p})
		}
	}
	if t.Family != "ip6" {
		add(four, host.WayOut, host.WayBack, host.WayDoors)
		add(netip.Prefix{}, host.WayDHCP, host.WayOffer)
	}
	if t.Family != "ip" {
		add(six, host.WayOut, host.WayBack, host.WayDoors)
		add(netip.Prefix{}, host.WaySolicit, host.WayLook, host.WayFound, host.WayAdvert, host.WayAsk, host.WayTell)
	}
	add(netip.Prefix{}, host.WayWithin, host.WayDNS, host.WayDNSStream, host.WayName)
	return all
}

func TestAcceptsInChainsOfOthersAreReadByTheirOwnPrograms(t *testing.T) {
	nettest.Need(t, nettest.Namespace, "nft", "iptables", "ip6tables")
	ctx := context.Background()
	a, err := newNFT()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	run := func(argv ...string) string {
		t.Helper()
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
		return string(out)
	}
	run("iptables", "-P", "FORWARD", "DROP")
	run("ip6tables", "-P", "FORWARD", "DROP")
	run("iptables", "-A", "FORWARD", "-j", "DROP")
	run("ip6tables", "-A", "FORWARD", "-j", "DROP")
	run("nft", "add table inet other; add chain inet other fw { type filter hook forward priority 0; policy drop; }; add rule inet other fw counter drop")
	defer run("nft", "flush ruleset")

	for _, c := range []struct {
		table host.Table
		chain string
		list  []string
		lines []string
	}{
		{host.Table{Family: "ip", Name: "filter"}, "FORWARD", []string{"iptables", "-S", "FORWARD"}, []string{
			"-A FORWARD -s 192.168.122.0/23 -i virbr0 -m comment --comment \"drawbridge: out virbr0 192.168.122.0/23\" -j ACCEPT",
			"-A FORWARD -d 192.168.122.0/23 -o virbr0 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment \"drawbridge: back virbr0 192.168.122.0/23\" -j ACCEPT",
			"-A FORWARD -d 192.168.122.0/23 -o virbr0 -m conntrack --ctstate DNAT -m comment --comment \"drawbridge: forwards virbr0 192.168.122.0/23\" -j ACCEPT",
			"-A FORWARD -i virbr0 -o virbr0 -m comment --comment \"drawbridge: within virbr0\" -j ACCEPT",
			"-A FORWARD -i virbr0 -p udp -m udp --dport 67 -m comment --comment \"drawbridge: dhcp virbr0\" -j ACCEPT",
			"-A FORWARD -i virbr0 -p tcp -m tcp --dport 53 -m comment --comment \"drawbridge: dns-tcp virbr0\" -j ACCEPT",
			"-A FORWARD -o virbr0 -p udp -m udp --sport 67 -m comment --comment \"drawbridge: dhcp-answers virbr0\" -j ACCEPT",
		}},
		{host.Table{Family: "ip6", Name: "filter"}, "FORWARD", []string{"ip6tables", "-S", "FORWARD"}, []string{
			"-A FORWARD -s fd00:1:2:3::/64 -i virbr0 -m comment --comment \"drawbridge: out virbr0 fd00:1:2:3::/64\" -j ACCEPT",
			"-A FORWARD -i virbr0 -p ipv6-icmp -m icmp6 --icmpv6-type 133 -m comment --comment \"drawbridge: router-solicit virbr0\" -j ACCEPT",
		}},
		{host.Table{Family: "inet", Name: "other"}, "fw", []string{"nft", "list", "chain", "inet", "other", "fw"}, []string{
			"iifname \"virbr0\" ip saddr 192.168.122.0/23 counter packets 0 bytes 0 accept comment \"drawbridge: out virbr0 192.168.122.0/23\"",
			"oifname \"virbr0\" ip daddr 192.168.122.0/23 ct state established,related counter packets 0 bytes 0 accept comment \"drawbridge: back virbr0 192.168.122.0/23\"",
			"oifname \"virbr0\" ip6 daddr fd00:1:2:3::/64 ct status dnat counter packets 0 bytes 0 accept comment \"drawbridge: forwards virbr0 fd00:1:2:3::/64\"",
			"iifname \"virbr0\" udp dport 53 counter packets 0 bytes 0 accept comment \"drawbridge: dns virbr0\"",
			"iifname \"virbr0\" icmpv6 type nd-router-solicit counter packets 0 bytes 0 accept comment \"drawbridge: router-solicit virbr0\"",
		}},
	} {
		t.Run(c.table.String(), func(t *testing.T) {
			before := run(c.list...)
			var make, unmake []plan.Step
			want := host.State{}
			for _, x := range everyAccept(c.table, c.chain) {
				make, unmake = append(make, plan.Step{After: x}), append(unmake, plan.Step{Before: x})
				want.Add(x)
			}
			for range 2 { // twice is once
				if err := a.applyAccepts(ctx, make); err != nil {
					t.Fatal(err)
				}
			}
			listed := run(c.list...)
			for _, line := range c.lines {
				if !strings.Contains(listed, line) {
					t.Errorf("%v does not show %s in\n%s", c.list, line, listed)
				}
			}
			if n := strings.Count(listed, "drawbridge: "); n != len(want) {
				t.Errorf("%d rules for %d accepts", n, len(want))
			}
			if first := strings.Index(listed, "drawbridge: "); strings.Index(strings.ToLower(listed[first:]), "drop") < 0 {
				t.Errorf("the rules do not come before the drop:\n%s", listed)
			}
			seen := host.State{}
			if err := a.observeAccepts(ctx, seen, nil); err != nil {
				t.Fatal(err)
			}
			if steps := plan.Diff(want, seen); len(steps) > 0 {
				t.Errorf("what was made is not what is seen: %v", steps)
			}
			if err := a.applyAccepts(ctx, unmake); err != nil {
				t.Fatal(err)
			}
			if after := run(c.list...); after != before {
				t.Errorf("not as before:\n%s\nbut\n%s", before, after)
			}
		})
	}
}

func TestAnAcceptThatSomebodyChangedIsSeen(t *testing.T) {
	nettest.Need(t, nettest.Namespace, "nft")
	ctx := context.Background()
	a, err := newNFT()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	nft := func(text string) {
		t.Helper()
		if out, err := exec.Command("nft", text).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", text, err, out)
		}
	}
	nft("add table inet other; add chain inet other fw { type filter hook forward priority 0; policy drop; }")
	defer nft("delete table inet other")
	// It says that it is about guests going out, and lets everybody in.
	nft(`add rule inet other fw counter accept comment "drawbridge: out virbr0 192.168.122.0/24"`)
	want := host.Accept{Table: host.Table{Family: "inet", Name: "other"}, Chain: "fw", Bridge: "virbr0", Way: host.WayOut, Subnet: netip.MustParsePrefix("192.168.122.0/24")}
	look := func() host.Resource {
		t.Helper()
		seen := host.State{}
		if err := a.observeAccepts(ctx, seen, []host.Key{want.Key()}); err != nil {
			t.Fatal(err)
		}
		return seen[want.Key()]
	}
	if there := look(); there == nil || there == host.Resource(want) {
		t.Fatalf("seen as %v", there)
	}
	if err := a.applyAccepts(ctx, []plan.Step{{Before: look(), After: want}}); err != nil {
		t.Fatal(err)
	}
	if there := look(); there != host.Resource(want) {
		t.Fatalf("made anew and seen as %v", there)
	}
	out, err := exec.Command("nft", "list", "chain", "inet", "other", "fw").Output()
	if err != nil || strings.Count(string(out), "accept") != 1 {
		t.Fatalf("the forged rule is still there: %v\n%s", err, out)
	}
}

func TestCommentsOfAcceptsGoBothWays(t *testing.T) {
	for _, a := range slices.Concat(everyAccept(host.Table{Family: "ip"}, ""), everyAccept(host.Table{Family: "ip6"}, "")) {
		got, ok := parseAccept(acceptComment(a))
		if got.Table = a.Table; !ok || got != a {
			t.Errorf("%q is read as %+v", acceptComment(a), got)
		}
	}
	for _, bad := range []string{"", "drawbridge:", "drawbridge: out", "drawbridge: out virbr0 300.0.0.0/8", "drawbridge: out virbr0 10.0.0.0/8 more", "someone: out virbr0"} {
		if a, ok := parseAccept(bad); ok {
			t.Errorf("%q is taken for %+v", bad, a)
		}
	}
}
