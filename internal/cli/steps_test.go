package cli

import (
	"fmt"
	"strings"
	"testing"

	"drawbridge/internal/api"
)

func TestManyStepsAlikeAreOneLine(t *testing.T) {
	steps := []api.Step{
		{Verb: "create", Kind: "table", Name: "inet drawbridge"},
		{Verb: "delete", Kind: "element", Name: "inet drawbridge doors4 { tcp . 1 }"},
		{Verb: "create", Kind: "link", Name: "virbr0", Detail: "type bridge"},
	}
	for i := range 9 {
		steps = append(steps,
			api.Step{Verb: "create", Kind: "chain", Name: fmt.Sprintf("inet drawbridge c%d", i)},
			api.Step{Verb: "create", Kind: "element", Name: fmt.Sprintf("inet drawbridge doors4 { tcp . %d }", i)})
	}
	steps = append(steps, api.Step{Verb: "create", Kind: "set", Name: "inet drawbridge doors4", Detail: "type inet_proto"})
	var b writer
	stepLines(&b, steps)
	want := `  + table inet drawbridge
  - element inet drawbridge doors4 { tcp . 1 }
  + link virbr0  (type bridge)
  + rules inet drawbridge  (1 set, 9 chains)
  + 9 elements inet drawbridge doors4
  (-o yaml lists every step)
`
	if b.buf.String() != want {
		t.Errorf("have\n%swant\n%s", b.buf.String(), want)
	}
	b.buf.Reset()
	stepLines(&b, steps[:3])
	if strings.Count(b.buf.String(), "\n") != 3 || strings.Contains(b.buf.String(), "-o yaml") {
		t.Errorf("a few steps are printed as\n%s", b.buf.String())
	}
}
