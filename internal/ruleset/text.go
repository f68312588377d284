package ruleset

import (
	"strings"
)

// String writes a rule as near to nft's own listing as its expressions allow.
func (r *Rule) String() string {
	w := writer{regs: map[int]word{}}
	for _, e := range r.Counted() {
		w.write(e)
	}
	w.flush()
	text := strings.Join(w.out, " ")
	if text == "" {
		text = "(empty rule)"
	}
	if r.Comment != "" {
		text += ` comment "` + r.Comment + `"`
	}
	return text
}
