package linux

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/nettest"
	"drawbridge/internal/ruleset"
)

func spaced(words ...any) string { return strings.TrimSuffix(fmt.Sprintln(words...), "\n") }

// listedNow is what nft lists: tables, chains, rules and how many elements named sets have,
// each as a line.
func listedNow(t *testing.T) []string {
	t.Helper()
	var listing struct {
		Nftables []struct {
			Table *struct{ Family, Name string }
			Chain *struct {
				Family, Table, Name, Hook, Policy string
				Prio                              int
			}
			Rule *struct {
				Family, Table, Chain string
				Handle               uint64
			}
			Set, Map *struct {
				Family, Table, Name string
				Elem                []any
			}
		}
	}
	if err := json.Unmarshal([]byte(nftOutput(t, "-j", "list", "ruleset")), &listing); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, x := range listing.Nftables {
		switch {
		case x.Table != nil:
			lines = append(lines, x.Table.Family+" "+x.Table.Name)
		case x.Chain != nil:
			lines = append(lines, spaced(x.Chain.Family, x.Chain.Table, x.Chain.Name, x.Chain.Hook, x.Chain.Prio, x.Chain.Policy == "drop"))
		case x.Rule != nil:
			lines = append(lines, spaced(x.Rule.Family, x.Rule.Table, x.Rule.Chain, "rule", x.Rule.Handle))
		case x.Set != nil:
			lines = append(lines, spaced(x.Set.Family, x.Set.Table, x.Set.Name, "elements", len(x.Set.Elem)))
		case x.Map != nil:
			lines = append(lines, spaced(x.Map.Family, x.Map.Table, x.Map.Name, "elements", len(x.Map.Elem)))
		}
	}
	slices.Sort(lines)
	return lines
}

// linesOf are the same of what was read.
func linesOf(t *testing.T, r *ruleset.Ruleset) []string {
	t.Helper()
	var lines []string
	for _, table := range r.Tables {
		lines = append(lines, table.String())
		for _, c := range table.Chains {
			lines = append(lines, spaced(table.Family, table.Name, c.Name, c.Hook, c.Priority, c.Drop))
			for _, rule := range c.Rules {
				lines = append(lines, spaced(table.Family, table.Name, c.Name, "rule", rule.Handle))
			}
		}
		for _, s := range table.Sets {
			if s.Anonymous {
				continue
			}
			all, partial := s.All()
			if partial {
				t.Errorf("set %s %s was read in part", table, s.Name)
			}
			lines = append(lines, spaced(table.Family, table.Name, s.Name, "elements", len(all)))
		}
	}
	slices.Sort(lines)
	return lines
}

// asked asks as the daemon does.
func asked(t *testing.T, a *nftAdapter) *ruleset.Ruleset {
	t.Helper()
	r, err := a.everything(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sameAsNow fails unless a says what nft lists and what is read by somebody who has kept
// nothing, down to the text of each rule.
func sameAsNow(t *testing.T, a *nftAdapter, after string) {
	t.Helper()
	r := asked(t, a)
	if want, have := listedNow(t), linesOf(t, r); !slices.Equal(want, have) {
		t.Errorf("after %q nft lists\n%s\nand asked for are\n%s", after, strings.Join(want, "\n"), strings.Join(have, "\n"))
	}
	other, err := newNFT()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if want, have := wordsOf(asked(t, other)), wordsOf(r); !slices.Equal(want, have) {
		t.Errorf("after %q anew are read\n%s\nand asked for are\n%s", after, strings.Join(want, "\n"), strings.Join(have, "\n"))
	}
}

// wordsOf is what nft does not list as data: the devices of chains, and what rules do.
func wordsOf(r *ruleset.Ruleset) []string {
	var words []string
	for _, table := range r.Tables {
		for _, c := range table.Chains {
			words = append(words, spaced(c, c.Devices, table.Dormant, table.Owned))
		}
	}
	return append(words, textsOf(r)...)
}

// keeps says whether a gives what it had read before.
func keeps(t *testing.T, a *nftAdapter) bool {
	t.Helper()
	one, other := asked(t, a).Tables, asked(t, a).Tables
	return len(one) > 0 && len(one) == len(other) && one[0] == other[0]
}

// TestKeptRulesAreThoseThatAreThere has other programs change rules in every way between
// two questions.
func TestKeptRulesAreThoseThatAreThere(t *testing.T) {
	a := freshNFT(t)
	nettest.Need(t, nettest.Namespace, "nft", "ip", "iptables-nft", "iptables-nft-restore")
	shell(t, "ip link set lo up; ip link add kd0 type veth peer name kd1; ip link add kd2 type veth peer name kd3")
	nftFile(t, everyFamily)
	sameAsNow(t, a, "the beginning")
	for _, line := range []string{
		"nft insert rule inet three forw ip saddr 10.9.0.0/16 drop",
		"nft add rule ip one sub tcp dport 99 accept",
		`nft replace rule ip6 two in handle $(nft -a list chain ip6 two in | sed -n 's/.*accept # handle //p') tcp dport { 23, 81 } drop`,
		`nft delete rule bridge four p handle $(nft -a list chain bridge four p | sed -n 's/.*drop # handle //p')`,
		`nft add element inet three names '{ "virbr7", "virbr8" }'`,
		`nft delete element inet three names '{ "virbr0" }'`,
		"nft flush set inet three names",
		"nft add element inet three m '{ 10.0.9.0/24 . 1-9 : jump sub }'",
		"nft 'delete table ip one; add table ip one'",
		"nft 'add chain inet three forw { policy drop; }'",
		"nft rename chain inet three forw fwd2",
		"nft add table inet three '{ flags dormant; }'",
		"nft add table inet three '{ }'",
		"nft add chain netdev six dev '{ type filter hook ingress devices = { kd0, kd2 } priority 0; }'",
		"nft add rule netdev six dev ip saddr 192.0.2.9 drop",
		// The kernel makes no generation of this.
		"ip link del kd0",
		"ip link add kd0 type veth peer name kd1",
		// As Docker does.
		"iptables-nft-restore <<'X'\n*filter\n:FORWARD ACCEPT\n:DOCKER-USER -\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\nCOMMIT\nX",
		"iptables-nft -I DOCKER-USER -s 172.17.0.0/16 -p tcp --dport 80 -m conntrack --ctstate NEW -j DROP",
		"iptables-nft -P FORWARD DROP",
		"iptables-nft -D DOCKER-USER -s 172.17.0.0/16 -p tcp --dport 80 -m conntrack --ctstate NEW -j DROP",
		"nft flush ruleset",
		"nft add table inet again",
	} {
		shell(t, line)
		sameAsNow(t, a, line)
		if len(a.whole.kept.rules.Tables) > 0 && !keeps(t, a) {
			t.Errorf("after %q all is read for each question", line)
		}
	}
}

// ownedBy is a table of a program that lives, "nft -i", whose end takes it along; end ends it.
func ownedBy(t *testing.T, table string) (end func()) {
	t.Helper()
	cmd := exec.Command("nft", "-i")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // that it was killed is known
	}
	t.Cleanup(end)
	_, err = io.WriteString(in, "add table inet "+table+" { flags owner; }\nadd chain inet "+table+" f { type filter hook forward priority 0; policy drop; }\n")
	if err != nil {
		t.Fatal(err)
	}
	within(t, "table "+table+" of another program", func() bool { return strings.Contains(nftOutput(t, "list", "ruleset"), "policy drop") })
	return end
}

// within asks, at nft's own pace, until something is so.
func within(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !so(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// The kernel drops the table of a program that ends without another generation.
func TestKeptRulesGoWithTheirOwner(t *testing.T) {
	a := freshNFT(t)
	nftFile(t, "table inet stays {\nchain f {\ntype filter hook forward priority 5; policy accept;\n}\n}\n")
	end := ownedBy(t, "mine")
	sameAsNow(t, a, "the beginning")
	packet := diagnose.NewConnection("a0", netip.MustParseAddr("10.0.0.1"), 6, netip.MustParseAddr("10.0.0.2"), 80)
	at := diagnose.At{Hook: "forward"}
	if r := asked(t, a); !keeps(t, a) || !r.Table("inet", "mine").Owned || diagnose.Walk(r, nil, at, packet).Kind != diagnose.Dropped {
		t.Fatalf("with the table of a program that lives: %v", linesOf(t, r))
	}
	before, err := a.sock.generation()
	if err != nil {
		t.Fatal(err)
	}
	end()
	sameAsNow(t, a, "the owner's end")
	if v := diagnose.Walk(asked(t, a), nil, at, packet); v.Kind != diagnose.Accepted {
		t.Errorf("when its owner ended the walk says %s", v)
	}
	if now, err := a.sock.generation(); err != nil || now != before {
		t.Errorf("the generation is %d, was %d: this kernel tells, and nothing was tested (%v)", now, before, err)
	}
	// Another of the same name, within the same generation's reach.
	ownedBy(t, "mine")
	sameAsNow(t, a, "another owner")
}

// send sends two packets from loopback to loopback.
func send(t *testing.T, to string) {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 2 {
		if _, err := conn.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
			t.Fatal(err)
		}
	}
}

// What packets do to sets and counters is in no generation.
func TestKeptRulesReadAnewWhatPacketsChange(t *testing.T) {
	a := freshNFT(t)
	nettest.Need(t, nettest.Namespace, "nft", "ip")
	shell(t, "ip link set lo up")
	nftFile(t, `table ip t {
  set marked { type ipv4_addr; flags dynamic; }
  set timed { type ipv4_addr; flags timeout; }
  set plain { type ipv4_addr; }
  set calm { type ipv4_addr; elements = { 192.0.2.1 } }
  chain in {
    type filter hook input priority 0; policy accept;
    ip daddr @timed counter drop
    ip daddr { 127.0.0.4, 127.0.0.5 } counter
    ip daddr @calm drop
    ip daddr @marked drop
    ip daddr @plain drop
  }
  chain out { type filter hook output priority 0; policy accept; }
}
`)
	// By themselves: nft would mark the set.
	nftOutput(t, "add", "rule", "ip", "t", "out", "ip daddr 127.0.0.2 update @marked { ip daddr }")
	nftOutput(t, "add", "rule", "ip", "t", "out", "ip daddr 127.0.0.3 add @plain { ip daddr }")
	nftOutput(t, "add", "element", "ip", "t", "timed", "{ 127.0.0.9 timeout 1s }")
	said := func(to string) diagnose.Verdict {
		t.Helper()
		p := diagnose.NewConnection("lo", netip.MustParseAddr("127.0.0.1"), 17, netip.MustParseAddr(to), 9)
		return diagnose.Walk(asked(t, a), nil, diagnose.At{Hook: "input"}, p)
	}
	for to, want := range map[string]diagnose.Kind{"127.0.0.2": diagnose.Accepted, "127.0.0.3": diagnose.Accepted, "127.0.0.9": diagnose.Dropped} {
		if got := said(to); got.Kind != want {
			t.Errorf("before any packet what goes to %s is %s, not %s", to, got, want)
		}
	}
	before := a.whole.kept
	for _, to := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"} {
		send(t, to+":9")
		sameAsNow(t, a, "packets to "+to)
	}
	for _, to := range []string{"127.0.0.2", "127.0.0.3"} {
		if got := said(to); got.Kind != diagnose.Dropped {
			t.Errorf("when a packet put %s into a set the walk says %s", to, got)
		}
	}
	within(t, "the end of an element's time", func() bool { return !strings.Contains(nftOutput(t, "list", "set", "ip", "t", "timed"), "127.0.0.9") })
	if got := said("127.0.0.9"); got.Kind != diagnose.Accepted {
		t.Errorf("when its time has run out the walk says %s: %s", got, nftOutput(t, "list", "ruleset"))
	}
	r := asked(t, a)
	listed := nftOutput(t, "list", "chain", "ip", "t", "in")
	if text := r.Table("ip", "t").Chain("in").Rules[1].String(); !strings.Contains(text, "counter packets 2 ") || !strings.Contains(listed, "counter packets 2 ") {
		t.Errorf("the rule is written %q, and nft lists\n%s", text, listed)
	}
	// All that with what was read once.
	if a.whole.kept.rules != before.rules {
		t.Error("the rules were read anew, and nothing was tested")
	}
	sets := maps.Collect(maps.All(r.Table("ip", "t").Sets))
	if sets["calm"].Read != nil || sets["plain"].Read == nil || sets["marked"].Read == nil || sets["timed"].Read == nil {
		t.Error("what is read for each question are not the sets that packets change")
	}
}

// What is too large is read for each question, and not kept.
func TestKeptRulesAreBounded(t *testing.T) {
	a := freshNFT(t)
	nftFile(t, manyRules())
	big := func() int { all, _ := asked(t, a).Table("inet", "foreign").Sets["big"].All(); return len(all) }
	if n := big(); n != 30_000 || keeps(t, a) {
		t.Errorf("%d elements are there, and all is kept or some were not read", n)
	}
	nftOutput(t, "flush", "set", "inet", "foreign", "big")
	if n := big(); n != 0 || !keeps(t, a) {
		t.Errorf("%d elements are there, and the rest is not kept or is old", n)
	}
}

// Kernels before 6.16 forget a device that goes, and its chain, without another generation.
func TestKeptRulesGoWithTheirDevice(t *testing.T) {
	with := nettest.Inside{Modules: []string{"veth", "nf_tables"}, Programs: []string{"nft"}}
	nettest.InGuest(t, with, func(t *testing.T) {
		a := freshNFT(t)
		shell(t, "ip link add kd0 type veth peer name kd1; ip link add kd2 type veth peer name kd3")
		for _, devices := range []string{"kd0", "kd0, kd2"} {
			nftFile(t, "table netdev t"+devices[len(devices)-1:]+" {\nchain g {\ntype filter hook ingress devices = { "+devices+" } priority 0; policy drop;\n}\n}\n")
		}
		nftFile(t, "table inet other { }\n")
		sameAsNow(t, a, "the beginning")
		before := a.whole.kept
		for _, line := range []string{"ip link del kd0", "ip link add kd0 type veth peer name kd1", "ip link del kd2"} {
			shell(t, line)
			sameAsNow(t, a, line)
		}
		if now := a.whole.kept; now.rules == before.rules || now.generation != before.generation {
			t.Errorf("nothing went with the devices, or this kernel told it by a generation: nothing was tested (%d, %d)", before.generation, now.generation)
		}
	})
}
