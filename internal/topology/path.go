package topology

import "strings"

// Path is what became of a packet on its way between two ends, as package diagnose
// found out; PathSVG draws it.
type Path struct {
	// From and To are the ends, with the port that was asked for.
	From, To string
	// Sentence says where it ends, Mend what would mend it or "".
	Sentence, Mend string
	// Verdict is that of the whole way.
	Verdict Verdict
	Hops    []Hop
}

// Verdict is what became of a packet.
type Verdict string

// The verdicts.
const (
	Accepted Verdict = "accepted"
	Dropped  Verdict = "dropped"
	Rejected Verdict = "rejected"
	// Undecided: it is not known what becomes of it.
	Undecided Verdict = "unknown"
)

// Place is where a hop is.
type Place string

// The places, in the order in which a guest's packet meets them.
const (
	AtPort   Place = "port"
	AtBridge Place = "bridge"
	AtChain  Place = "chain"
	AtNAT    Place = "nat"
	AtRoute  Place = "route"
	AtLink   Place = "link"
	// AtEnd is one of the two ends, or the machine next to the host on the way there.
	AtEnd Place = "end"
)

// Hop is one place on a path and what happened there.
type Hop struct {
	Place Place
	// Back is on the way of the answer.
	Back bool
	// Where in a few words, What happened there; Owner is whose rule it was, "" for
	// nobody else's.
	Where, What, Owner string
	Verdict            Verdict
}

// PathOptions say how a path is drawn.
type PathOptions struct {
	// Width in pixels, from 280 to 1600; 0 takes 760. Below 560 the way back is below
	// the way there, else beside it.
	Width int
}

const (
	usualPathW, leastPathW, mostPathW = 760, 280, 1600
	// twoColumns is the width from which there and back stand side by side.
	twoColumns = 560
	// mostLines is how many lines of what happened are drawn; hovering tells the rest.
	mostLines = 4
	hopGap    = 16
	endH      = 34
	briefH    = 27
	lineH     = 14
)

// card is a hop with its place in the picture.
type card struct {
	Hop
	Box
	lines []string
	// brief: what happened stands beside where.
	brief bool
	// mends: it is no hop, and says what would mend the one before.
	mends bool
}

// column is one way, there or back, in the order in which the packet goes.
type column struct {
	cards []card
	// x and w are where it is; up: the packet goes upward.
	x, w int
	up   bool
	// ended: the packet got no further than the last hop.
	ended bool
}

func (c column) height() int {
	h := hopGap
	for _, one := range c.cards {
		h += one.H + hopGap
	}
	return h
}

// columns sorts hops into the way there and the way back, with what would mend it
// after the last.
func (p Path) columns() (there, back column) {
	for _, h := range p.Hops {
		to := &there
		if h.Back {
			to = &back
		}
		to.cards = append(to.cards, card{Hop: h})
	}
	if p.Verdict == Accepted || len(p.Hops) == 0 {
		return there, back
	}
	last := &there
	if len(back.cards) > 0 {
		last = &back
	}
	last.ended = true
	if p.Mend != "" {
		last.cards = append(last.cards, card{Hop: Hop{Where: "what mends it", What: p.Mend}, mends: true})
	}
	return there, back
}

// shape gives cards their size.
func (c *column) shape(x, w int) {
	c.x, c.w = x, w
	for i := range c.cards {
		one := &c.cards[i]
		most := mostLines
		if one.mends || one.Verdict != Accepted {
			most = 2 * mostLines // what matters is told in full
		}
		one.lines = wrap(clean(one.What), room(w-32, 11), most)
		one.X, one.W, one.H = x, w, 24+lineH*len(one.lines)+6
		room := w - 44 - 8*cells(clean(one.Where)) - 6*cells(clean(one.Owner))
		if one.brief = one.Verdict == Accepted && !one.mends && 7*cells(clean(one.What)) < room; one.brief {
			one.H = briefH
		}
	}
}

// place puts the cards below y, or above it if the packet goes upward.
func (c *column) place(y int) {
	for i := range c.cards {
		one := &c.cards[i]
		if c.up {
			y -= hopGap + one.H
			one.Y = y
			continue
		}
		one.Y = y + hopGap
		y = one.Bottom()
	}
}

// wrap breaks a text into lines of so many cells, at blanks where there are any; the
// last line has dots if there is more.
func wrap(s string, most, lines int) []string {
	var out []string
	line := ""
	flush := func() {
		if line != "" {
			out = append(out, line)
			line = ""
		}
	}
	for word := range strings.FieldsSeq(s) {
		if line != "" && cells(line)+1+cells(word) > most {
			flush()
		}
		if line != "" {
			line += " "
		}
		for cells(line)+cells(word) > most {
			head := cut(word, max(most-cells(line), 1), "")
			if head == "" {
				break // a character wider than the line
			}
			line, word = line+head, word[len(head):]
			flush()
		}
		line += word
	}
	flush()
	if len(out) > lines {
		out = out[:lines]
		out[lines-1] = cut(out[lines-1], most-1, "") + "…"
	}
	return out
}
