package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/user"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
	"drawbridge/internal/capture"
)

// captureFlags say what is captured, how long, and where to.
type captureFlags struct {
	forward, file string
	count         uint64
	duration      time.Duration
	snap          int
}

func (a *app) captureCommand() *cobra.Command {
	var f captureFlags
	c := &cobra.Command{
		Use: "capture [GUEST|PORT|NETWORK] [FILTER…]", Short: "Write the packets of a guest, a port or a network to a file, or show them in Wireshark",
		Long: `Write packets as pcapng, by name: those of a guest's NIC, or all that cross a network's
bridge (mode direct: the NIC that guests share, with what the host itself sends). The file
says what it is of. It ends with ^C, after --count packets or --duration, or with the guest;
in each case it is whole.

With --forward only what comes through that forward is taken: without a name it is looked
for on the forward's network. FILTER is in the language of pcap-filter(7) and needs tcpdump,
which compiles it.

Root and members of the group drawbridge may capture. The daemon opens the socket, the
packets are read and written by this command, as the user who called it.`,
		Example: `  sudo drawbridge capture web -w web.pcapng
  sudo drawbridge capture default -w - | wireshark -k -i -
  sudo drawbridge capture web -w dns.pcapng --duration 30s port 53
  sudo drawbridge capture --forward 8080 -w - | tcpdump -nr -
  ssh host sudo drawbridge capture web -w - | wireshark -k -i -`,
		Args: cobra.ArbitraryArgs, ValidArgsFunction: a.completeFirst(captureTargets),
		RunE: func(c *cobra.Command, args []string) error { return a.capture(c.Context(), f, args) },
	}
	c.Flags().StringVarP(&f.file, "write", "w", "", "`FILE` to write, - for standard output (default, unless that is a terminal)")
	c.Flags().StringVar(&f.forward, "forward", "", "only what comes through this `FORWARD`, as forward ls names it")
	c.Flags().Uint64VarP(&f.count, "count", "c", 0, "end after `N` packets (default: go on)")
	c.Flags().DurationVar(&f.duration, "duration", 0, "end after this `TIME`, such as 30s (default: go on)")
	c.Flags().IntVarP(&f.snap, "snaplen", "s", 0, "keep `BYTES` of each packet (default: all)")
	_ = c.RegisterFlagCompletionFunc("forward", a.complete(forwardIDs))
	return c
}

func (a *app) capture(ctx context.Context, f captureFlags, args []string) error {
	if f.snap < 0 || f.duration < 0 {
		return usage("--snaplen and --duration are not negative")
	}
	if f.file == "" && isTerminal(a.stdout) {
		return usage("say where to: -w FILE, or -w - | wireshark -k -i -")
	}
	target, filter, err := a.captureWhat(ctx, f.forward, args)
	if err != nil {
		return err
	}
	// Before anything is opened: a filter with a fault makes no empty file.
	if _, err := capture.Compile(ctx, filter); err != nil {
		return err
	}
	point, socket, err := a.client.OpenCapture(ctx, api.CaptureRequest{Target: target})
	if err != nil {
		return err
	}
	out, closeOut, err := a.captureFile(f.file)
	if err != nil {
		return errors.Join(err, socket.Close())
	}
	o := capture.Options{
		Index: point.Index, Promiscuous: point.Kind == "network" && !point.Shared, Filter: filter, Snap: f.snap, Count: f.count,
		About: capture.About{
			Comment: a.captureComment(point, f.forward, filter), Program: "drawbridge " + a.extra.Version, OS: runtime.GOOS,
			Interface: point.Link, Description: pointText(point),
		},
	}
	if f.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.duration)
		defer cancel()
	}
	res, err := capture.Run(ctx, socket, out, o, func() {
		fmt.Fprintf(a.stderr, "capturing on %s: %s\n", point.Link, clean(pointText(point)))
	})
	if err := errors.Join(err, closeOut()); err != nil {
		return err
	}
	text := fmt.Sprintf("%s, %d dropped by the kernel", count(int(res.Packets), "packet"), res.Dropped)
	if res.Gone {
		text += "; " + point.Link + " is gone"
	}
	fmt.Fprintln(a.stderr, text)
	return nil
}

// captureWhat finds the target and the filter. With a forward the target may be left
// out, unless there is a filter too.
func (a *app) captureWhat(ctx context.Context, forward string, args []string) (target, filter string, err error) {
	if forward == "" {
		if len(args) == 0 {
			return "", "", usage("capture what? A guest, a port, a network, or --forward")
		}
		return args[0], strings.Join(args[1:], " "), nil
	}
	list, err := a.client.ShowForwards(ctx, forward)
	if err != nil {
		return "", "", err
	}
	var parts []string
	for _, fwd := range list {
		part, err := forwardFilter(fwd)
		if err != nil {
			return "", "", err
		}
		parts = append(parts, part)
		target = fwd.Network
	}
	if len(args) > 0 {
		target, args = args[0], args[1:]
	}
	filter = strings.Join(parts, " or ")
	if len(args) > 0 {
		filter = "(" + filter + ") and (" + strings.Join(args, " ") + ")"
	}
	return target, filter, nil
}

// forwardFilter is what comes through a forward, as it is seen at the guest: after
// its address was translated.
func forwardFilter(f api.ForwardStatus) (string, error) {
	if f.Address == "" {
		return "", fmt.Errorf("forward %s leads nowhere yet: %s", f.ID, f.Waiting)
	}
	if addr, err := netip.ParseAddr(f.Address); err == nil {
		return "host " + addr.String(), nil
	}
	at, err := netip.ParseAddrPort(f.Address)
	if err != nil {
		return "", fmt.Errorf("forward %s: %w", f.ID, err)
	}
	// A range keeps its length: the last port is as far from the first.
	ports := fmt.Sprintf("port %d", at.Port())
	if n := rangeLength(f.Listen); n > 0 {
		ports = fmt.Sprintf("portrange %d-%d", at.Port(), int(at.Port())+n)
	}
	return fmt.Sprintf("(host %s and %s %s)", at.Addr(), f.Proto, ports), nil
}

// rangeLength is how many ports follow the first in PORT-PORT.
func rangeLength(listen string) int {
	ports := listen[strings.LastIndex(listen, ":")+1:]
	var first, last int
	if n, _ := fmt.Sscanf(ports, "%d-%d", &first, &last); n != 2 {
		return 0
	}
	return last - first
}

func pointText(p api.CapturePoint) string {
	on := "bridge " + p.Bridge
	if p.Shared {
		on = "which shares " + p.Bridge
	}
	if p.Kind == "network" {
		return strings.TrimSpace(fmt.Sprintf("network %s, %s  %s", p.Network, on, strings.Join(p.Addresses, " ")))
	}
	who := p.Guest
	if who == "" {
		who = "a guest"
	}
	return strings.TrimSpace(fmt.Sprintf("port %s of %s on network %s, %s  %s %s", p.Link, who, p.Network, on, p.MAC, strings.Join(p.Addresses, " ")))
}

func (a *app) captureComment(p api.CapturePoint, forward, filter string) string {
	lines := []string{"drawbridge capture of " + pointText(p)}
	if p.Host != "" {
		lines = append(lines, "host: "+p.Host)
	}
	if forward != "" {
		lines = append(lines, "forward: "+forward)
	}
	if filter != "" {
		lines = append(lines, "filter: "+filter)
	}
	who := fmt.Sprint("uid ", os.Getuid())
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	return strings.Join(append(lines, fmt.Sprintf("begun %s by %s", a.now().Format(time.RFC3339), who)), "\n")
}

// captureFile opens where the capture goes. Only its owner may read it: it may
// hold what others said in confidence.
func (a *app) captureFile(path string) (io.Writer, func() error, error) {
	if path == "" || path == "-" {
		return a.stdout, func() error { return nil }, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}
