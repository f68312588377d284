package topology

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"drawbridge/internal/host"
)

func boxes(g Graph) map[string]Box {
	out := map[string]Box{}
	for _, n := range g.Nodes {
		if n.Box.W > 0 {
			out[n.ID] = n.Box
		}
	}
	return out
}

// One more guest moves nobody; where it opens a row, what is below moves down by
// that row and nothing moves sideways.
func TestOneMoreGuestMovesNobody(t *testing.T) {
	before := boxes(Layout(Build(guests(4)), Options{}))
	for n := 5; n < 60; n++ {
		after := boxes(Layout(Build(guests(n)), Options{}))
		down := map[int]bool{}
		for id, b := range before {
			a, there := after[id]
			if !there || n == 5 || strings.HasPrefix(id, "port:") { // from then on there are doors and further NICs; ports are on their guests
				continue
			}
			// A rail grows until all columns are in use.
			if a.X != b.X || a.H != b.H || a.W != b.W && !strings.HasPrefix(id, "bridge:") {
				t.Fatalf("guest %d: %s went from %v to %v", n, id, b, a)
			}
			down[a.Y-b.Y] = true
		}
		delete(down, 0)
		delete(down, rowH)
		if len(down) > 0 && n > 5 {
			t.Fatalf("guest %d: things moved by %v", n, down)
		}
		before = after
	}
}

// A guest that goes and comes again leaves the picture as it was, and the order in
// which the caller tells of ports does not matter.
func TestTheOrderOfPortsIsTheirOwn(t *testing.T) {
	in := guests(30)
	want := SVG(Layout(Build(in), Options{}))
	for i, j := 0, len(in.Ports)-1; i < j; i, j = i+1, j-1 {
		in.Ports[i], in.Ports[j] = in.Ports[j], in.Ports[i]
	}
	if got := SVG(Layout(Build(in), Options{})); got != want {
		t.Error("the picture follows the order in which ports are told")
	}
}

// anyHost is a host of networks, guests with one or more NICs, and bridges of
// others, in any number.
func anyHost(t *rapid.T) Input {
	s := newScene()
	bridges := []string{}
	for i := range rapid.IntRange(0, 4).Draw(t, "networks") {
		mode := rapid.SampledFrom([]string{"nat", "isolated", "bridged"}).Draw(t, "mode")
		n := network(fmt.Sprintf("n%d", i), mode, fmt.Sprintf("virbr%d", i), fmt.Sprintf("10.%d.0.0/24", i), true)
		s.network(n)
		bridges = append(bridges, n.Bridge)
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "foreign") {
		name := fmt.Sprintf("docker%d", i)
		s.State.Add(nic(name, typed(host.TypeBridge)))
		bridges = append(bridges, name)
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "nics") {
		s.State.Add(nic(fmt.Sprintf("eno%d", i)), addr(fmt.Sprintf("eno%d", i), fmt.Sprintf("172.16.%d.1/24", i)))
		if rapid.Bool().Draw(t, "vlan") {
			v := fmt.Sprintf("eno%d.7", i)
			s.State.Add(nic(v, vlanOn(fmt.Sprintf("eno%d", i))), addr(v, fmt.Sprintf("172.17.%d.1/24", i)))
		}
	}
	for i := range rapid.IntRange(0, 90).Draw(t, "ports") {
		if len(bridges) == 0 {
			break
		}
		// Fewer names than ports: some guests have several NICs.
		name := fmt.Sprintf("g%d", rapid.IntRange(0, 60).Draw(t, "guest"))
		s.guest(rapid.SampledFrom(bridges).Draw(t, "bridge"), name, fmt.Sprintf("10.0.0.%d", i))
	}
	for i := range rapid.IntRange(0, 40).Draw(t, "doors") {
		s.door(fmt.Sprintf("tcp/%d", i), fmt.Sprint(i), "g1:80", "g1", "", "")
	}
	return s.Input
}

// Nothing covers another: cards, doors, LANs, NICs and rails have their own
// ground, and everything is within the picture; what has no place is folded.
func TestNothingCoversAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := Options{Columns: rapid.IntRange(0, 12).Draw(t, "columns"), Fold: rapid.SampledFrom([]int{0, -1, 5}).Draw(t, "fold")}
		g := Layout(Build(anyHost(t)), o)
		var solid []Node
		for _, n := range g.Nodes {
			if n.Box.W == 0 {
				if n.Folded == "" {
					t.Fatalf("%s has no place and is in no fold", n.ID)
				}
				continue
			}
			if n.Box.X < 0 || n.Box.Y < 0 || n.Box.Right() > g.Width || n.Box.Bottom() > g.Height {
				t.Fatalf("%s at %v is not in the picture of %d x %d", n.ID, n.Box, g.Width, g.Height)
			}
			if n.Kind != KindPort { // a pill sits on its card
				solid = append(solid, n)
			}
		}
		for i, a := range solid {
			for _, b := range solid[i+1:] {
				if a.Box.X < b.Box.Right() && b.Box.X < a.Box.Right() && a.Box.Y < b.Box.Bottom() && b.Box.Y < a.Box.Bottom() {
					t.Fatalf("%s at %v covers %s at %v", a.ID, a.Box, b.ID, b.Box)
				}
			}
		}
		for _, e := range g.Edges {
			for _, p := range e.Path {
				if p.X < 0 || p.Y < 0 || p.X > g.Width || p.Y > g.Height {
					t.Fatalf("%s goes through %v, out of the picture", e.ID, p)
				}
			}
		}
	})
}

// hostileName is what a guest may call itself, as far as it gets.
func hostileName() *rapid.Generator[string] {
	return rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
		`"><script>alert(1)</script>`, "]]>", "<!--", "&lt;x", "'onload=alert(1)", "\x1b]0;x\x07", "\u202egnp.exe", "日本語のとても長い名前のゲスト", "🦊🦊🦊🦊🦊🦊🦊🦊🦊🦊🦊🦊🦊",
		"a\"]\n  click n0 href \"javascript:alert(1)\"", "end", "\xff\xfe", "e\u0301\u0301\u0301", "\ufffe\uffff",
	}))
}

func hostileHost(t *rapid.T) Graph {
	s := newScene()
	s.Host = hostileName().Draw(t, "host")
	s.network(network("default", "nat", "virbr0", "192.168.122.0/24", true))
	for range rapid.IntRange(1, 4).Draw(t, "guests") {
		s.guest("virbr0", hostileName().Draw(t, "name"), hostileName().Draw(t, "address"))
	}
	s.door("tcp/80", "80", hostileName().Draw(t, "target"), "", "", hostileName().Draw(t, "why"))
	return Layout(Build(s.Input), Options{})
}

// allowed is all that there is in an SVG of ours.
var allowed = map[string]bool{"svg": true, "style": true, "rect": true, "path": true, "text": true, "g": true, "title": true, "circle": true}

func TestSVGHoldsWhateverGuestsCallThemselves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := xml.NewDecoder(strings.NewReader(SVG(hostileHost(t))))
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			start, ok := token.(xml.StartElement)
			if !ok {
				continue
			}
			if !allowed[start.Name.Local] {
				t.Fatalf("there is an element %s", start.Name.Local)
			}
			for _, a := range start.Attr {
				if strings.HasPrefix(a.Name.Local, "on") || a.Name.Local == "href" || a.Name.Local == "src" {
					t.Fatalf("there is an attribute %s", a.Name.Local)
				}
			}
		}
	})
}

// Each line of Mermaid is one of the forms that we write, whatever names hold.
func TestMermaidHoldsWhateverGuestsCallThemselves(t *testing.T) {
	form := regexp.MustCompile(`^(flowchart TB|  n\d+(\(\[|>|\[\[|\[|\()"[^"]*"(\]\)|\]\]|\]|\))(:::[a-z]+)?|  n\d+ (---|===|-\.-)(\|"[^"]*"\|)? n\d+|  classDef [a-z]+ .*)$`)
	rapid.Check(t, func(t *rapid.T) {
		for line := range strings.Lines(Mermaid(hostileHost(t))) {
			if line = strings.TrimSuffix(line, "\n"); !form.MatchString(line) {
				t.Fatalf("there is a line %q", line)
			}
		}
	})
}

// A page is never wider than it is, has no control characters, and in ASCII
// nothing else.
func TestTextFitsOnItsPage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := Layout(Build(anyHost(t)), Options{})
		if rapid.Bool().Draw(t, "hostile") {
			g = hostileHost(t)
		}
		p := Page{Width: rapid.SampledFrom([]int{0, 20, 40, 59, 60, 80, 160}).Draw(t, "width"), ASCII: rapid.Bool().Draw(t, "ascii")}
		for _, l := range Text(g, p) {
			text := l.String()
			if p.Width > 0 && cells(text) > p.Width {
				t.Fatalf("%d cells on a page of %d: %q", cells(text), p.Width, text)
			}
			for _, r := range text {
				if r < ' ' || r == 0x7f || p.ASCII && r > 0x7e || r == '\ufffd' {
					t.Fatalf("%U is in %q", r, text)
				}
			}
		}
	})
}

func TestCutNeverBreaksAWideCharacter(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"日本語", 6, "日本語"}, {"日本語", 5, "日本…"}, {"日本語", 4, "日…"}, {"日本語", 2, "…"}, {"a日本", 4, "a日…"}, {"web", 0, ""},
		{"e\u0301e\u0301e\u0301", 3, "e\u0301e\u0301e\u0301"}, {"e\u0301e\u0301e\u0301", 2, "e\u0301…"}, {"🦊🦊", 3, "🦊…"},
	} {
		if got := cut(c.text, c.most, "…"); got != c.want || cells(got) > c.most {
			t.Errorf("cut(%q, %d) = %q, want %q", c.text, c.most, got, c.want)
		}
	}
}

// Nothing is marked between equals; what is there on one side alone has the mark
// of that side, edges included.
func TestCompareMarksWhatDiffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := Build(anyHost(t)), Build(anyHost(t))
		for _, n := range Compare(before, before).Nodes {
			if n.Mark != "" {
				t.Fatalf("%s is %s beside itself", n.ID, n.Mark)
			}
		}
		both := Compare(before, after)
		for _, n := range both.Nodes {
			was, is := before.Node(n.ID).ID != "", after.Node(n.ID).ID != ""
			if (n.Mark == Added) != (!was && is) || (n.Mark == Removed) != (was && !is) {
				t.Fatalf("%s is marked %q: before %v, after %v", n.ID, n.Mark, was, is)
			}
		}
		if got, want := len(boxes(Layout(both, Options{Fold: -1}))), len(both.Nodes); got < want-len(both.Nodes)/4 {
			t.Fatalf("%d of %d are drawn", got, want)
		}
	})
}
