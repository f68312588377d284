package topology

import (
	"fmt"
	"strings"
)

// pathStyle are the colours of what only paths have, beside those of all pictures.
const pathStyle = `
.hop{--hue:var(--soft)}.port,.bridge{--hue:var(--nat)}.chain{--hue:var(--foreign)}.nat{--hue:var(--bridged)}.route,.link{--hue:var(--door)}
.hop.bad{--hue:var(--bad)}.hop.bad .box{stroke:var(--bad);stroke-width:2}.hop.care{--hue:var(--care)}.hop.care .box{stroke:var(--care);stroke-width:2}
.mends{--hue:var(--add)}.mends .box{stroke:var(--add)}.mends .cmd{fill:var(--ink)}.fine .sign{fill:var(--add)}
.way{fill:none;stroke:var(--soft);stroke-width:1.6}.head{fill:var(--soft)}.way.lost{stroke:var(--line);stroke-dasharray:3 4}.side{font-size:10px}
`

// PathSVG draws a path as a file of its own: the way there downward from one end to
// the other, and the answer's way back beside it, upward. Where it ends is red, with
// what would mend it; light and dark follow the viewer, and there is no script, no
// link and no reference in it, as with SVG.
func PathSVG(p Path, o PathOptions) string {
	if o.Width == 0 {
		o.Width = usualPathW
	}
	o.Width = min(max(o.Width, leastPathW), mostPathW)
	d := &pathDrawing{svg: svg{uses: map[string]bool{}}, path: p, width: o.Width}
	there, back := p.columns()
	inner := o.Width - 2*margin
	top := d.sentence()
	if len(back.cards) > 0 && o.Width >= twoColumns {
		d.beside(there, back, top, inner)
	} else {
		d.below(there, back, top, inner)
	}
	return d.file()
}

type pathDrawing struct {
	svg
	path          Path
	width, height int
}

// file puts what was drawn into a file of its height.
func (d *pathDrawing) file() string {
	body := d.out.String()
	d.out.Reset()
	d.put(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s">`, d.width, d.height, d.width, d.height, escaped(d.path.Sentence))
	d.put("<style>%s</style>", style+pathStyle)
	d.put(`<rect class="bg" width="%d" height="%d" rx="8"/>`, d.width, d.height)
	d.out.WriteString(body)
	d.put("</svg>")
	return d.out.String()
}

// marks of verdicts: a class and a sign.
func (v Verdict) marked() (class, sign string) {
	switch v {
	case Accepted:
		return "fine", "✓"
	case Undecided:
		return "care", "?"
	}
	return "bad", "!"
}

// sentence writes the answer on top, and returns where it ends.
func (d *pathDrawing) sentence() int {
	class, sign := d.path.Verdict.marked()
	d.put(`<g class="%s">`, class)
	d.sign(margin+7, margin+10, sign)
	d.put("</g>")
	y := margin + 15
	for _, line := range wrap(clean(d.path.Sentence), room(d.width-2*margin-26, 13), 6) {
		d.put(`<text class="name" x="%d" y="%d">%s</text>`, margin+24, y, escaped(line))
		y += 18
	}
	return y
}

// beside draws there at the left and back at the right.
func (d *pathDrawing) beside(there, back column, top, inner int) {
	w := (inner - columnGap) / 2
	there.shape(margin, w)
	back.shape(margin+w+columnGap, w)
	back.up = true
	h := max(there.height(), back.height())
	from := Box{margin, top, inner, endH}
	to := Box{margin, from.Bottom() + h, inner, endH}
	there.place(from.Bottom())
	back.place(to.Y)
	d.end(from, d.path.From, false)
	d.end(to, d.path.To, false)
	d.column(there, from.Bottom(), to.Y)
	d.column(back, to.Y, from.Bottom())
	d.height = to.Bottom() + margin
}

// below draws one way below the other.
func (d *pathDrawing) below(there, back column, top, inner int) {
	there.shape(margin, inner)
	back.shape(margin, inner)
	box := Box{margin, top, inner, endH}
	d.end(box, d.path.From, false)
	far := Box{margin, box.Bottom() + there.height(), inner, endH}
	there.place(box.Bottom())
	d.column(there, box.Bottom(), far.Y)
	d.end(far, d.path.To, there.ended)
	d.height = far.Bottom() + margin
	if len(back.cards) == 0 {
		return
	}
	home := Box{margin, far.Bottom() + back.height(), inner, endH}
	back.place(far.Bottom())
	d.column(back, far.Bottom(), home.Y)
	d.end(home, d.path.From, back.ended)
	d.height = home.Bottom() + margin
}

// end is one of the two ends.
func (d *pathDrawing) end(b Box, name string, off bool) {
	class := "lan"
	if off {
		class += " off"
	}
	d.put(`<g class="%s">`, class)
	d.box("box", b, b.H/2)
	d.put(`<text class="name" x="%d" y="%d" text-anchor="middle">%s</text>`, b.Middle().X, b.Y+22, escaped(cut(clean(name), room(b.W-40, 13), "…")))
	d.put("</g>")
}

// column draws one way, which begins and ends at these heights.
func (d *pathDrawing) column(c column, begin, end int) {
	at, lost := begin, false
	for _, one := range c.cards {
		near, far := one.Y, one.Bottom()
		if c.up {
			near, far = far, near
		}
		if !one.mends {
			d.arrow(c.x+26, at, near, lost)
		}
		d.hop(one)
		lost = lost || one.Verdict != Accepted && !one.mends
		at = far
	}
	d.arrow(c.x+26, at, end, c.ended)
	label := "there"
	if len(c.cards) > 0 && c.cards[0].Back {
		label = "and back"
	}
	y := begin + 12
	if c.up {
		y = begin - 5
	}
	d.put(`<text class="side" x="%d" y="%d">%s</text>`, c.x+36, y, label)
}

// arrow leads straight from one height to another; what is lost goes no further.
func (d *pathDrawing) arrow(x, from, to int, lost bool) {
	if lost {
		d.put(`<path class="way lost" d="M%d %dV%d"/>`, x, from, to)
		return
	}
	tip := 6
	if to < from {
		tip = -6
	}
	d.put(`<path class="way" d="M%d %dV%d"/><path class="head" d="M%d %dl-4 %dh8z"/>`, x, from, to-tip, x, to, -tip)
}

func (d *pathDrawing) hop(c card) {
	class := []string{"hop", string(c.Place)}
	sign := ""
	switch {
	case c.mends:
		class = []string{"hop", "mends"}
	case c.Verdict != Accepted:
		mark := ""
		mark, sign = c.Verdict.marked()
		class = append(class, mark)
	}
	d.put(`<g class="%s"><title>%s</title>`, strings.Join(class, " "), escaped(c.Where+": "+c.What))
	d.svg.box("box", c.Box, 6)
	d.put(`<path class="bar" d="M%d %dv%dh-1a5 5 0 0 1-5-5v-%da5 5 0 0 1 5-5z"/>`, c.X+5, c.Y+1, c.H-2, c.H-12)
	wide := c.W - 32
	if tag := c.tag(); tag != "" {
		tag = cut(clean(tag), 20, "…")
		d.put(`<text class="small tint" x="%d" y="%d" text-anchor="end">%s</text>`, c.Box.Right()-12, c.Y+18, escaped(tag))
		wide -= cells(tag)*6 + 10
	}
	d.text("name", c.X+16, c.Y+18, wide, 13, c.Where)
	words := ""
	switch {
	case c.mends:
		words = "cmd"
	case sign == "!":
		words = "warn"
	case sign != "":
		words = "mild"
	}
	if c.brief {
		d.text("", c.X+24+8*cells(clean(c.Where)), c.Y+18, c.W, 11, c.What)
		c.lines = nil
	}
	for i, line := range c.lines {
		d.put(`<text class="%s" x="%d" y="%d">%s</text>`, words, c.X+16, c.Y+34+lineH*i, escaped(line))
	}
	if sign != "" {
		d.sign(c.Box.Right()-2, c.Y+1, sign)
	}
	d.put("</g>")
}

// tag is what stands at the right of a hop's title: whose rule, or what became of it.
func (c card) tag() string {
	if c.mends || c.Verdict == Accepted {
		return c.Owner
	}
	word := string(c.Verdict)
	if c.Verdict == Undecided {
		word = "not known"
	}
	if c.Owner != "" {
		return fmt.Sprintf("%s by %s", word, c.Owner)
	}
	return word
}
