package linux

import (
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/host"
	"drawbridge/internal/nettest"
	"drawbridge/internal/plan"
	"drawbridge/internal/render"
)

var (
	topologies     = flag.Int("explain.topologies", 60, "how many random topologies are tried")
	questions      = flag.Int("explain.questions", 1, "how many questions are asked on each")
	vlanTopologies = flag.Int("explain.vlans", 4, "how many random bridges with VLANs are tried")
	keepOn         = flag.Bool("explain.keep-on", false, "go on after a disagreement")
)

// Explain's verdict is what happens to packets, and the rule that it names is
// the one that ended them: that one's own counter says so.
func TestExplainAgreesWithPackets(t *testing.T) {
	rnd, _ := walkRandom(t)
	c := newCountry(t, rnd)
	www := t.TempDir()
	if out, err := exec.Command("sh", "-c", whoScript(www, "host")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	server := exec.Command("busybox", "httpd", "-f", "-p", "80", "-h", www)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	var asked, unknown, delivered, named, large int
	begin := time.Now()
	for n := range *topologies {
		c.build()
		for range pick(rnd, 0, 1, 1, 2, 2, 3) {
			c.sabotage()
		}
		for range *questions {
			q := c.ask()
			c.forgetNeighbours()
			s, err := c.host.Scene(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s.Guests = c.ends
			said := diagnose.Explain(s, q)
			before, byRule := c.counted(said)
			did, answer := c.really(q, said.Kind == diagnose.Accepted)
			wrong := ""
			asked++
			switch {
			case said.Kind == diagnose.Unknown:
				unknown++
				t.Logf("unknown: %s (it arrived: %v)", said.Sentence, did)
			case (said.Kind == diagnose.Accepted) != did:
				wrong = fmt.Sprintf("it arrived: %v", did)
			case did:
				delivered++
				wrong = c.misled(said, answer)
				if wrong == "" && c.narrow && q.Port == 0 {
					large++
					wrong = c.tooLarge(q, said)
				}
			case byRule:
				named++
				if after, _ := c.counted(said); after == before {
					wrong = "the rule that is named saw no packet"
				}
			}
			if wrong != "" {
				text := fmt.Sprintf("topology %d: said: %s\n%s\nasked: %+v\nbridged %v, isolated %v, wan %v\nends: %+v\nfaults: %q\nsteps: %s", n, said.Sentence, wrong, q, c.bridged, c.isolated, c.hasWAN, c.ends, c.faults, stepsText(said))
				if !*keepOn {
					t.Fatal(text)
				}
				t.Error(text)
			}
		}
	}
	t.Logf("%d questions on %d topologies: %d delivered (%d with a narrow place), %d not (%d by a rule that counts), %d unknown; %s", asked, *topologies, delivered, large, asked-delivered-unknown, named, unknown, time.Since(begin).Round(time.Second))
	if unknown*5 > asked {
		t.Errorf("%d of %d are unknown", unknown, asked)
	}
}

// tooLarge sends what just passes, and what does not.
func (c *country) tooLarge(q diagnose.PathQuestion, said diagnose.Answer) string {
	headers := 28
	if q.To.Addr.Is6() {
		headers = 48
	}
	ping := func(size int) bool {
		args := []string{"-n", "-c", "1", "-W", "1", "-M", "do", "-s", fmt.Sprint(size - headers), q.To.Addr.String()}
		if q.From.Name == "wan" {
			args = append(args, "-I", q.From.Addr.String())
		}
		for range 2 {
			if _, err := c.run(q.From, "ping", args...); err == nil {
				return true
			}
		}
		return false
	}
	// Links of veth pass four bytes more than their MTU, for a tag.
	switch {
	case !ping(said.MTU):
		return fmt.Sprintf("a packet of %d bytes does not pass, and the MTU was said to be that", said.MTU)
	case said.MTU < 1500 && ping(said.MTU+8):
		return fmt.Sprintf("a packet of %d bytes passes, and the MTU was said to be %d", said.MTU+8, said.MTU)
	}
	return ""
}

func stepsText(a diagnose.Answer) string {
	var b strings.Builder
	for _, s := range a.Steps {
		way := "there"
		if s.Back {
			way = "back"
		}
		fmt.Fprintf(&b, "\n  %-5s %-9s %s: %s", way, s.Kind, s.Where, s.What)
	}
	return b.String()
}

// BenchmarkExplainOnAFullHost is a host with 100 networks, 1000 ports and ten
// thousand rules of others on the way.
func BenchmarkExplainOnAFullHost(b *testing.B) {
	nettest.Need(b, nettest.Namespace, nettest.Root, "ip", nettest.Tun)
	a := freshNFT(b)
	var lines []string
	want := host.NewState(render.Ruleset()...)
	for i := range 100 {
		br := fmt.Sprintf("br%d", i)
		lines = append(lines, "link add "+br+" type bridge forward_delay 0", "link set "+br+" up", fmt.Sprintf("address add 10.%d.0.1/24 dev %s", i, br))
		want.Add(element("bridges", br, ""), element("from_guests", br, "jump from_nat"), element("to_guests", br, "jump to_nat"),
			element("sources4", fmt.Sprintf("%s . 10.%d.0.0/24", br, i), ""), element("hidden4", fmt.Sprintf("10.%d.0.0/24", i), ""))
	}
	var ends []diagnose.End
	for i := range 1000 {
		tap, n := fmt.Sprintf("tap%d", i), i%100
		lines = append(lines, "tuntap add "+tap+" mode tap", fmt.Sprintf("link set %s up master br%d", tap, n))
		want.Add(host.Element{Table: bridgeTable, Set: "ports", Value: tap})
		ends = append(ends, diagnose.End{Kind: diagnose.Guest, Name: tap, Addr: netip.MustParseAddr(fmt.Sprintf("10.%d.0.%d", n, 10+i/100)), MAC: fmt.Sprintf("52:54:00:00:%02x:%02x", i/256, i%256),
			Port: tap, Bridge: fmt.Sprintf("br%d", n), Plugged: true, Subnet: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", n)), Gateway: netip.MustParseAddr(fmt.Sprintf("10.%d.0.1", n))})
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	b.Cleanup(func() {
		for i := range 100 {
			exec.Command("ip", "link", "del", fmt.Sprintf("br%d", i)).Run()
		}
		for i := range 1000 {
			exec.Command("ip", "link", "del", fmt.Sprintf("tap%d", i)).Run()
		}
	})
	if err := a.apply(b.Context(), plan.Diff(want, host.State{})); err != nil {
		b.Fatal(err)
	}
	fillForeign(b)
	h, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	for b.Loop() {
		s, err := h.Scene(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		s.Guests = ends
		if said := diagnose.Explain(s, diagnose.PathQuestion{From: ends[0], To: ends[501], Proto: 6, Port: 80}); len(said.Steps) == 0 {
			b.Fatal("nothing was said")
		}
	}
}

// fillForeign loads rules of two other firewalls that every forwarded packet
// meets and none is about it.
func fillForeign(b *testing.B) {
	b.Helper()
	var nft, ipt strings.Builder
	nft.WriteString("table inet site {\nchain forward {\ntype filter hook forward priority 0; policy accept;\n")
	for i := range 6000 {
		fmt.Fprintf(&nft, "ip saddr 172.16.%d.%d tcp dport %d counter drop comment \"customer %d\"\n", i/250, i%250, 1024+i, i)
	}
	nft.WriteString("}\n}\n")
	ipt.WriteString("*filter\n:FORWARD ACCEPT [0:0]\n")
	for i := range 4000 {
		fmt.Fprintf(&ipt, "-A FORWARD -s 172.20.%d.%d/32 -p tcp -m tcp --dport %d -m comment --comment \"customer %d\" -j DROP\n", i/250, i%250, 1024+i, i)
	}
	ipt.WriteString("COMMIT\n")
	for program, text := range map[string]string{"nft": nft.String(), "iptables-nft-restore": ipt.String()} {
		if out, err := feed(program, text); err != nil {
			b.Fatalf("%s: %v: %s", program, err, out)
		}
	}
}
