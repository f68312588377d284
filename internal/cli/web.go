package cli

import (
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

func (a *app) webCommand() *cobra.Command {
	var r api.WebRequest
	var off, open bool
	c := &cobra.Command{
		Use: "web", Short: "Turn the web page on and print a link that logs in", Args: cobra.NoArgs,
		Long: `Turn the web page on, if it is off, and print a link that opens it and logs in. The link
works once and for ten minutes. The page stays on, also when the daemon is restarted, until
--off. It listens on this host alone. From another machine no login is needed by
"ssh -L 8420:/run/drawbridge/drawbridge.sock root@HOST" and http://localhost:8420: ssh was it.`,
		Example: "  sudo drawbridge web\n  sudo drawbridge web --read-only\n  sudo drawbridge web --off",
		RunE: func(c *cobra.Command, _ []string) error {
			if off {
				if err := a.client.CloseWeb(c.Context()); err != nil {
					return err
				}
				return a.done("the web page is off")
			}
			web, err := a.client.OpenWeb(c.Context(), r)
			if err != nil {
				return err
			}
			if open {
				a.openBrowser(web.Link)
			}
			return a.show(web, func(w *writer) {
				w.line(web.Link)
				if web.LinkUntil != nil {
					w.linef("works once, for the next %s; the page is at %s", span(web.LinkUntil.Sub(a.now())), web.URL)
				}
			})
		},
	}
	c.Flags().StringVar(&r.Listen, "listen", "", "`ADDRESS:PORT` on this host (default: where it is, or "+api.DefaultListen+")")
	c.Flags().BoolVar(&r.ReadOnly, "read-only", false, "who uses the link may only look")
	c.Flags().BoolVar(&open, "open", false, "open it in this desktop's browser too")
	c.Flags().BoolVar(&off, "off", false, "turn the page off")
	c.MarkFlagsMutuallyExclusive("off", "open")
	return c
}

// openBrowser asks the desktop; the link is printed all the same.
func (a *app) openBrowser(link string) {
	if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
		a.complain("--open: there is no desktop here; open the link yourself")
		return
	}
	if err := exec.Command("xdg-open", link).Start(); err != nil {
		a.complain("--open: " + err.Error())
	}
}

func (a *app) sessionCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the browsers that are logged in", Args: cobra.NoArgs, Example: "  sudo drawbridge session ls",
		RunE: func(c *cobra.Command, _ []string) error {
			sessions, err := a.client.Sessions(c.Context())
			if err != nil {
				return err
			}
			return a.show(sessions, func(w *writer) {
				var rows [][]cell
				for _, s := range sessions {
					rows = append(rows, cells(s.ID, s.By, may(s.ReadOnly), ago(s.Used, a.now()), expiry(&s.Until, a.now()), s.Browser))
				}
				w.table([]string{"ID", "BY", "MAY", "USED", "ENDS", "BROWSER"}, rows)
			})
		},
	}
	rm := &cobra.Command{
		Use: "rm ID", Short: "Log a browser out", Args: cobra.ExactArgs(1), Example: "  sudo drawbridge session rm 3f2a9c01",
		ValidArgsFunction: a.completeFirst(sessionIDs),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.client.EndSession(c.Context(), args[0]); err != nil {
				return err
			}
			return a.done("session " + args[0] + ": logged out")
		},
	}
	group := &cobra.Command{
		Use: "session", Short: "Browsers that are logged in to the web page", Example: "  sudo drawbridge session ls\n  sudo drawbridge session rm 3f2a9c01",
	}
	group.AddCommand(ls, rm)
	return group
}

func may(readOnly bool) string {
	if readOnly {
		return "look"
	}
	return "everything"
}

func ago(at, now time.Time) string {
	if d := now.Sub(at); d >= time.Second {
		return span(d) + " ago"
	}
	return "now"
}

func (a *app) tokenCommand() *cobra.Command {
	group := &cobra.Command{
		Use: "token", Short: "Secrets that let scripts and wall screens in by TCP", Example: "  sudo drawbridge token add wall --read-only\n  sudo drawbridge token ls",
	}
	group.AddCommand(a.tokenAdd(), a.tokenList(), a.tokenRemove())
	return group
}

func (a *app) tokenAdd() *cobra.Command {
	var r api.TokenRequest
	var lasting time.Duration
	c := &cobra.Command{
		Use: "add NAME", Short: "Make a token; it is printed once", Args: cobra.ExactArgs(1),
		Long: `Make a token for a script (sent as "Authorization: Bearer TOKEN") or for the browser of a
wall screen (typed into the page's login). It is printed once: only its hash is kept.`,
		Example: "  sudo drawbridge token add wall --read-only\n  sudo drawbridge token add backup --for 720h",
		RunE: func(c *cobra.Command, args []string) error {
			if lasting < 0 || lasting > 0 && lasting < time.Second {
				return usage("--for %s is not a second or more", lasting)
			}
			r.Name, r.LastingSecs = args[0], int64(lasting/time.Second)
			t, err := a.client.AddToken(c.Context(), r)
			if err != nil {
				return err
			}
			return a.show(t, func(w *writer) { w.line(t.Secret) })
		},
	}
	c.Flags().BoolVar(&r.ReadOnly, "read-only", false, "it may only look")
	c.Flags().DurationVar(&lasting, "for", 0, "`TIME` that it is good for, such as 720h (default: until it is removed)")
	return c
}

func (a *app) tokenList() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List tokens", Args: cobra.NoArgs, Example: "  sudo drawbridge token ls",
		RunE: func(c *cobra.Command, _ []string) error {
			tokens, err := a.client.Tokens(c.Context())
			if err != nil {
				return err
			}
			return a.show(tokens, func(w *writer) {
				var rows [][]cell
				for _, t := range tokens {
					rows = append(rows, cells(t.Name, may(t.ReadOnly), t.By, ago(t.Made, a.now()), expiry(t.Until, a.now())))
				}
				w.table([]string{"NAME", "MAY", "BY", "MADE", "ENDS"}, rows)
			})
		},
	}
}

func (a *app) tokenRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME", Short: "Make a token worthless", Args: cobra.ExactArgs(1), Example: "  sudo drawbridge token rm wall",
		ValidArgsFunction: a.completeFirst(tokenNames),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.client.RemoveToken(c.Context(), args[0]); err != nil {
				return err
			}
			return a.done(fmt.Sprintf("token %s: no longer good", args[0]))
		},
	}
}
