// Package scripts runs the whole daemon, each time on a host of its own made of
// namespaces, as scripts that a newcomer can read: testdata/*.txtar.
//
// Beside the commands of testscript (https://pkg.go.dev/github.com/rogpeppe/go-internal/testscript)
// a script has:
//
//	daemon start [ARGS]   start the daemon and wait until it answers
//	daemon stop           end it politely and wait
//	daemon kill           end it with SIGKILL and wait
//	daemon freeze         stop it where it is (SIGSTOP), as if it hung
//	daemon ended          wait until somebody else ended it
//	db ARGS               run the client
//	tty FILE ARGS         run the client on a terminal; the lines of FILE wait for text and type
//	host CMD ARGS         run any command on the host
//	lan CMD ARGS          run any command on the machine beside it
//	within LIMIT REGEXP [!] db|host|lan CMD ARGS
//	                      repeat a command until its output matches, at most so long
//	services pid|kill     print, or kill, the process that serves guests
//	cable HOST LAN        another cable between host and LAN: a link on each
//	guest NAME BRIDGE     a guest without QEMU: a namespace behind a port of BRIDGE
//	guest NAME TAP tap    the same, behind a tap that attach made, which it opens as QEMU would
//	in NAME CMD ARGS      run a command in that guest; shells find $WORK in their environment
//	vm boot NAME NIC      a guest with QEMU: drawbridge qemu --nic NIC,name=NAME; it asks for an address
//	                      by DHCP and serves http
//	vm run NAME COMMAND   run a line of shell in it
//	vm kill NAME          end its QEMU with SIGKILL
//	vm gone NAME          wait until its QEMU has ended
//	stored NETWORK MAC ADDRESS
//	                      a reservation that the document has, whoever let it in
//	calls WHO PROTO ADDRESS:PORT SOURCE
//	                      WHO (lan, host or a guest) asks a server that answers with the
//	                      address that it sees, tcp or udp, until it says SOURCE
package scripts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"drawbridge/internal/nettest"
)

// program is the binary under test, built once.
var program string

// programEnv names a program that is built already: there is no compiler in a guest.
const programEnv = "DRAWBRIDGE_SCRIPTS_PROGRAM"

func TestMain(m *testing.M) {
	if built := os.Getenv(programEnv); built != "" {
		program = built
		os.Setenv("DRAWBRIDGE", program)
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "drawbridge-scripts")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "drawbridge")
	build := exec.Command("go", "build", "-o", program, "drawbridge/cmd/drawbridge")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	// The guest services run as nobody and execute the binary.
	if err := os.Chmod(dir, 0o755); err != nil {
		panic(err)
	}
	// For what scripts run on the host.
	if err := os.Setenv("DRAWBRIDGE", program); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func TestScripts(t *testing.T) {
	nettest.Need(t, nettest.Root, "nft", "ip", "ping", "dig", "busybox", "jq", "socat", "setpriv", "curl", "tcpdump", "capinfos")
	testscript.Run(t, params)
}

var params = testscript.Params{
	Dir:                 "testdata",
	RequireExplicitExec: true,
	Setup:               setup,
	Condition:           condition,
	Cmds: map[string]func(*testscript.TestScript, bool, []string){
		"daemon": cmdDaemon, "db": run(client), "host": run(onHost), "lan": run(onLAN),
		"within": cmdWithin, "services": cmdServices, "cable": cmdCable, "guest": cmdGuest, "vm": cmdVM, "tty": cmdTTY, "in": run(inGuest), "calls": cmdCalls,
		"stored": cmdStored,
	},
}

// condition knows [kernel:MAJOR.MINOR], that version or a later one, and [vlans], a
// kernel whose bridges tell them apart.
func condition(cond string) (bool, error) {
	if cond == "vlans" {
		return exec.Command("unshare", "-n", "ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1").Run() == nil, nil
	}
	least, ok := strings.CutPrefix(cond, "kernel:")
	var want, have [2]int
	if _, err := fmt.Sscanf(least, "%d.%d", &want[0], &want[1]); !ok || err != nil {
		return false, fmt.Errorf("unknown condition %q", cond)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return false, err
	}
	if _, err := fmt.Sscanf(string(release), "%d.%d", &have[0], &have[1]); err != nil {
		return false, err
	}
	return slices.Compare(have[:], want[:]) >= 0, nil
}

// world is what one script has: a host in a LAN, and its guests.
type world struct {
	work      string
	host, lan *nettest.Node
	daemon    *exec.Cmd
	ended     chan error
	guests    map[string]*nettest.Node
	taps      []*os.File // both ends of the cables of guests behind taps
	images    *nettest.Guests
	vms       map[string]*nettest.Guest
}

type worldKey struct{}

func setup(env *testscript.Env) error {
	ctx := context.Background()
	w := &world{work: env.WorkDir, guests: map[string]*nettest.Node{}, vms: map[string]*nettest.Guest{}}
	if err := os.Chmod(env.WorkDir, 0o755); err != nil {
		return err
	}
	env.Values[worldKey{}] = w
	env.Setenv("DRAWBRIDGE", program)
	if err := makeScriptsExecutable(env.WorkDir); err != nil {
		return err
	}
	env.Defer(w.close)
	var err error
	if w.host, err = nettest.NewNode(ctx, "host", "nameserver 192.168.99.10\n"); err != nil {
		return err
	}
	if w.lan, err = nettest.NewNode(ctx, "lan", ""); err != nil {
		return err
	}
	return errors.Join(
		cable(ctx, w.host, "enp6s18", w.lan, "eth0"),
		w.host.IP(ctx, "addr add 192.168.99.66/24 dev enp6s18", "addr add 2001:db8:99::66/64 dev enp6s18 nodad", "link set enp6s18 up", "route add default via 192.168.99.1"),
		w.lan.IP(ctx, "addr add 192.168.99.1/24 dev eth0", "addr add 192.168.99.10/24 dev eth0", "addr add 203.0.113.1/32 dev lo", "addr add 2001:db8:99::10/64 dev eth0 nodad", "link set eth0 up",
			"route add 192.168.122.0/24 via 192.168.99.66"),
	)
}

// makeScriptsExecutable gives what the archive holds of scripts the right to be run.
func makeScriptsExecutable(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(text, []byte("#!")) {
			return err
		}
		return os.Chmod(path, 0o755)
	})
}

func (w *world) close() {
	w.endVMs()
	if w.daemon != nil {
		_ = w.daemon.Process.Kill()
		<-w.ended
	}
	for _, f := range w.taps {
		_ = f.Close()
	}
	for _, n := range w.guests {
		_ = n.Close()
	}
	for _, n := range []*nettest.Node{w.host, w.lan} {
		if n != nil {
			_ = n.Close()
		}
	}
}

func of(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// Each of these makes the command that a script asks for.
func client(ts *testscript.TestScript, args []string) *exec.Cmd {
	return of(ts).host.Command(context.Background(), program, args...)
}

func onHost(ts *testscript.TestScript, args []string) *exec.Cmd {
	return of(ts).host.Command(context.Background(), args[0], args[1:]...)
}

func onLAN(ts *testscript.TestScript, args []string) *exec.Cmd {
	return of(ts).lan.Command(context.Background(), args[0], args[1:]...)
}

func inGuest(ts *testscript.TestScript, args []string) *exec.Cmd {
	g := of(ts).guests[args[0]]
	if g == nil {
		ts.Fatalf("no guest %q", args[0])
	}
	return g.Command(context.Background(), args[1], args[2:]...)
}

type making func(*testscript.TestScript, []string) *exec.Cmd

// run makes a script command of something that makes a process.
func run(of making) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if len(args) == 0 {
			ts.Fatalf("no command")
		}
		cmd := of(ts, args)
		cmd.Dir, cmd.Env = ts.Getenv("WORK"), environment(ts)
		cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		if exit != nil {
			ts.Logf("[exit status %d]", exit.ExitCode())
		}
		if (err != nil) != neg {
			ts.Fatalf("unexpected result of %q: %v", args, err)
		}
	}
}

// environment tells shells where the script's own files are, as they start in /, and
// programs which characters there are.
func environment(ts *testscript.TestScript) []string {
	return append(os.Environ(), "WORK="+ts.Getenv("WORK"), "LC_ALL=C.UTF-8")
}

// cmdWithin repeats a command until its output matches.
func cmdWithin(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: within LIMIT REGEXP [!] db|host|lan|in CMD ARGS")
	}
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	want, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	args = args[2:]
	absent := args[0] == "!"
	if absent {
		args = args[1:]
	}
	of := map[string]making{"db": client, "host": onHost, "lan": onLAN, "in": inGuest}[args[0]]
	if of == nil {
		ts.Fatalf("within: %q is not db, host, lan or in", args[0])
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last []byte
	for end := time.Now().Add(limit); time.Now().Before(end); <-tick.C {
		cmd := of(ts, args[1:])
		cmd.Env = environment(ts)
		last, _ = cmd.CombinedOutput()
		if want.Match(last) != absent {
			return
		}
	}
	ts.Fatalf("%q did not come to %q within %s; last:\n%s", args, want, limit, last)
}

// cmdCalls asks again while there is no answer, as a client does whose first
// packet came before the server listened; a wrong answer is wrong at once.
func cmdCalls(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: calls WHO tcp|udp ADDRESS:PORT SOURCE")
	}
	to, err := netip.ParseAddrPort(args[2])
	ts.Check(err)
	family := "4"
	if to.Addr().Is6() {
		family = "6"
	}
	target := strings.ToUpper(args[1]) + family + ":" + args[2]
	if args[1] == "tcp" {
		target += ",connect-timeout=2"
	}
	of, who := inGuest, []string{args[0]}
	switch args[0] {
	case "lan":
		of, who = onLAN, nil
	case "host":
		of, who = onHost, nil
	}
	var last []byte
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		ask := of(ts, append(who, "socat", "-t0.5", "-T2", "-", target))
		ask.Stdin = strings.NewReader("whoami\n")
		last, _ = ask.CombinedOutput()
		seen, err := netip.ParseAddr(strings.Trim(strings.TrimSpace(string(last)), "[]"))
		if err != nil {
			continue
		}
		if seen.Unmap().String() != args[3] {
			ts.Fatalf("the guest saw %s", seen)
		}
		return
	}
	ts.Fatalf("no answer; last:\n%s", last)
}

func cmdDaemon(ts *testscript.TestScript, neg bool, args []string) {
	w := of(ts)
	if len(args) == 0 {
		ts.Fatalf("usage: daemon start|stop|kill|freeze|ended")
	}
	switch args[0] {
	case "start":
		w.start(ts, args[1:])
	case "stop", "kill", "ended":
		if w.daemon == nil {
			ts.Fatalf("no daemon runs")
		}
		if sig, ours := map[string]syscall.Signal{"stop": syscall.SIGTERM, "kill": syscall.SIGKILL}[args[0]]; ours {
			ts.Check(w.daemon.Process.Signal(sig))
		}
		select {
		case err := <-w.ended:
			if args[0] == "stop" {
				ts.Check(err)
			}
		case <-time.After(10 * time.Second):
			ts.Fatalf("the daemon did not end")
		}
		w.daemon = nil
	case "freeze":
		ts.Check(w.daemon.Process.Signal(syscall.SIGSTOP))
	default:
		ts.Fatalf("daemon %q: start, stop, kill, freeze or ended", args[0])
	}
}

func (w *world) start(ts *testscript.TestScript, args []string) {
	log, err := os.OpenFile(filepath.Join(w.work, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	ts.Check(err)
	defer log.Close()
	args = append([]string{"daemon", "--state-dir", filepath.Join(w.work, "state"), "--log-level", "debug"}, args...)
	w.daemon = w.host.Command(context.Background(), program, args...)
	w.daemon.Stderr, w.daemon.Stdout = log, log
	// The guest services outlive the daemon: they must not be killed with it.
	w.daemon.SysProcAttr.Pdeathsig = 0
	ts.Check(w.daemon.Start())
	ended := make(chan error, 1)
	w.ended = ended
	d := w.daemon
	go func() { ended <- d.Wait() }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); <-tick.C {
		if w.host.Command(context.Background(), program, "status").Run() == nil {
			return
		}
		select {
		case err := <-ended:
			text, _ := os.ReadFile(filepath.Join(w.work, "daemon.log"))
			ts.Fatalf("the daemon ended: %v\n%s", err, text)
		default:
		}
	}
	ts.Fatalf("the daemon does not answer")
}

// cmdServices finds the guest services by what status says: other hosts on this
// machine have such a process too.
func cmdServices(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: services pid|kill")
	}
	out, err := client(ts, []string{"status", "-o", "json"}).Output()
	ts.Check(err)
	var status struct {
		PID int `json:"services_pid"`
	}
	ts.Check(json.Unmarshal(out, &status))
	if status.PID == 0 {
		ts.Fatalf("no guest services run:\n%s", out)
	}
	switch args[0] {
	case "pid":
		fmt.Fprintln(ts.Stdout(), status.PID)
		ts.Setenv("SERVICES", strconv.Itoa(status.PID))
	case "kill":
		ts.Check(syscall.Kill(status.PID, syscall.SIGKILL))
	}
}

// cmdGuest makes a namespace whose eth0 is plugged into a bridge of the host, as
// another program would plug it.
func cmdGuest(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 && (len(args) != 3 || args[2] != "tap") {
		ts.Fatalf("usage: guest NAME BRIDGE, guest NAME TAP tap")
	}
	ctx := context.Background()
	w := of(ts)
	g, err := nettest.NewNode(ctx, args[0], "")
	ts.Check(err)
	w.guests[args[0]] = g
	if len(args) == 3 {
		ts.Check(w.plugTap(ctx, g, args[1]))
		return
	}
	ts.Check(cable(ctx, w.host, "tap-"+args[0], g, "eth0"))
	ts.Check(w.host.IP(ctx, "link set tap-"+args[0]+" master "+args[1]+" up"))
	ts.Check(g.IP(ctx, "link set eth0 up"))
}

func cmdCable(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cable HOST LAN")
	}
	w := of(ts)
	ts.Check(cable(context.Background(), w.host, args[0], w.lan, args[1]))
}

// cable joins two nodes by a veth pair.
func cable(ctx context.Context, a *nettest.Node, aName string, b *nettest.Node, bName string) error {
	return a.IP(ctx, fmt.Sprintf("link add %s type veth peer name %s netns %d", aName, bName, b.PID()))
}
