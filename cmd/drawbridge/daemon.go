package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"drawbridge/internal/dhcp"
	"drawbridge/internal/engine"
	"drawbridge/internal/guard"
	"drawbridge/internal/host"
	"drawbridge/internal/hostconf"
	"drawbridge/internal/linux"
	"drawbridge/internal/rest"
	"drawbridge/internal/services"
	"drawbridge/internal/spec"
	"drawbridge/internal/store"
	"drawbridge/internal/txn"
)

// settings are the flags of the daemon.
type settings struct {
	stateDir, runDir, socket string
	defaultNetwork           bool
	ownTables                bool
	guestsUnit               string
	guardScope               bool
	coexist, firewalldFiles  string
	logLevel                 slog.Level
	web                      rest.Web
}

const defaultStateDir = "/var/lib/drawbridge"

func daemonCommand() *cobra.Command {
	var s settings
	var level string
	var origins []string
	c := &cobra.Command{
		Use:   "daemon",
		Short: "Run the daemon in the foreground",
		Long: "Run the daemon in the foreground. It makes the host what the document says, answers the\n" +
			"other commands on its socket, and puts back what is changed behind its back. Ending it\n" +
			"leaves networks, rules and services as they are.",
		Example: "  drawbridge daemon\n  drawbridge daemon --listen 127.0.0.1:8420   # with the web page; drawbridge web makes a login link\n  drawbridge daemon --state-dir /tmp/s --run-dir /tmp/r   # a second one, in a network namespace",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := s.logLevel.UnmarshalText([]byte(level)); err != nil {
				return fmt.Errorf("--log-level: %q is not debug, info, warn or error", level)
			}
			if s.coexist != "on" && s.coexist != "observe" {
				return fmt.Errorf("--coexist: %q is not on or observe", s.coexist)
			}
			if !c.Flags().Changed("socket") {
				s.socket = filepath.Join(s.runDir, "drawbridge.sock")
			}
			if err := s.readWeb(origins); err != nil {
				return err
			}
			return runDaemon(c.Context(), s)
		},
	}
	f := c.Flags()
	s.flags(c)
	f.StringVar(&s.socket, "socket", "", "where to listen (default RUN-DIR/drawbridge.sock)")
	f.BoolVar(&s.defaultNetwork, "default-network", false, "create the NAT network \"default\" if there never was a network")
	f.BoolVar(&s.ownTables, "own-tables", true, "keep other programs, and nft flush ruleset, out of drawbridge's nftables tables (Linux 6.9)")
	f.StringVar(&s.firewalldFiles, "firewalld-files", "", "where the files of the firewalld in this network namespace are, if not in the host's")
	_ = f.MarkHidden("firewalld-files") // it is there
	f.StringVar(&s.coexist, "coexist", "on", "on: make exceptions for guests in other programs' firewalls; observe: only report (see doctor)")
	f.StringVar(&s.guestsUnit, guestsUnitFlag, "", guestsUnitHelp)
	f.BoolVar(&s.guardScope, "guard-scope", false, "have systemd give the process that guards a change a scope of its own, which the daemon's unit does not end")
	f.StringVar(&s.web.Listen, "listen", "", "also serve the web page and the API by TCP at ADDRESS:PORT, plain HTTP (default: off until \"drawbridge web\")")
	f.BoolVar(&s.web.Anywhere, "listen-anywhere", false, "let --listen be no loopback address: others on the network can read along, so put TLS before it")
	f.StringArrayVar(&origins, "web-origin", nil, "what browsers call the page behind a proxy, such as https://kvm1.example.com (repeatable)")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return c
}

// flags are those of every process that works on the host.
func (s *settings) flags(c *cobra.Command) {
	c.Flags().StringVar(&s.stateDir, "state-dir", defaultStateDir, "where the document, the ledger and the leases are kept")
	c.Flags().StringVar(&s.runDir, "run-dir", "/run/drawbridge", "where sockets and live ports are kept")
}

// What the daemon and its guards are told alike.
const (
	guestsUnitFlag = "guests-unit"
	guestsUnitHelp = "systemd unit that runs the guest services (default: a process started by the daemon)"
)

// absolute makes the folders' names good for the guard and the guest services
// too, which run elsewhere.
func (s *settings) absolute() (err error) {
	if s.stateDir, err = filepath.Abs(s.stateDir); err != nil {
		return err
	}
	s.runDir, err = filepath.Abs(s.runDir)
	return err
}

// running is the daemon put together.
type running struct {
	settings
	log      *slog.Logger
	lock     *guard.Lock
	store    *store.Store
	host     *txn.Mux
	linux    *linux.Host
	resolved *hostconf.Resolved
	// zones is firewalld's.
	zones    *hostconf.Firewalld
	adapter  *services.Adapter
	profiles *hostconf.Profiles
	engine   *engine.Engine
	counts   *store.Tally
	keyStore *store.Keys
	hints    chan engine.Hint
	// parameters are the names of the sysctls that doctor looked at last.
	parameters atomic.Pointer[[]string]
	// openTables: the kernel cannot keep others out of our nftables tables.
	openTables bool
}

func runDaemon(ctx context.Context, s settings) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	if os.Geteuid() != 0 {
		return errors.New("the daemon changes the host's networks and needs root: sudo drawbridge daemon")
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: s.logLevel}))
	if err := s.absolute(); err != nil {
		return err
	}
	if s.guardScope {
		if err := killedLast(likeOthers); err != nil {
			log.Warn("the daemon goes on as its guards do", "err", err)
		}
	}
	d, err := assemble(s, guard.Daemon, log)
	if err != nil {
		return err
	}
	defer d.close()
	ln, err := listen(s.socket)
	if err != nil {
		return err
	}
	if s.ownTables {
		if err := d.linux.OwnTables(ctx); err != nil {
			d.openTables = errors.Is(err, linux.ErrNoOwner)
			log.Warn("nftables tables are open to other programs; what they break is put back", "why", err)
		}
	}
	server, err := d.newServer()
	if err != nil {
		return err
	}
	if err := d.engine.Start(ctx); err != nil {
		return err
	}
	if err := markBoot(s.runDir); err != nil {
		return err
	}
	if s.defaultNetwork {
		d.createDefault(ctx)
	}
	if err := d.follow(ctx, server.Stir); err != nil {
		return err
	}
	d.openWeb(server)
	if why := d.resolved.Absence(ctx); why != nil {
		log.Info("the host's resolver is not told of guests' names", "why", why)
	}
	go giveBack(ctx, log)
	log.Info("ready", "socket", s.socket)
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("service manager was not told", "err", err)
	}
	var counting sync.WaitGroup
	counting.Go(func() { d.engine.Tally.Run(ctx) })
	counting.Go(func() { d.engine.Keep(ctx) })
	err = server.Serve(ctx, ln)
	stop()
	counting.Wait() // for the last saving
	if _, notifyErr := daemon.SdNotify(false, daemon.SdNotifyStopping); notifyErr != nil {
		log.Warn("service manager was not told", "err", notifyErr)
	}
	log.Info("stopped; networks stay as they are")
	return err
}

// assemble opens everything and ties it together; nothing is changed yet.
func assemble(s settings, as guard.Role, log *slog.Logger) (d *running, err error) {
	d = &running{settings: s, log: log, hints: make(chan engine.Hint, 64)}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{{s.stateDir, 0o711}, {s.runDir, 0o755}} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return d, fmt.Errorf("make directory: %w", err)
		}
	}
	// The guard of a change that takes it back just now has the lock.
	if d.lock, err = guard.Wait(context.Background(), s.runDir, as); err != nil {
		return d, err
	}
	if d.store, err = store.Open(s.stateDir); err != nil {
		return d, err
	}
	ports, err := store.OpenPorts(s.runDir)
	if err != nil {
		return d, err
	}
	if err := d.openHost(); err != nil {
		return d, err
	}
	boot, err := bootID()
	if err != nil {
		return d, err
	}
	d.engine = engine.New(engine.Config{
		Host: d.host, Guard: guards(s, log), Manager: d.hostManager(), Reach: d.linux, Store: d.store, Ports: ports, Taps: taps{d.linux}, Services: guests{d.adapter}, Log: log,
		Seed: machineID(), BootID: boot, Boottime: boottime, Resolved: d.resolved.Available,
		FirstSinceBoot: firstSinceBoot(s.runDir, boot), Flows: flows{}, Doors: doors{d.linux}, Paths: d.linux, Firewalls: &firewalls{Host: d.linux, zones: d.zones, observe: s.coexist != "on"}, Observe: s.coexist != "on",
	})
	return d, d.countForwards()
}

// openHost makes the host of its adapters.
func (d *running) openHost() (err error) {
	if d.linux, err = linux.New(d.log); err != nil {
		return err
	}
	if d.adapter, err = guestServices(d.settings, d.linux, d.log); err != nil {
		return err
	}
	d.resolved = hostconf.NewResolved("")
	d.zones = hostconf.NewFirewalld("", d.firewalldRoot(), func() { d.hint(engine.Hint{Object: "firewalld"}) })
	d.host = txn.NewMux()
	d.host.Handle(d.linux, d.linux.Kinds()...)
	d.host.Handle(d.adapter, host.KindPool, host.KindReservation, host.KindRouter, host.KindZone, host.KindGuest, host.KindSnoop)
	d.host.Handle(d.resolved, host.KindResolver)
	d.host.Handle(d.zones, host.KindInZone)
	if ownsNetwork() {
		d.profiles = hostconf.NewProfiles(d.runDir, d.stateDir, func(note string) { d.log.Warn("host's own network files", "note", note) })
		d.host.Handle(d.profiles, host.KindProfile)
		d.host.Handle(hostconf.NewHandsOff(d.runDir, func(note string) { d.log.Warn("host's own network managers", "note", note) }), host.KindUnmanaged)
	}
	return nil
}

func (d *running) close() {
	if d.resolved != nil {
		d.resolved.Close()
	}
	if d.zones != nil {
		d.zones.Close()
	}
	if d.linux != nil {
		d.linux.Close()
	}
	if d.counts != nil {
		d.counts.Close()
	}
	if d.keyStore != nil {
		d.keyStore.Close()
	}
	if d.store != nil {
		d.store.Close()
	}
	if d.lock != nil {
		d.lock.Release()
	}
}

// createDefault gives a host that never had a network its first one.
func (d *running) createDefault(ctx context.Context) {
	if d.store.Document().Revision > 0 {
		return
	}
	n := spec.Network{Name: "default", Autostart: true, Started: true}
	res, err := d.engine.Do(ctx, engine.CreateNetwork{Network: n}, engine.Options{})
	if err != nil {
		d.log.Error("the default network could not be made", "err", err)
		return
	}
	n = res.Document.Networks["default"]
	for _, s := range n.Subnets {
		d.log.Info("network made", "name", n.Name, "bridge", n.Bridge, "subnet", s.Prefix)
	}
}

// follow begins to listen to the host. stir is called for what the engine tells no event
// of: most of what others do to links, as the kernel does not say who did it, and parameters.
func (d *running) follow(ctx context.Context, stir func()) error {
	d.linux.OnRelease(func(tap string) { d.hint(engine.Hint{Object: tap}) })
	events, err := d.linux.Watch(ctx)
	if err != nil {
		return fmt.Errorf("watch the host: %w", err)
	}
	go func() {
		for e := range events {
			d.hint(engine.Hint{Kind: string(e.Kind), Object: e.Link, Who: e.Who})
			stir()
		}
	}()
	go d.followParameters(ctx, stir)
	go d.followGuests(ctx)
	go d.followNeighbours(ctx)
	go d.retryPorts(ctx)
	go func() {
		for range d.resolved.Restarts(ctx) {
			d.hint(engine.Hint{Object: "resolver"})
		}
	}()
	go d.engine.Follow(ctx, d.hints)
	return nil
}

// hint passes on that something changed; if the engine is behind, it will look
// anyway.
func (d *running) hint(h engine.Hint) {
	select {
	case d.hints <- h:
	default:
	}
}

func (d *running) syncLeases(ctx context.Context) {
	if err := d.engine.SyncLeases(ctx); err != nil && ctx.Err() == nil {
		d.log.Warn("forwards may not follow their guests", "err", err)
	}
}

// followGuests passes leases on as events, and notices when the process ends.
func (d *running) followGuests(ctx context.Context) {
	const pause = 200 * time.Millisecond
	for ctx.Err() == nil {
		var answering atomic.Bool
		err := d.adapter.Watch(ctx, func() {
			answering.Store(true)
			d.engine.Tell(engine.Event{Kind: engine.ServicesEvent, Action: "answering", Object: "services", Text: "guest services answer"})
			d.syncLeases(ctx)
		}, func(c dhcp.Change) {
			if c.Lost {
				go d.syncLeases(ctx)
				return
			}
			d.engine.LeaseChanged(ctx, leaseView(c.Lease), c.Lease.Live(time.Now()))
			d.engine.Tell(leaseEvent(c.Lease))
		})
		if ctx.Err() != nil {
			return
		}
		if answering.Load() {
			d.engine.Tell(engine.Event{Kind: engine.ServicesEvent, Action: "gone", Object: "services", Text: "guest services do not answer any more"})
		}
		d.log.Debug("guest services ended their conversation", "err", err)
		d.hint(engine.Hint{Object: "services"})
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// retryPause is how long another program may have given up port 53 or 67 before
// our services take it.
const retryPause = 2 * time.Second

func (d *running) retryPorts(ctx context.Context) {
	ticker := time.NewTicker(retryPause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := d.adapter.Retry(); err != nil {
			d.log.Debug("ports that others had", "err", err)
		}
	}
}

func listen(path string) (*net.UnixListener, error) {
	if len(path) > 107 {
		return nil, fmt.Errorf("listen: %s is longer than the 107 bytes that a unix socket's path can have", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("listen: a daemon answers on %s already", path)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	// Everybody may connect; who may do what is decided by peer credentials.
	if err := os.Chmod(path, 0o666); err != nil {
		ln.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return ln, nil
}

// machineID seeds what is made up; a host without one gets its host name.
func machineID() string {
	for _, path := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		if b, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(b))) > 0 {
			return strings.TrimSpace(string(b))
		}
	}
	name, _ := os.Hostname() // "" is a seed too
	return name
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// boottime reads CLOCK_BOOTTIME in nanoseconds.
func boottime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // cannot fail on any kernel since 2.6.39
	}
	return syscall.TimespecToNsec(syscall.Timespec(ts))
}

// bootFile in the run directory says for which boot networks were autostarted.
const bootFile = "boot"

func firstSinceBoot(runDir, boot string) bool {
	b, err := os.ReadFile(filepath.Join(runDir, bootFile))
	return err != nil || string(b) != boot
}

func markBoot(runDir string) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(runDir, bootFile), []byte(boot), 0o644)
}
