package cli

import (
	"strings"
	"unicode"
)

// cell is one field of a table.
type cell struct {
	text  string
	paint paint
}

// table prints aligned columns under headings; "" is shown as '-'. The last
// column is not padded.
func (w *writer) table(head []string, rows [][]cell) {
	widths := make([]int, len(head))
	for i, h := range head {
		widths[i] = columns(h)
	}
	for _, row := range rows {
		for i := range row {
			row[i].text = clean(row[i].text)
			if row[i].text == "" {
				row[i].text = "-"
			}
			widths[i] = max(widths[i], columns(row[i].text))
		}
	}
	var titles []cell
	for _, h := range head {
		titles = append(titles, cell{h, heading})
	}
	for _, row := range append([][]cell{titles}, rows...) {
		for i, c := range row {
			w.buf.WriteString(w.paint(c.paint, c.text))
			if i < len(row)-1 {
				w.buf.WriteString(strings.Repeat(" ", widths[i]-columns(c.text)+2))
			}
		}
		w.buf.WriteByte('\n')
	}
}

// cells makes a row without colours.
func cells(texts ...string) []cell {
	var row []cell
	for _, t := range texts {
		row = append(row, cell{text: t})
	}
	return row
}

// columns is how much of a terminal's line a text takes: two for East Asian
// wide characters and pictures (UAX 11), none for combining marks.
func columns(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me):
		case wide(r):
			n += 2
		default:
			n++
		}
	}
	return n
}

// wide goes by the blocks whose characters UAX 11 calls wide or fullwidth.
func wide(r rune) bool {
	for _, block := range [][2]rune{
		{0x1100, 0x115f}, {0x2e80, 0x303e}, {0x3041, 0xa4cf}, {0xac00, 0xd7a3}, {0xf900, 0xfaff}, {0xfe30, 0xfe6f},
		{0xff00, 0xff60}, {0xffe0, 0xffe6}, {0x1f300, 0x1f64f}, {0x1f680, 0x1f6ff}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd},
	} {
		if r >= block[0] && r <= block[1] {
			return true
		}
	}
	return false
}
