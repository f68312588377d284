// Package cli is the face for people at a terminal: it turns arguments into
// calls of the API and answers into text.
//
// It owns commands, flags, help, tables, exit codes, and what of QEMU's command
// line is written for a guest's NIC. It does not know the engine, nor anything
// of the host: all it knows comes from package api.
//
// Start reading at Main below; the commands are in network.go, document.go,
// live.go, change.go and qemu.go, QEMU's bridge helper in bridge_helper.go, the output
// in output.go and table.go.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

// Exit codes.
const (
	// ExitDone: it was done, or there was nothing to do.
	ExitDone = 0
	// ExitFailed: it was refused or failed.
	ExitFailed = 1
	// ExitUsage: the command line makes no sense.
	ExitUsage = 2
	// ExitUnreachable: no daemon answers.
	ExitUnreachable = 3
)

// HelperName is the name under which the program is QEMU's bridge helper.
const HelperName = "drawbridge-bridge-helper"

// Extra is what the program adds to the commands of this package.
type Extra struct {
	// Version of the program.
	Version string
	// Commands that do not go over the API, such as the daemon itself.
	Commands []*cobra.Command
	// Offline makes a door to the same API while no daemon runs, under the
	// daemon's own lock, for the commands that are needed then: plan, change, doctor
	// and advise.
	// stop closes it. Nil if there is no such thing.
	Offline func(ctx context.Context, socket string) (door string, stop func(), err error)
}

// Main runs the command line args, args[0] being the program's name, and
// returns the exit code. An error of one of Extra.Commands counts as
// ExitFailed, unless it has a method ExitCode() int.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer, extra Extra) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, extra: extra, exec: execQEMU, now: time.Now, resolve: net.DefaultResolver.LookupNetIP}
	return a.main(ctx, args)
}

func (a *app) main(ctx context.Context, args []string) int {
	if len(args) == 0 {
		args = []string{"drawbridge"}
	}
	if filepath.Base(args[0]) == HelperName {
		return a.bridgeHelper(ctx, args[1:])
	}
	root := a.root()
	root.SetArgs(args[1:])
	defer a.stopOffline()
	c, err := root.ExecuteContextC(ctx)
	code := a.exitCode(c, err)
	a.sayPending()
	return code
}

// app is one run of the program.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	extra          Extra
	socket         string
	format         string
	noColor        bool
	client         *api.Client
	// told are the changes that this command is about or lists: nobody need be reminded.
	told []string
	stop func()
	// exec replaces the process; tests put something else here.
	exec func(argv []string) error
	now  func() time.Time
	// resolve finds the addresses of a name; network is "ip", as for net.Resolver.LookupNetIP.
	resolve func(ctx context.Context, network, name string) ([]netip.Addr, error)
}

// offline opens the door of Extra.Offline for the commands that need no daemon, if no daemon
// answers and we may (root).
func (a *app) offline(c *cobra.Command) error {
	words := strings.Fields(c.CommandPath())
	if a.extra.Offline == nil || len(words) < 2 || !slices.Contains([]string{"plan", "change", "doctor", "why", "advise"}, words[1]) || os.Geteuid() != 0 {
		return nil
	}
	if conn, err := net.Dial("unix", a.socket); err == nil {
		return conn.Close()
	}
	door, stop, err := a.extra.Offline(c.Context(), a.socket)
	if err != nil {
		return err
	}
	a.socket, a.stop = door, stop
	return a.prepare(c)
}

func (a *app) stopOffline() {
	if a.stop != nil {
		a.stop()
		a.stop = nil
	}
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitCode says on stderr what went wrong, in one line, and returns the code.
func (a *app) exitCode(c *cobra.Command, err error) int {
	if err == nil {
		return ExitDone
	}
	if coded, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		a.complain(err.Error())
		return coded.ExitCode()
	}
	if _, ok := errors.AsType[usageError](err); ok {
		a.complain(err.Error() + "\n" + helpHint(c))
		return ExitUsage
	}
	switch {
	case errors.Is(err, api.ErrUnreachable):
		a.complain(err.Error() + "\nstart it with: systemctl start drawbridge   (or, without systemd: sudo drawbridge daemon)")
		return ExitUnreachable
	case errors.Is(err, context.Canceled):
		a.complain("interrupted; see drawbridge status for what was done")
	default:
		a.complain(err.Error())
	}
	return ExitFailed
}

func (a *app) complain(text string) {
	first, rest, more := strings.Cut(text, "\n")
	fmt.Fprintln(a.stderr, "drawbridge: "+clean(first))
	if more {
		fmt.Fprintln(a.stderr, rest)
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "drawbridge",
		Short: "Networks for KVM guests, changed and repaired safely",
		Long: `Drawbridge gives the KVM guests of this host their networks: virtual switches with
NAT to the outside, or isolated from it, with DHCP, DNS and IPv6; or they stand on the LAN beside
the host. Every change is planned, verified, and taken back if it goes wrong.`,
		Example: `  drawbridge advise                     # bridge or NAT, for this host, and why
  drawbridge network create default
  drawbridge qemu --nic network=default,name=ubuntu-cloud -- qemu-system-x86_64 -m 1G disk.img
  drawbridge forward add 8080 ubuntu-cloud:80
  drawbridge status`,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return errors.Join(a.prepare(c), a.offline(c)) },
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetIn(a.stdin)
	socket := api.DefaultSocket
	if s := os.Getenv("DRAWBRIDGE_SOCKET"); s != "" {
		socket = s
	}
	f := root.PersistentFlags()
	f.StringVar(&a.socket, "socket", socket, "`PATH` of the daemon's socket (or environment DRAWBRIDGE_SOCKET)")
	f.StringVarP(&a.format, "output", "o", "table", "`FORM` of the output: table, json or yaml")
	f.BoolVar(&a.noColor, "no-color", false, "no colours (also by environment NO_COLOR)")
	_ = root.RegisterFlagCompletionFunc("output", func(c *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
		return fixed(forms(c)...)(c, args, to)
	})
	root.AddCommand(
		a.statusCommand(), a.doctorCommand(), a.whyCommand(), a.adviseCommand(), a.topologyCommand(), a.networkCommand(), a.upCommand(), a.downCommand(),
		a.planCommand(), a.applyCommand(), a.exportCommand(), a.forwardCommand(), a.reservationCommand(), a.leaseCommand(),
		a.guestCommand(), a.portCommand(), a.qemuCommand(), a.changeCommand(), a.monitorCommand(), a.logCommand(), a.undoCommand(), a.captureCommand(),
		a.webCommand(), a.sessionCommand(), a.tokenCommand(),
		a.modeCommand(), a.versionCommand(), manCommand(),
	)
	root.AddCommand(a.extra.Commands...)
	a.inSections(root)
	root.SetHelpCommand(helpCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
	return root
}

// strict makes an unknown subcommand, a missing one, and a bad flag a usage
// error: cobra alone prints help and calls it success.
func strict(c *cobra.Command) {
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError{flagError(c, err)} })
	if c.HasSubCommands() && c.RunE == nil && c.Run == nil {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return unknown(c, args[0])
			case c.HasParent():
				return usage("%s needs a command: %s", path(c), strings.Join(names(c), ", "))
			}
			return c.Help()
		}
	} else if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usage("%s: wrong number of arguments; usage: %s", path(c), c.UseLine())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

// helpCommand is cobra's, except that an unknown command is an error.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Explain a command", Example: "  drawbridge help network create",
		RunE: func(c *cobra.Command, args []string) error {
			about, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usage("there is no command %q", strings.Join(args, " "))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// path is how a command is called, without the program's name.
func path(c *cobra.Command) string {
	_, rest, _ := strings.Cut(c.CommandPath(), " ")
	return rest
}

func names(c *cobra.Command) []string {
	var out []string
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			out = append(out, sub.Name())
		}
	}
	return out
}

// moreForms is the annotation of a command that has forms of output of its own.
const moreForms = "forms"

// forms are what --output may be for a command.
func forms(c *cobra.Command) []string {
	return append([]string{"table", "json", "yaml"}, strings.Fields(c.Annotations[moreForms])...)
}

// prepare runs before every command.
func (a *app) prepare(c *cobra.Command) error {
	if forms := forms(c); !slices.Contains(forms, a.format) {
		last := len(forms) - 1
		return usage("--output %s: there are %s and %s", a.format, strings.Join(forms[:last], ", "), forms[last])
	}
	a.client = api.Dial(a.socket)
	return nil
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Say which version this is, and which the daemon is", Args: cobra.NoArgs,
		Example: "  drawbridge version",
		RunE: func(c *cobra.Command, _ []string) error {
			v := struct {
				Client string `json:"client"`
				Daemon string `json:"daemon"`
			}{Client: a.extra.Version}
			if s, err := a.client.Status(c.Context()); err == nil {
				v.Daemon = s.Version
			}
			return a.show(v, func(w *writer) {
				w.line("drawbridge " + v.Client)
				if v.Daemon != "" && v.Daemon != v.Client {
					w.line("daemon     " + v.Daemon)
				}
			})
		},
	}
}
