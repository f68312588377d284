package cli

import (
	"bufio"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

var (
	purposes = []string{"production", "development", "laptop", "ci"}
	needs    = []string{"inbound", "lan-peer", "live-migration", "discovery", "hidden", "no-internet"}
)

func (a *app) adviseCommand() *cobra.Command {
	var r api.AdviceRequest
	c := &cobra.Command{
		Use: "advise", Short: "Answer \"bridge or NAT?\" for this host, with the reasons and the commands", Args: cobra.NoArgs,
		Long: "Answer \"bridge or NAT?\" for this host: what is recommended, why, what it costs, what speaks against\n" +
			"it, the commands, and the picture of what they would change (+ comes, - goes). The evidence is read\n" +
			"from the machine. Nothing is changed. On a terminal it asks two questions, unless flags answer them.\n\n" +
			"  inbound         others reach services on guests\n" +
			"  lan-peer        guests are machines of the LAN, with its addresses\n" +
			"  live-migration  guests move to other hosts while they run\n" +
			"  discovery       multicast and broadcast of the LAN reach guests\n" +
			"  hidden          nobody outside reaches guests\n" +
			"  no-internet     guests reach nobody outside",
		Example: "  drawbridge advise\n  drawbridge advise --for production --need inbound,live-migration\n  drawbridge advise --for laptop -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			asked := c.Flags().Changed("for") || c.Flags().Changed("need")
			if !asked && a.format == "table" && a.terminalIn() && isTerminal(a.stdout) {
				if err := a.askPurpose(&r); err != nil {
					return err
				}
			}
			if r.For != "" && !slices.Contains(purposes, r.For) {
				return usage("--for %s: there are %s", r.For, strings.Join(purposes, ", "))
			}
			for _, n := range r.Need {
				if !slices.Contains(needs, n) {
					return usage("--need %s: there are %s", n, strings.Join(needs, ", "))
				}
			}
			if a.format == "table" {
				r.Picture = paper(c.OutOrStdout(), false)
			}
			advice, err := a.client.Advise(c.Context(), r)
			if err != nil {
				return err
			}
			return a.show(advice, func(w *writer) { adviceText(w, advice) })
		},
	}
	c.Flags().StringVar(&r.For, "for", "", "what guests are for: "+strings.Join(purposes, ", "))
	c.Flags().StringSliceVar(&r.Need, "need", nil, "what they need, separated by commas: "+strings.Join(needs, ", "))
	c.Flags().StringVar(&r.Guest, "guest", "", "name of a guest for the commands")
	_ = c.RegisterFlagCompletionFunc("for", fixed(purposes...))
	_ = c.RegisterFlagCompletionFunc("need", fixed(needs...))
	return c
}

func adviceText(w *writer, a api.Advice) {
	for i, l := range a.Text {
		if i == 0 {
			w.painted(heading, l)
			continue
		}
		w.line(l)
	}
	if a.Picture != nil {
		w.line("")
		w.line("what the first command would bring (+) and take away (-):")
		drawing(w, a.Picture.Lines)
	} else if a.NoDraw != "" {
		w.line("no picture: " + a.NoDraw)
	}
}

// askPurpose asks the two questions that decide most. An empty answer is nothing
// in particular.
func (a *app) askPurpose(r *api.AdviceRequest) error {
	in := bufio.NewReader(a.stdin)
	ask := func(question string, words []string) (string, error) {
		for {
			fmt.Fprintf(a.stdout, "%s (%s; Enter for none) ", question, strings.Join(words, ", "))
			line, err := in.ReadString('\n')
			if err != nil {
				fmt.Fprintln(a.stdout)
				return "", nil // no more answers: what is known so far has to do
			}
			line = strings.TrimSpace(line)
			wrong := slices.IndexFunc(split(line), func(w string) bool { return !slices.Contains(words, w) })
			if wrong < 0 {
				return line, nil
			}
			fmt.Fprintf(a.stdout, "%q is none of them\n", clean(split(line)[wrong]))
		}
	}
	var err error
	if r.For, err = ask("What are the guests for?", purposes); err != nil {
		return err
	}
	if more := split(r.For); len(more) > 1 {
		r.For = more[0]
	}
	line, err := ask("What do they need?", needs)
	r.Need = split(line)
	return err
}

func split(line string) []string {
	return strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ',' })
}
