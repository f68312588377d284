package topology

import (
	"encoding/xml"
	"io"
	"path/filepath"
	"strings"
	"testing"
)

// paths are drawn in golden files.
func paths() map[string]Path {
	there := []Hop{
		{Place: AtPort, Where: "port vnet0", What: "ubuntu-cloud's port, up, in bridge virbr0", Verdict: Accepted},
		{Place: AtRoute, Where: "route", What: "to 198.51.100.7 by enp6s18 via 192.168.99.1", Verdict: Accepted},
		{Place: AtChain, Where: "ip filter FORWARD", What: "iifname \"virbr0\" counter packets 1 bytes 84 accept # handle 17", Owner: "docker", Verdict: Accepted},
		{Place: AtChain, Where: "inet drawbridge forward", What: "ip saddr @subnets iifname . ip saddr @guests accept # handle 9", Verdict: Accepted},
		{Place: AtNAT, Where: "NAT", What: "the source becomes 192.168.99.66", Verdict: Accepted},
		{Place: AtLink, Where: "link enp6s18", What: "goes out to 192.168.99.1", Verdict: Accepted},
	}
	back := []Hop{
		{Place: AtRoute, Back: true, Where: "route", What: "to 192.168.122.57 by virbr0", Verdict: Accepted},
		{Place: AtChain, Back: true, Where: "inet drawbridge forward", What: "ct state established,related accept # handle 8", Verdict: Accepted},
		{Place: AtPort, Back: true, Where: "port vnet0", What: "goes out to 192.168.122.57", Verdict: Accepted},
	}
	all := func(lists ...[]Hop) []Hop {
		var out []Hop
		for _, l := range lists {
			out = append(out, l...)
		}
		return out
	}
	dropped := Hop{
		Place: AtChain, Where: "inet lockdown forward", What: `iifname "virbr*" meta l4proto { icmp, icmpv6, tcp, udp } counter packets 3 bytes 252 log prefix "a prefix that is long: " drop # handle 4`,
		Owner: "unknown program", Verdict: Dropped,
	}
	lost := dropped
	lost.Back, lost.Verdict = true, Rejected
	return map[string]Path{
		"path-delivered": {From: "ubuntu-cloud", To: "internet:443", Verdict: Accepted, Hops: all(there, back), Sentence: "a connection to port 443 from ubuntu-cloud reaches internet, and the answer comes back"},
		"path-dropped": {
			From: "ubuntu-cloud", To: "internet", Verdict: Dropped, Hops: all(there[:2], []Hop{dropped}), Mend: "nft delete rule inet lockdown forward handle 4",
			Sentence: "a ping from ubuntu-cloud to internet ends at inet lockdown forward: " + dropped.What,
		},
		"path-no-answer": {
			From: "ubuntu-cloud", To: "internet", Verdict: Rejected, Hops: all(there, back[:1], []Hop{lost}), Mend: "nft delete rule inet lockdown forward handle 4",
			Sentence: "the answer of internet to ubuntu-cloud is refused at inet lockdown forward",
		},
		"path-unknown": {
			From: "lan", To: "web:80", Verdict: Undecided, Hops: []Hop{{Place: AtBridge, Where: "bridge br0", What: "behind which port 192.168.99.7 is was not learnt", Verdict: Undecided}},
			Sentence: "what becomes of a connection to port 80 from lan to web is not known at bridge br0",
		},
		"path-nowhere": {From: "host", To: "x", Verdict: Dropped, Sentence: "x has no address"},
		"path-hostile": {
			From: "</text><script>alert(1)</script>", To: "a\x1b[31m\u202e\"'&b", Verdict: Dropped, Mend: "]]></style><script>x</script>", Sentence: "<img src=x onerror=alert(1)> " + strings.Repeat("long", 200),
			Hops: []Hop{{Place: AtPort, Where: "\"/><script>", What: "<!-- " + strings.Repeat("宽", 300), Owner: "<b>", Verdict: Dropped}},
		},
	}
}

func TestPathPictures(t *testing.T) {
	for name, p := range paths() {
		t.Run(name, func(t *testing.T) {
			for file, width := range map[string]int{"picture.svg": 0, "narrow.svg": 360} {
				drawn := PathSVG(p, PathOptions{Width: width})
				golden(t, filepath.Join("testdata", name, file), drawn)
				checkFile(t, drawn)
			}
		})
	}
}

// checkFile reads a drawing as a browser would: it is well formed, and nothing in it
// runs or leads elsewhere.
func checkFile(t *testing.T, drawn string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(drawn))
	for {
		token, err := d.Token()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatalf("it is no XML: %v", err)
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if !strings.Contains(" svg style rect path g title text circle ", " "+e.Name.Local+" ") {
			t.Errorf("there is a <%s> in it", e.Name.Local)
		}
		for _, a := range e.Attr {
			if strings.HasPrefix(a.Name.Local, "on") || strings.Contains(a.Name.Local, "href") {
				t.Errorf("there is an attribute %s in it", a.Name.Local)
			}
		}
	}
}

// Where it ends is told in words, and so is what mends it, however narrow it is.
func TestPathsTellWhereTheyEnd(t *testing.T) {
	for _, width := range []int{0, 1, 280, 360, 700, 5000} {
		drawn := PathSVG(paths()["path-dropped"], PathOptions{Width: width})
		for _, want := range []string{"inet lockdown forward", "dropped by unknown", "what mends it", "nft delete rule"} {
			if !strings.Contains(drawn, want) {
				t.Errorf("%d pixels: %q is not in it", width, want)
			}
		}
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		text        string
		most, lines int
		want        string
	}{
		{"a bc def", 4, 9, "a bc|def"}, {"abcdefghij k", 4, 9, "abcd|efgh|ij k"}, {"", 4, 9, ""}, {"a b c d e f", 3, 2, "a b|c …"},
		{"宽宽宽", 4, 9, "宽宽|宽"}, {"宽", 1, 9, "宽"}, {"  a   b ", 9, 1, "a b"},
	} {
		if got := strings.Join(wrap(c.text, c.most, c.lines), "|"); got != c.want {
			t.Errorf("%q in %d cells: %q, want %q", c.text, c.most, got, c.want)
		}
	}
}
