package cli

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

func (a *app) whyCommand() *cobra.Command {
	var r api.WhyRequest
	c := &cobra.Command{
		Use: "why FROM TO[:PORT]", Short: "Say what becomes of a packet between two ends, and why", Args: cobra.ExactArgs(2),
		Long: "Say what becomes of a packet between two ends, and of its answer: from tap to wire over the bridge,\n" +
			"the routes, and every chain of every firewall on this host, as they are now. Where it ends is said\n" +
			"with the rule that decides, its owner, and what would mend it.\n\n" +
			"An end is a guest (name, hardware address or address), host, lan (the router), internet, any address,\n" +
			"or a name that this host can resolve. Without a port it is a ping. The exit code is 0 if the packet arrives and is answered, else 1.\n\n" +
			"--probe sends one such packet, from the host or as if it came from the guest or the wire, and follows it by\n" +
			"nftables' tracing; nothing of that stays. Where both differ, the trace is shown.\n\n" +
			"-o svg draws the path, with where it ends in red.",
		Example: "  drawbridge why ubuntu-cloud internet\n  drawbridge why ubuntu-cloud deb.debian.org:443\n  drawbridge why lan ubuntu-cloud:80\n  drawbridge why lan host:8080          # a forward\n" +
			"  drawbridge why ubuntu-cloud debian-cloud:53 --proto udp\n  drawbridge why 192.168.99.10 192.168.122.57 -o json\n  drawbridge why lan ubuntu-cloud:80 --probe\n" +
			"  drawbridge why ubuntu-cloud internet -o svg > path.svg",
		Annotations: map[string]string{moreForms: "svg"}, ValidArgsFunction: a.completeEnds,
		RunE: func(c *cobra.Command, args []string) error {
			r.From = args[0]
			var err error
			if r.To, r.Port, err = splitEnd(args[1]); err != nil {
				return err
			}
			r.Draw = a.format == "svg"
			p, err := a.why(c.Context(), r)
			if err != nil {
				return err
			}
			if r.Draw {
				_, err = io.WriteString(a.stdout, p.Drawing)
			} else {
				err = a.show(p, func(w *writer) { pathText(w, p) })
			}
			if err != nil || p.Verdict == "accepted" && (p.Probe == nil || p.Probe.Agrees) {
				return err
			}
			return wrongError{errors.New("it does not arrive")}
		},
	}
	c.Flags().StringVar(&r.Proto, "proto", "", "`PROTO`: tcp, udp, sctp or icmp (default: tcp with a port, else a ping)")
	c.Flags().BoolVar(&r.Probe, "probe", false, "send one such packet, and follow it by the kernel's own tracing")
	return c
}

// why asks the daemon, and if it does not know a name of an end, asks again with the address
// that this host's resolver has for it.
func (a *app) why(ctx context.Context, r api.WhyRequest) (api.Path, error) {
	p, err := a.client.Why(ctx, r)
	if problem, ok := errors.AsType[*api.Problem](err); !ok || problem.Code != api.CodeNotFound {
		return p, err
	}
	var notes []string
	for _, end := range []*string{&r.From, &r.To} {
		_, isAddr := netip.ParseAddr(*end)
		if isAddr == nil || !strings.Contains(*end, ".") {
			continue
		}
		addrs, lookup := a.resolve(ctx, "ip", *end)
		if lookup != nil || len(addrs) == 0 {
			continue // it may be the other end that is not known
		}
		// IPv4 first: a guest without IPv6 would go by that.
		slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.Unmap().BitLen() - b.Unmap().BitLen() })
		addr := addrs[0].Unmap().String()
		notes = append(notes, *end+" is "+addr+" for this host's resolver")
		*end = addr
	}
	if len(notes) == 0 {
		return p, err
	}
	if p, err = a.client.Why(ctx, r); err == nil {
		p.Notes = append(notes, p.Notes...)
	}
	return p, err
}

// splitEnd takes the port off an end: web:80, 10.0.0.1:80, [fd00::1]:80.
func splitEnd(text string) (string, uint16, error) {
	if _, err := netip.ParseAddr(text); err == nil || strings.Count(text, ":") > 1 && !strings.HasPrefix(text, "[") {
		return text, 0, nil // an IPv6 address, or a hardware address
	}
	name, port, found := text, "", false
	if i := strings.LastIndex(text, ":"); i >= 0 {
		name, port, found = text[:i], text[i+1:], true
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if !found {
		return name, 0, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", 0, usage("%q is not a port between 1 and 65535", port)
	}
	return name, uint16(n), nil
}

func pathText(w *writer, p api.Path) {
	paints := map[string]paint{"accepted": good, "dropped": bad, "rejected": bad, "unknown": warning}
	marks := map[string]string{"accepted": "  ok    ", "dropped": "  drop  ", "rejected": "  reject", "unknown": "  ?     "}
	back := false
	for _, s := range p.Steps {
		if s.Back && !back {
			back = true
			w.line("and back:")
		}
		line := marks[s.Verdict] + "  " + s.Where + ": " + s.What
		if s.Owner != "" && s.Owner != "unknown" && s.Owner != "drawbridge" {
			line += "  [" + s.Owner + "]"
		}
		if s.Verdict == "accepted" {
			w.line(line)
		} else {
			w.painted(paints[s.Verdict], line)
		}
	}
	w.painted(paints[p.Verdict], p.Sentence)
	if p.Mend != "" {
		w.line("mend it with: " + p.Mend)
	}
	if p.Flow != nil && !strings.Contains(p.Sentence, p.Flow.Sentence) {
		w.line("note: " + p.Flow.Sentence)
	}
	for _, n := range p.Notes {
		w.line("note: " + n)
	}
	if p.Probe != nil {
		probeText(w, *p.Probe)
	}
}

// probeText shows the kernel's trace where it is not what was said; then it is
// the trace that is right.
func probeText(w *writer, p api.Probe) {
	w.line("probe: " + p.Sent)
	switch {
	case p.Agrees && len(p.Trace) == 0:
		w.line("  no rule saw it, as was said")
		return
	case p.Agrees:
		w.painted(good, "  the kernel's trace shows the same: "+p.Verdict)
		return
	}
	if len(p.Trace) == 0 {
		w.line("  no rule saw it")
	}
	for _, t := range p.Trace {
		line := "  " + t.Chain + ": " + t.Verdict
		if t.Handle != 0 {
			line += " # handle " + strconv.FormatUint(t.Handle, 10)
		}
		w.line(line + "  " + t.Packet)
	}
	w.painted(bad, "  the kernel's trace shows something else than was said ("+p.Verdict+"): that is a bug of drawbridge; please report it with this output")
}

// completeEnds completes guests and the words for other ends.
func (a *app) completeEnds(c *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(pathEnds)(c, args, to)
}

func pathEnds(ctx context.Context, c *api.Client) ([]string, error) {
	words := []string{"host", "lan\tthe router", "internet"}
	ports, err := c.Ports(ctx)
	for _, p := range ports {
		words = append(words, p.Guest+"\tguest on "+p.Network)
	}
	return words, err
}
