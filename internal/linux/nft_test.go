package linux

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
)

// freshNFT opens an adapter on an empty ruleset.
func freshNFT(t testing.TB) *nftAdapter {
	t.Helper()
	nettest.Need(t, nettest.Namespace, "nft")
	nftOutput(t, "flush", "ruleset")
	a, err := newNFT()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// nftOutput runs nft, the second opinion.
func nftOutput(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func nftFile(t testing.TB, text string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "rules.nft")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	nftOutput(t, "-f", name)
}

var (
	inetTable   = host.Table{Family: host.FamilyInet, Name: ourTable}
	bridgeTable = host.Table{Family: host.FamilyBridge, Name: ourTable}
)

func element(set, value, data string) host.Element {
	return host.Element{Table: inetTable, Set: set, Value: value, Data: data}
}

// twoNetworks is what the host has with two NAT networks, one of both families.
func twoNetworks() host.State {
	s := host.NewState(render.Ruleset()...)
	for i := range 2 {
		br := fmt.Sprintf("virbr%d", i)
		s.Add(
			element("bridges", br, ""), element("within", br+" . "+br, ""),
			element("from_guests", br, "jump from_nat"), element("to_guests", br, "jump to_nat"),
			element("sources4", fmt.Sprintf("%s . 192.168.%d.0/24", br, 122+i), ""),
			element("hidden4", fmt.Sprintf("192.168.%d.0/24", 122+i), ""),
		)
	}
	s.Add(
		element("sources6", "virbr0 . fd00:122::/64", ""), element("hidden6", "fd00:122::/64", ""),
		host.Element{Table: bridgeTable, Set: "ports", Value: "vnet0"},
	)
	return s
}

func mustApply(t testing.TB, a *nftAdapter, steps []plan.Step) {
	t.Helper()
	if err := a.apply(t.Context(), steps); err != nil {
		t.Fatal(err)
	}
}

func mustObserve(t testing.TB, a *nftAdapter, keys []host.Key) host.State {
	t.Helper()
	seen, err := a.observe(t.Context(), keys)
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// checkSeen observes everything, and everything by its key, and compares.
func checkSeen(t testing.TB, a *nftAdapter, want host.State) {
	t.Helper()
	if seen := mustObserve(t, a, nil); !maps.Equal(want, seen) {
		t.Errorf("wanted (-) and observed (+) differ:\n%s", cmp.Diff(want, seen))
	}
	if seen := mustObserve(t, a, want.Keys()); !maps.Equal(want, seen) {
		t.Errorf("wanted (-) and observed by key (+) differ:\n%s", cmp.Diff(want, seen))
	}
}

func making(s host.State) []plan.Step   { return plan.Diff(s, host.State{}) }
func unmaking(s host.State) []plan.Step { return plan.Diff(host.State{}, s) }

// asNFT writes a state as a file for nft.
func asNFT(s host.State) string {
	var b strings.Builder
	of := func(t host.Table, each func(host.Resource)) {
		for _, k := range s.Keys() {
			if strings.HasPrefix(k.Name, t.String()) {
				each(s[k])
			}
		}
	}
	for _, t := range ourTables {
		fmt.Fprintf(&b, "table %s {\n", t)
		of(t, func(r host.Resource) {
			if c, ok := r.(host.Chain); ok && c.Hook == "" {
				fmt.Fprintf(&b, "chain %s {}\n", c.Name)
			}
		})
		of(t, func(r host.Resource) {
			switch r := r.(type) {
			case host.Set:
				kind, value, flags := "set", "", ""
				if r.Value != "" {
					kind, value = "map", " : "+r.Value
				}
				if r.Interval {
					flags = "flags interval;"
				}
				fmt.Fprintf(&b, "%s %s { type %s%s; %s }\n", kind, r.Name, r.Type, value, flags)
			case host.Chain:
				fmt.Fprintf(&b, "chain %s {\n", r.Name)
				if r.Hook != "" {
					fmt.Fprintf(&b, "type %s hook %s priority %d; policy accept;\n", r.Type, r.Hook, r.Priority)
				}
				fmt.Fprintf(&b, "%s\n}\n", r.Rules)
			}
		})
		fmt.Fprint(&b, "}\n")
	}
	for _, k := range s.Keys() {
		if e, ok := s[k].(host.Element); ok {
			data := ""
			if e.Data != "" {
				data = " : " + e.Data
			}
			fmt.Fprintf(&b, "add element %s %s { %s%s }\n", e.Table, e.Set, e.Value, data)
		}
	}
	return b.String()
}

func TestRulesetIsWhatNFTMakes(t *testing.T) {
	a := freshNFT(t)
	want := twoNetworks()
	listings := func() []string {
		out := []string{normal(nftOutput(t, "-s", "list", "ruleset"))}
		for _, k := range want.Keys() {
			if k.Kind == host.KindChain {
				out = append(out, normal(nftOutput(t, append([]string{"--debug=netlink", "list", "chain"}, strings.Fields(k.Name)...)...)))
			}
		}
		return out
	}
	mustApply(t, a, making(want))
	ours := listings()
	checkSeen(t, a, want)
	nftOutput(t, "flush", "ruleset")
	nftFile(t, asNFT(want))
	// Order in a listing is by age, numbers are handles, and nft opens a set of
	// intervals with an empty one: none of that is what this is about.
	bynature := regexp.MustCompile(`(?m)^((inet|bridge) \S+ \S+) \d+( \d+)?$|^\telement (00000000 )+ : 1 \[end\]$`)
	sorted := func(s string) []string {
		lines := strings.Split(bynature.ReplaceAllString(s, "$1"), "\n")
		lines = slices.DeleteFunc(lines, func(l string) bool { return l == "" })
		slices.Sort(lines)
		return lines
	}
	for i, theirs := range listings() {
		if diff := cmp.Diff(sorted(theirs), sorted(ours[i])); diff != "" {
			t.Errorf("nft (-) and we (+) differ:\n%s", diff)
		}
	}
}

func TestApplyTwice(t *testing.T) {
	a := freshNFT(t)
	want := twoNetworks()
	for range 2 {
		mustApply(t, a, making(want))
		checkSeen(t, a, want)
	}
}

func TestTakeBack(t *testing.T) {
	a := freshNFT(t)
	nftFile(t, "table ip other { chain c { type filter hook input priority 0; accept; }; }")
	others := nftOutput(t, "list", "ruleset")
	want := twoNetworks()
	mustApply(t, a, making(want))
	nftOutput(t, "delete", "element", "inet", "drawbridge", "hidden4", "{ 192.168.123.0/24 }")
	// One by one, without the tables, then with them.
	parts := host.State{}
	for k, r := range want {
		if k.Kind != host.KindTable {
			parts[k] = r
		}
	}
	for range 2 {
		mustApply(t, a, unmaking(parts))
		checkSeen(t, a, host.NewState(inetTable, bridgeTable))
	}
	mustApply(t, a, making(want))
	for range 2 {
		mustApply(t, a, unmaking(want))
		checkSeen(t, a, host.State{})
	}
	if got := nftOutput(t, "list", "ruleset"); got != others {
		t.Errorf("somebody else's table became:\n%s", got)
	}
}

func TestAfterFlushRuleset(t *testing.T) {
	a := freshNFT(t)
	want := twoNetworks()
	mustApply(t, a, making(want))
	before := nftOutput(t, "-s", "list", "ruleset")
	nftOutput(t, "flush", "ruleset")
	checkSeen(t, a, host.State{})
	mustApply(t, a, plan.Diff(want, mustObserve(t, a, nil)))
	if diff := cmp.Diff(before, nftOutput(t, "-s", "list", "ruleset")); diff != "" {
		t.Errorf("after flush and repair:\n%s", diff)
	}
}

// TestDrift lets somebody change each sort of thing by hand; it must be seen,
// repaired from what was seen, and possible to go back to.
func TestDrift(t *testing.T) {
	handle := func(t *testing.T, chain, rule string) string {
		for line := range strings.SplitSeq(nftOutput(t, "-a", "list", "chain", "inet", "drawbridge", chain), "\n") {
			if strings.Contains(line, rule) {
				_, h, _ := strings.Cut(line, "# handle ")
				return h
			}
		}
		t.Fatalf("no rule %q in chain %s", rule, chain)
		return ""
	}
	nft := func(args ...string) func(*testing.T) {
		return func(t *testing.T) { nftOutput(t, args...) }
	}
	cases := map[string]struct {
		change func(*testing.T)
		// keys are what must be seen as different.
		keys []host.Key
		// gone says that going back to the changed state is not possible.
		gone bool
	}{
		"rule added":         {change: nft("add rule inet drawbridge forward counter drop"), keys: []host.Key{host.ChainKey(inetTable, "forward")}},
		"rule inserted":      {change: nft(`insert rule inet drawbridge forward ip saddr 10.0.0.1 drop comment "mine now"`), keys: []host.Key{host.ChainKey(inetTable, "forward")}},
		"rule with set":      {change: nft("add rule inet drawbridge forward ip saddr { 10.0.0.1, 10.0.0.2 } drop"), keys: []host.Key{host.ChainKey(inetTable, "forward")}, gone: true},
		"unknown expression": {change: nft("add rule inet drawbridge forward rt classid 5 drop"), keys: []host.Key{host.ChainKey(inetTable, "forward")}},
		"element deleted":    {change: nft("delete element inet drawbridge hidden4 { 192.168.122.0/24 }"), keys: []host.Key{element("hidden4", "192.168.122.0/24", "").Key()}},
		"verdict changed":    {change: nft("-e", "delete element inet drawbridge to_guests { virbr0 }; add element inet drawbridge to_guests { virbr0 : accept }"), keys: []host.Key{element("to_guests", "virbr0", "").Key()}},
		"subnet widened":     {change: nft("delete element inet drawbridge sources4 { virbr0 . 192.168.122.0/24 }; add element inet drawbridge sources4 { virbr0 . 192.168.0.0/16 }"), keys: []host.Key{element("sources4", "virbr0 . 192.168.122.0/24", "").Key(), element("sources4", "virbr0 . 192.168.0.0/16", "").Key()}},
		"policy":             {change: nft("chain inet drawbridge forward { policy drop; }"), keys: []host.Key{host.ChainKey(inetTable, "forward")}},
		"chain flushed":      {change: nft("flush chain inet drawbridge guest_services"), keys: []host.Key{host.ChainKey(inetTable, "guest_services")}},
		"chain of theirs":    {change: nft("add chain inet drawbridge theirs { type filter hook input priority 5; }"), keys: []host.Key{host.ChainKey(inetTable, "theirs")}},
		"set that counts":    {change: nft("add set inet drawbridge theirs { type ipv4_addr; counter; }"), keys: []host.Key{host.SetKey(inetTable, "theirs")}, gone: true},
		"set that forgets":   {change: nft("add set inet drawbridge theirs { type ipv4_addr; flags timeout; timeout 1h; }"), keys: []host.Key{host.SetKey(inetTable, "theirs")}, gone: true},
		"set of theirs":      {change: nft("add set inet drawbridge theirs { type mark . ether_addr; }"), keys: []host.Key{host.SetKey(inetTable, "theirs")}},
		"table asleep":       {change: nft("add table inet drawbridge { flags dormant; }"), keys: []host.Key{inetTable.Key()}, gone: true},
		"table gone":         {change: nft("delete table bridge drawbridge")},
		"keeps the comment": {change: func(t *testing.T) {
			h := handle(t, "to_nat", "established")
			nftOutput(t, "replace", "rule", "inet", "drawbridge", "to_nat", "handle", h, "ct", "state", "{ new, established, related }", "accept", "comment", `"answers to what guests began"`)
		}, keys: []host.Key{host.ChainKey(inetTable, "to_nat")}, gone: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := freshNFT(t)
			want := twoNetworks()
			mustApply(t, a, making(want))
			checkSeen(t, a, want) // and kept from here on, until somebody changes a rule
			c.change(t)
			drifted := nftOutput(t, "-s", "list", "ruleset")
			seen := mustObserve(t, a, nil)
			var different []host.Key
			for _, s := range plan.Diff(want, seen) {
				different = append(different, s.Key())
			}
			slices.SortFunc(different, host.Key.Compare)
			slices.SortFunc(c.keys, host.Key.Compare)
			if c.keys != nil && !slices.Equal(different, c.keys) {
				t.Fatalf("seen as different: %v, want %v", different, c.keys)
			}
			if len(different) == 0 {
				t.Fatal("nothing seen")
			}
			mustApply(t, a, plan.Diff(want, seen))
			checkSeen(t, a, want)
			if c.gone {
				return
			}
			mustApply(t, a, plan.Diff(seen, want))
			checkSeen(t, a, seen)
			lines := func(s string) []string {
				l := strings.Split(s, "\n")
				slices.Sort(l)
				return l
			}
			if diff := cmp.Diff(lines(drifted), lines(nftOutput(t, "-s", "list", "ruleset"))); diff != "" {
				t.Errorf("going back gave:\n%s", diff)
			}
		})
	}
}

// TestForgedUserData replaces a rule by another with our own user data on it.
func TestForgedUserData(t *testing.T) {
	a := freshNFT(t)
	honest := host.Chain{Table: inetTable, Name: "c", Rules: "ip saddr 10.0.0.1 drop"}
	mustApply(t, a, making(host.NewState(inetTable, honest)))
	rule, err := compileRule(inetTable.Family, "ip saddr 10.0.0.2 drop", nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := rule.expressions(inetTable.Family)
	if err != nil {
		t.Fatal(err)
	}
	rule.text = honest.Rules
	udata, err := rule.userData()
	if err != nil {
		t.Fatal(err)
	}
	forged := honest
	forged.Rules = foreignLine(honest.Rules, "", raw, udata)
	mustApply(t, a, []plan.Step{{Before: honest, After: forged}})
	if got := nftOutput(t, "list", "chain", "inet", ourTable, "c"); !strings.Contains(got, "10.0.0.2") {
		t.Fatalf("the rule is not forged:\n%s", got)
	}
	seen := mustObserve(t, a, []host.Key{honest.Key()})[honest.Key()].(host.Chain)
	if !strings.HasPrefix(seen.Rules, lineChanged+honest.Rules) {
		t.Errorf("a changed rule with its old text is seen as %q", seen.Rules)
	}
}

func TestAllOrNothing(t *testing.T) {
	a := freshNFT(t)
	want := twoNetworks()
	mustApply(t, a, making(want))
	before := nftOutput(t, "list", "ruleset")
	good := element("bridges", "virbr7", "")
	bad := map[string]host.Resource{
		"set that is not there":   element("nowhere", "virbr7", ""),
		"chain that is not there": element("from_guests", "virbr7", "jump nowhere"),
		"overlap":                 element("hidden4", "192.168.0.0/16", ""),
		"wrong type":              element("hidden4", "virbr7", ""),
		"other spelling":          element("hidden4", "10.0.0.1/32", ""),
		"host bits":               element("hidden4", "10.0.0.1/24", ""),
		"data in a set":           element("bridges", "virbr8", "accept"),
		"bad rule":                host.Chain{Table: inetTable, Name: "c", Rules: "no such word"},
		"unknown map":             host.Chain{Table: inetTable, Name: "c", Rules: "iifname vmap @nowhere"},
		"unknown chain":           host.Chain{Table: inetTable, Name: "c", Rules: "jump nowhere"},
		"loop":                    host.Chain{Table: inetTable, Name: "guest_services", Rules: "jump guest_services"},
		"unknown hook":            host.Chain{Table: inetTable, Name: "c", Type: "filter", Hook: "somewhere"},
		"unknown type":            host.Set{Table: inetTable, Name: "s", Type: "something"},
		"no table":                host.Set{Table: host.Table{Family: "inet", Name: "nowhere"}, Name: "s", Type: "ifname"},
	}
	for name, r := range bad {
		t.Run(name, func(t *testing.T) {
			err := a.apply(t.Context(), []plan.Step{{After: good}, {After: r}})
			if err == nil {
				t.Fatal("applied")
			}
			if !strings.Contains(err.Error(), r.Key().String()) && !strings.Contains(err.Error(), "nowhere") {
				t.Errorf("error does not say which step: %v", err)
			}
			if after := nftOutput(t, "list", "ruleset"); after != before {
				t.Errorf("something was done:\n%s", cmp.Diff(before, after))
			}
		})
	}
}

// TestInUse refuses to delete what is still referred to, and says so.
func TestInUse(t *testing.T) {
	a := freshNFT(t)
	want := twoNetworks()
	mustApply(t, a, making(want))
	err := a.apply(t.Context(), []plan.Step{{Before: want[host.ChainKey(inetTable, "from_nat")]}})
	if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "from_nat") {
		t.Errorf("deleting a chain in use: %v", err)
	}
	checkSeen(t, a, want)
}
