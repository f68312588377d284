package cli

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

// completeTime bounds how long pressing Tab may wait for the daemon.
const completeTime = 2 * time.Second

type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// lookup asks the daemon for words, each with a description after a tab.
type lookup func(context.Context, *api.Client) ([]string, error)

func fixed(words ...string) completion {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// complete offers what the daemon knows, and nothing when it is down.
func (a *app) complete(f lookup) completion {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		c, cancel := context.WithTimeout(context.Background(), completeTime)
		defer cancel()
		words, err := f(c, api.Dial(a.socket))
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFirst completes the first argument only.
func (a *app) completeFirst(f lookup) completion {
	return func(c *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.complete(f)(c, args, to)
	}
}

func (a *app) completeSettings(c *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.complete(networkNames)(c, args, to)
	}
	keys := []string{"mtu=", "domain=", "dhcp-range=", "lease-time=", "subnet=", "ipv6=", "autostart=", "allow-users=", "vlan=", "vlan-trunk=", "mode=", "bridge="}
	return keys, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func (a *app) completeReservation(c *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return a.completeFirst(networkNames)(c, args, to)
	}
	return a.complete(func(ctx context.Context, cl *api.Client) ([]string, error) {
		rs, err := cl.Reservations(ctx, args[0])
		return describe(rs, err, func(r api.Reservation) (string, string) { return r.MAC, r.IP + " " + r.Hostname })
	})(c, args, to)
}

func describe[T any](list []T, err error, f func(T) (string, string)) ([]string, error) {
	var out []string
	for _, x := range list {
		name, text := f(x)
		out = append(out, clean(name)+"\t"+clean(text))
	}
	return out, err
}

func forwardIDs(ctx context.Context, c *api.Client) ([]string, error) {
	list, err := c.Forwards(ctx)
	return describe(list, err, func(f api.ForwardStatus) (string, string) { return f.ID, "to " + f.Guest })
}

func networkNames(ctx context.Context, c *api.Client) ([]string, error) {
	nets, err := c.Networks(ctx)
	return describe(nets, err, func(n api.Network) (string, string) {
		return n.Name, n.Mode + " " + subnets(n.Subnets) + " " + n.State
	})
}

func guestNames(ctx context.Context, c *api.Client) ([]string, error) {
	guests, err := c.Guests(ctx)
	return describe(guests, err, func(g api.Guest) (string, string) {
		var on []string
		for _, n := range g.NICs {
			on = append(on, n.Network)
		}
		return g.Name, "on " + strings.Join(on, ", ")
	})
}

func modeNames(ctx context.Context, c *api.Client) ([]string, error) {
	modes, err := c.Modes(ctx)
	return describe(modes, err, func(m api.Mode) (string, string) { return m.Name, m.Summary })
}

// captureTargets are the names that packets can be captured by.
func captureTargets(ctx context.Context, c *api.Client) ([]string, error) {
	nets, err := networkNames(ctx, c)
	ports, err2 := c.Ports(ctx)
	for _, p := range ports {
		nets = append(nets, p.Tap+"\t"+p.Guest+" on "+p.Network)
		if p.Guest != "" && p.Guest != p.Tap {
			nets = append(nets, p.Guest+"\ton "+p.Network)
		}
	}
	return nets, errors.Join(err, err2)
}

func tapNames(ctx context.Context, c *api.Client) ([]string, error) {
	ports, err := c.Ports(ctx)
	return describe(ports, err, func(p api.Port) (string, string) { return p.Tap, p.Guest + " on " + p.Network })
}

func changeIDs(ctx context.Context, c *api.Client) ([]string, error) {
	changes, err := c.Changes(ctx)
	return describe(changes, err, func(ch api.Change) (string, string) { return ch.ID, ch.Title })
}

// loggedIDs are the changes that the record holds.
func loggedIDs(ctx context.Context, c *api.Client) ([]string, error) {
	entries, err := c.Log(ctx, api.LogOptions{Kinds: []string{"change"}})
	return describe(entries, err, func(e api.LogEntry) (string, string) { return e.ID, e.Title })
}

func sessionIDs(ctx context.Context, c *api.Client) ([]string, error) {
	sessions, err := c.Sessions(ctx)
	return describe(sessions, err, func(s api.Session) (string, string) { return s.ID, s.By + " " + s.Browser })
}

func tokenNames(ctx context.Context, c *api.Client) ([]string, error) {
	tokens, err := c.Tokens(ctx)
	return describe(tokens, err, func(t api.Token) (string, string) { return t.Name, may(t.ReadOnly) })
}
