package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

// maxDocument is what the daemon reads at most.
const maxDocument = 8 << 20

func (a *app) planCommand() *cobra.Command {
	var file string
	var flags changeFlags
	c := &cobra.Command{
		Use: "plan -f FILE", Short: "Say what apply would do with a document, and change nothing", Args: cobra.NoArgs,
		Example: "  drawbridge plan -f networks.yaml\n  drawbridge plan --picture -f networks.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			raw, err := a.read(file)
			if err != nil {
				return err
			}
			return a.change("plan", func() (api.Change, error) { return a.client.Plan(c.Context(), raw, flags.Options) })
		},
	}
	fileFlag(c, &file)
	flags.pictured(c)
	return c
}

func (a *app) applyCommand() *cobra.Command {
	var file string
	var flags changeFlags
	c := &cobra.Command{
		Use: "apply -f FILE", Short: "Make all networks what a document says, in one change", Args: cobra.NoArgs,
		Long: `Make all networks what a document says, in one change. Networks, forwards and reservations
that it does not name are removed; leases and the taps of others never are. Twice in a row is nothing
to do. "drawbridge export" writes such a document.`,
		Example: "  drawbridge export > networks.yaml\n  drawbridge apply -f networks.yaml\n  drawbridge apply --dry-run -f - < networks.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			raw, err := a.read(file)
			if err != nil {
				return err
			}
			return a.mayMove(c.Context(), "apply", &flags, func(o api.Options) (api.Change, error) { return a.client.Apply(c.Context(), raw, o) })
		},
	}
	fileFlag(c, &file)
	flags.dryRun(c)
	flags.deciding(c)
	flags.cutGuests(c)
	return c
}

func fileFlag(c *cobra.Command, file *string) {
	c.Flags().StringVarP(file, "file", "f", "", "`FILE` with the document, YAML or JSON; - for standard input")
}

func (a *app) read(file string) ([]byte, error) {
	in := a.stdin
	switch file {
	case "":
		return nil, usage("-f FILE is needed; -f - reads standard input")
	case "-":
	default:
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read document: %w", err)
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read document: %w", err)
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		// Taken for a document without networks it would remove them all.
		return nil, fmt.Errorf("read document: %s is empty; a document without networks is: networks: []", file)
	}
	if len(raw) > maxDocument {
		return nil, fmt.Errorf("read document: %s is larger than %d bytes", file, maxDocument)
	}
	return raw, nil
}

func (a *app) exportCommand() *cobra.Command {
	return &cobra.Command{
		Use: "export", Short: "Print all that is wanted as a document for apply", Args: cobra.NoArgs,
		Example: "  drawbridge export > networks.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			doc, err := a.client.Document(c.Context())
			if err != nil {
				return err
			}
			if a.format == "table" {
				a.format = "yaml"
			}
			return a.show(doc, nil)
		},
	}
}
