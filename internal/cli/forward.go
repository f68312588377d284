package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

func (a *app) forwardCommand() *cobra.Command {
	group := &cobra.Command{
		Use: "forward", Short: "Doors through which others reach a service on a guest",
		Long: "A forward lets others reach a service on a guest of a NAT network. It works from outside, from\n" +
			"this host (127.0.0.1 included), and from guests, by any address of this host; the guest sees who\n" +
			"really calls, except where the answer would not come back: for guests of its own network and for\n" +
			"127.0.0.1. It follows the guest when its address changes.",
		Example: "  drawbridge forward add 8080 ubuntu-cloud:80\n  drawbridge forward ls\n  drawbridge forward rm 8080",
	}
	group.AddCommand(a.forwardAdd(), a.forwardList(), a.forwardShow(), a.forwardRemove())
	return group
}

func (a *app) forwardAdd() *cobra.Command {
	var flags changeFlags
	var r api.ForwardRequest
	var all bool
	var span time.Duration
	c := &cobra.Command{
		Use: "add [LISTEN_IP:]PORT[-PORT] GUEST[:PORT]", Short: "Let others reach a service on a guest", Args: cobra.ExactArgs(2),
		Long: "Let others reach a service on a guest. GUEST is a guest's name, hardware address or address; one\n" +
			"that is not there yet is waited for.",
		Example: "  drawbridge forward add 8080 ubuntu-cloud:80\n" +
			"  drawbridge forward add 192.168.99.66:5000-5100 game --proto udp --from 192.168.99.0/24\n" +
			"  drawbridge forward add 2222 test:22 --for 2h --comment 'until the workshop ends'\n" +
			"  drawbridge forward add 192.168.99.70 web --all      # every port: 1:1 NAT of one address",
		RunE: func(c *cobra.Command, args []string) error {
			r.Listen, r.Guest = args[0], args[1]
			if all {
				if c.Flags().Changed("proto") {
					return errors.New("--all takes every protocol; leave --proto out")
				}
				r.Proto = "all"
			}
			if c.Flags().Changed("for") {
				if span <= 0 {
					return fmt.Errorf("--for %s: give a time such as 30m or 2h", span)
				}
				until := a.now().Add(span)
				r.Until = &until
			}
			return a.mayMove(c.Context(), "forward "+r.Listen+" to "+r.Guest, &flags, func(o api.Options) (api.Change, error) {
				return a.client.AddForward(c.Context(), r, o)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&r.Proto, "proto", "tcp", "`PROTO`: tcp, udp, sctp, or both for tcp and udp")
	f.StringVar(&r.Network, "network", "", "`NETWORK` of the guest (default: found by the guest)")
	f.StringSliceVar(&r.From, "from", nil, "`SOURCES` that may use it: prefixes or addresses, separated by commas (default: everybody)")
	f.DurationVar(&span, "for", 0, "close it by itself after this `TIME`, such as 2h (default: never)")
	f.StringVar(&r.Comment, "comment", "", "`TEXT`, a remark for people")
	f.BoolVar(&all, "all", false, "give every port of LISTEN_IP to the guest, and let it go out by that address")
	f.BoolVar(&r.Force, "force", false, "go on although a program of this host listens there, or a firewall takes or drops what comes; what might keep you from coming back waits to be confirmed")
	f.BoolVar(&r.ListenAnyway, "listen-anyway", false, "go on although LISTEN_IP is not an address of this host")
	flags.dryRun(c)
	flags.deciding(c)
	return c
}

func (a *app) forwardList() *cobra.Command {
	return &cobra.Command{
		Use: "ls [NETWORK]", Aliases: []string{"list"}, Short: "List forwards", Args: cobra.MaximumNArgs(1),
		Example: "  drawbridge forward ls\n  drawbridge forward ls default", ValidArgsFunction: a.completeFirst(networkNames),
		RunE: func(c *cobra.Command, args []string) error {
			list, err := a.client.Forwards(c.Context())
			if err != nil {
				return err
			}
			if list, err = onNetwork(c, a, args, list, func(f api.ForwardStatus) string { return f.Network }); err != nil {
				return err
			}
			return a.show(list, func(w *writer) { a.forwardTable(w, list) })
		},
	}
}

func (a *app) forwardTable(w *writer, list []api.ForwardStatus) {
	var rows [][]cell
	for _, f := range list {
		leads := f.Address
		if leads == "" {
			leads = "waiting"
		}
		from := strings.Join(f.From, " ")
		if from == "" {
			from = "everybody"
		}
		until := ""
		if f.Until != nil {
			until = expiry(f.Until, a.now())
		}
		rows = append(rows, cells(f.ID, f.Guest, leads, f.Network, from, reachedBy(f.Reached), until, fmt.Sprint(f.Connections), size(f.Bytes), f.Comment))
	}
	w.table([]string{"FORWARD", "GUEST", "LEADS TO", "NETWORK", "FROM", "REACHED BY", "ENDS", "CONNECTIONS", "BYTES", "COMMENT"}, rows)
}

// reachedBy is "lan host guests", with what does not reach it behind: "host, not
// lan (ufw), internet unknown".
func reachedBy(list []api.ReachedFrom) string {
	var reached, others []string
	for _, r := range list {
		switch {
		case r.Verdict == "accepted":
			if !slices.Contains(reached, r.From) {
				reached = append(reached, r.From)
			}
		case r.Verdict == "unknown":
			others = append(others, r.From+" unknown")
		case r.Owner != "":
			others = append(others, "not "+r.From+" ("+r.Owner+")")
		default:
			others = append(others, "not "+r.From)
		}
	}
	if len(reached) > 0 {
		others = slices.Insert(others, 0, strings.Join(reached, " "))
	}
	return strings.Join(slices.Compact(others), ", ")
}

func (a *app) forwardShow() *cobra.Command {
	return &cobra.Command{
		Use: "show [PROTO/][LISTEN_IP:]PORT", Short: "Show a forward", Args: cobra.ExactArgs(1),
		Example: "  drawbridge forward show 8080\n  drawbridge forward show udp/192.168.99.66:5000-5100", ValidArgsFunction: a.completeFirst(forwardIDs),
		RunE: func(c *cobra.Command, args []string) error {
			list, err := a.client.ShowForwards(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(list, func(w *writer) {
				a.forwardTable(w, list)
				for _, f := range list {
					if f.Waiting != "" {
						w.linef("%s waits: %s", f.ID, f.Waiting)
					}
					for _, r := range f.Reached {
						if r.Verdict != "accepted" {
							w.linef("%s from %s: %s: %s", f.ID, strings.TrimSpace(r.From+" "+r.Link), r.Verdict, r.Why)
						}
					}
				}
			})
		},
	}
}

func (a *app) forwardRemove() *cobra.Command {
	var flags changeFlags
	c := &cobra.Command{
		Use: "rm [PROTO/][LISTEN_IP:]PORT", Short: "Close a forward at once, its connections included", Args: cobra.ExactArgs(1),
		Long: "Close a forward at once, its connections included. Without PROTO, those of every protocol on the\n" +
			"port; without LISTEN_IP, the one that listens on every address, else the one that there is.",
		Example:           "  drawbridge forward rm 8080\n  drawbridge forward rm udp/192.168.99.66:5000-5100\n  drawbridge forward rm all/192.168.99.70",
		ValidArgsFunction: a.completeFirst(forwardIDs),
		RunE: func(c *cobra.Command, args []string) error {
			return a.change("remove forward "+args[0], func() (api.Change, error) {
				return a.client.RemoveForward(c.Context(), args[0], flags.Options)
			})
		},
	}
	flags.dryRun(c)
	return c
}
