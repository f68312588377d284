package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

// choice is a word that answers a question, and what it means.
type choice struct{ word, means string }

var (
	purposes = []choice{
		{"production", "services that others rely on"},
		{"development", "guests to try things with"},
		{"laptop", "a host that moves from network to network"},
		{"ci", "many guests that live for minutes"},
	}
	needs = []choice{
		{"inbound", "others reach services on guests"},
		{"lan-peer", "guests are machines of the LAN, with its addresses"},
		{"live-migration", "guests move to other hosts while they run"},
		{"discovery", "multicast and broadcast of the LAN reach guests"},
		{"hidden", "nobody outside reaches guests"},
		{"no-internet", "guests reach nobody outside"},
	}
)

func wordsOf(list []choice) []string {
	var words []string
	for _, c := range list {
		words = append(words, c.word)
	}
	return words
}

func explained(list []choice) string {
	var b strings.Builder
	for _, c := range list {
		fmt.Fprintf(&b, "  %-14s  %s\n", c.word, c.means)
	}
	return b.String()
}

func (a *app) adviseCommand() *cobra.Command {
	var r api.AdviceRequest
	c := &cobra.Command{
		Use: "advise", Short: "Answer \"bridge or NAT?\" for this host, with the reasons and the commands", Args: cobra.NoArgs,
		Long: "Answer \"bridge or NAT?\" for this host: what is recommended, why, what it costs, what speaks against\n" +
			"it, the commands, and the picture of what they would change (+ comes, - goes). The evidence is read\n" +
			"from the machine. Nothing is changed. On a terminal it asks two questions, unless flags answer them.\n\n" +
			"What guests are for (--for):\n" + explained(purposes) + "\nWhat they need (--need):\n" + strings.TrimSuffix(explained(needs), "\n"),
		Example: "  drawbridge advise\n  drawbridge advise --for production --need inbound,live-migration\n  drawbridge advise --for laptop -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			asked := c.Flags().Changed("for") || c.Flags().Changed("need")
			if !asked && a.format == "table" && a.terminalIn() && isTerminal(a.stdout) {
				if err := a.askPurpose(c.Context(), &r); err != nil {
					return err
				}
			}
			if words := wordsOf(purposes); r.For != "" && !slices.Contains(words, r.For) {
				return usage("--for %s: there are %s", r.For, strings.Join(words, ", "))
			}
			for _, n := range r.Need {
				if words := wordsOf(needs); !slices.Contains(words, n) {
					return usage("--need %s: there are %s", n, strings.Join(words, ", "))
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
	c.Flags().StringVar(&r.For, "for", "", "`PURPOSE` of the guests: "+strings.Join(wordsOf(purposes), ", "))
	c.Flags().StringSliceVar(&r.Need, "need", nil, "`NEEDS` of theirs, separated by commas: "+strings.Join(wordsOf(needs), ", "))
	c.Flags().StringVar(&r.Guest, "guest", "", "`NAME` of the guest in the commands (default: the word GUEST)")
	_ = c.RegisterFlagCompletionFunc("for", fixed(wordsOf(purposes)...))
	_ = c.RegisterFlagCompletionFunc("need", fixed(wordsOf(needs)...))
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
func (a *app) askPurpose(ctx context.Context, r *api.AdviceRequest) error {
	lines := a.lines()
	purpose, err := a.ask(ctx, lines, "What are the guests for?", purposes, 1)
	if err != nil {
		return err
	}
	r.For = strings.Join(purpose, "")
	r.Need, err = a.ask(ctx, lines, "What do they need?", needs, len(needs))
	fmt.Fprintln(a.stdout)
	return err
}

// ask shows what can be answered and reads a line of at most so many of the words, or
// beginnings of them, until one makes sense.
func (a *app) ask(ctx context.Context, lines <-chan string, question string, list []choice, most int) ([]string, error) {
	prompt := "one of these words, or Enter for nothing in particular: "
	if most > 1 {
		prompt = "words, separated by blanks or commas, or Enter for nothing in particular: "
	}
	fmt.Fprintf(a.stdout, "%s\n%s", question, explained(list))
	for {
		fmt.Fprint(a.stdout, prompt)
		select {
		case <-ctx.Done():
			fmt.Fprintln(a.stdout)
			return nil, errors.New("interrupted; nothing was changed")
		case line, more := <-lines:
			if !more {
				fmt.Fprintln(a.stdout)
				return nil, nil // no more answers: what is known so far has to do
			}
			answer, problem := chosen(line, list, most)
			if problem == "" {
				return answer, nil
			}
			fmt.Fprintln(a.stdout, problem)
		}
	}
}

// chosen are the words that a line names, or begins, each once.
func chosen(line string, list []choice, most int) (answer []string, problem string) {
	for _, w := range strings.FieldsFunc(strings.ToLower(line), func(r rune) bool { return r == ' ' || r == '\t' || r == ',' }) {
		var fit []string
		for _, c := range list {
			if c.word == w || strings.HasPrefix(c.word, w) {
				fit = append(fit, c.word)
			}
		}
		switch {
		case len(fit) == 0:
			return nil, fmt.Sprintf("%q is none of them", clean(w))
		case len(fit) > 1:
			return nil, fmt.Sprintf("%q may be %s", clean(w), strings.Join(fit, " or "))
		case !slices.Contains(answer, fit[0]):
			answer = append(answer, fit[0])
		}
	}
	if len(answer) > most {
		return nil, fmt.Sprintf("only one of them, please: %s", strings.Join(answer, " or "))
	}
	return answer, ""
}
