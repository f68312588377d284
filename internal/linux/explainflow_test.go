package linux

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/diagnose"
)

// talk is a connection to an echo server that is kept open.
type talk struct {
	t    *testing.T
	in   io.WriteCloser
	said *bufio.Scanner
	back chan string
}

func (c *country) talk(from diagnose.End, to string, port int) *talk {
	c.t.Helper()
	cmd := c.node(from).Command(c.t.Context(), "busybox", "nc", to, fmt.Sprint(port))
	in, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	k := &talk{t: c.t, in: in, said: bufio.NewScanner(out), back: make(chan string, 16)}
	go func() {
		for k.said.Scan() {
			k.back <- k.said.Text()
		}
	}()
	return k
}

// answers says a line and whether it comes back in time.
func (k *talk) answers(line string, wait time.Duration) bool {
	k.t.Helper()
	if _, err := fmt.Fprintln(k.in, line); err != nil {
		return false
	}
	select {
	case got := <-k.back:
		return got == line
	case <-time.After(wait):
		return false
	}
}

// What holds for a new connection need not for one that is there: rules ask for
// its state, and its translation is that of its beginning. Both are said, and
// both are so.
func TestExplainTellsFlowsFromNewConnections(t *testing.T) {
	rnd, _ := walkRandom(t)
	c := newCountry(t, rnd)
	const dnat = "table ip foreign9 {\nchain c {\ntype nat hook prerouting priority -110;\nip daddr 192.168.99.66 tcp dport 9090 dnat to %s:7\n}\n}\n"
	lan := diagnose.End{Kind: diagnose.Outside, Name: "lan", Addr: netip.MustParseAddr("192.168.99.1")}
	self := diagnose.End{Kind: diagnose.Itself, Name: "host", Addr: netip.MustParseAddr("192.168.99.66")}
	for _, test := range []struct {
		name   string
		begin  string // rules when the connection begins
		then   string // rules that come then
		toLAN  bool   // from a guest to the LAN, else from the LAN to a forward
		fresh  diagnose.Kind
		flow   diagnose.Kind
		reason string
	}{
		{"nothing happened", "", "", true, diagnose.Accepted, diagnose.Accepted, ""},
		{"no new ones", "", "table inet foreign1 {\nchain c {\ntype filter hook forward priority 5;\nct state new drop\n}\n}\n", true, diagnose.Dropped, diagnose.Accepted, "an established connection is there"},
		{"no established ones", "", "table inet foreign1 {\nchain c {\ntype filter hook forward priority 5;\nct direction original ct state established tcp flags & syn == 0 drop\n}\n}\n", true, diagnose.Dropped, diagnose.Dropped, "is answered, and what follows ends at inet foreign1 c"},
		{"all are rejected", "", "table inet foreign1 {\nchain c {\ntype filter hook forward priority 5;\nmeta l4proto tcp drop\n}\n}\n", true, diagnose.Dropped, diagnose.Dropped, ""},
		{"answered flows are spared", "", "table inet foreign1 {\nchain c {\ntype filter hook forward priority 5;\nct status & seen-reply == 0 drop\n}\n}\n", true, diagnose.Dropped, diagnose.Accepted, "goes on to pass"},
		{"the forward leads elsewhere now", fmt.Sprintf(dnat, "192.168.122.10"), "delete table ip foreign9\n" + fmt.Sprintf(dnat, "192.168.122.12"), false, diagnose.Accepted, diagnose.Accepted, "goes on to 192.168.122.10, as it was translated when it began"},
		{"the forward is gone", fmt.Sprintf(dnat, "192.168.122.10"), "delete table ip foreign9\n", false, diagnose.Rejected, diagnose.Accepted, "goes on to pass"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.t = t
			c.build()
			for c.bridged || c.isolated || len(c.nodesIn()) < 3 || len(c.ends) != 2*len(c.nodesIn()) {
				c.build()
			}
			load := func(text string) {
				if out, err := feed("nft", text); text != "" && err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			load(test.begin)
			q := diagnose.PathQuestion{From: c.ends[0], To: lan, Proto: 6, Port: 7}
			if !test.toLAN {
				q = diagnose.PathQuestion{From: lan, To: self, Proto: 6, Port: 9090}
			}
			exec.Command("conntrack", "-F").Run()
			k := c.talk(q.From, q.To.Addr.String(), int(q.Port))
			if !k.answers("hello", 10*time.Second) {
				t.Fatal("there is no connection to begin with")
			}
			load(test.then)
			s, err := c.host.Scene(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s.Guests = c.ends
			said := diagnose.Explain(s, q)
			if said.Kind != test.fresh || said.Flow == nil || said.Flow.Kind != test.flow || !strings.Contains(said.Sentence, test.reason) {
				t.Fatalf("said: %+v\nflow: %+v\nsteps: %s", said.Sentence, said.Flow, stepsText(said))
			}
			wait := 1500 * time.Millisecond
			if said.Flow.Kind == diagnose.Accepted {
				wait = 10 * time.Second
			}
			if did := k.answers("and again", wait); did != (said.Flow.Kind == diagnose.Accepted) {
				t.Errorf("of the connection was said %q, and it answers: %v\nsteps: %s", said.Flow.Sentence, did, stepsText(diagnose.Answer{Steps: said.Flow.Steps}))
			}
			fresh := c.talk(q.From, q.To.Addr.String(), int(q.Port))
			if did := fresh.answers("new", wait); did != (said.Kind == diagnose.Accepted) {
				t.Errorf("of a new one was said %q, and it answers: %v", said.Sentence, did)
			}
		})
	}
}

// nodesIn are the guests that this topology has.
func (c *country) nodesIn() map[string]bool {
	names := map[string]bool{}
	for _, e := range c.ends {
		names[e.Name] = true
	}
	return names
}
