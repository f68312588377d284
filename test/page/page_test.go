package page

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"drawbridge/internal/nettest"
)

// limit of the whole run; it takes about a minute on a machine that does nothing else.
const limit = 8 * time.Minute

// TestPage makes the host, and then does what page.mjs asks for: it writes lines
// of "@do WHAT" and waits for an answer, "@pass NAME", and "@fail NAME" with the
// reasons after it.
func TestPage(t *testing.T) {
	nettest.Need(t, nettest.Root, "node", "npm", "chromium", "ip", "nft", "busybox", "ping")
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	install(ctx, t)
	w := newWorld(ctx, t)
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	shots := filepath.Join(here, "shots")
	if err := errors.Join(os.RemoveAll(shots), os.MkdirAll(shots, 0o755)); err != nil {
		t.Fatal(err)
	}
	script := w.host.Command(ctx, "node", filepath.Join(here, "page.mjs"))
	script.Env = append(os.Environ(), "DRAWBRIDGE="+w.program, "SHOTS="+shots, "SCRATCH="+w.dir, "ONLY="+os.Getenv("ONLY"), "HOME="+w.dir)
	script.Stderr = os.Stderr
	in, err := script.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := script.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	passed := w.follow(ctx, bufio.NewScanner(out), in)
	if err := script.Wait(); err != nil {
		t.Errorf("page.mjs: %v", err)
	}
	if passed == 0 {
		t.Error("nothing was tried")
	}
	if t.Failed() {
		log, _ := os.ReadFile(filepath.Join(w.dir, "daemon.log"))
		t.Logf("the daemon said:\n%s", log)
	}
}

// install puts playwright-core, of the version that is locked, beside the script.
func install(ctx context.Context, t *testing.T) {
	t.Helper()
	locked, err := os.Stat("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if made, err := os.Stat("node_modules/.package-lock.json"); err == nil && !made.ModTime().Before(locked.ModTime()) {
		return
	}
	_, err = nettest.Fetch(func() *exec.Cmd {
		return exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	})
	if err != nil {
		if os.Getenv("CI") == "" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
}

// world is a host with a daemon, in a LAN, with guests.
type world struct {
	t            *testing.T
	dir, program string
	host, lan    *nettest.Node
	guests       []*nettest.Node
	daemon       *exec.Cmd
	ended        chan error
	// coexist is how the daemon lives beside other programs' rules.
	coexist string
}

func newWorld(ctx context.Context, t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "drawbridge-page")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, coexist: "on", program: filepath.Join(dir, "drawbridge")}
	t.Cleanup(w.close)
	build := exec.CommandContext(ctx, "go", "build", "-o", w.program, "drawbridge/cmd/drawbridge")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the guest services run as nobody
		t.Fatal(err)
	}
	if w.host, err = nettest.NewNode(ctx, "kvm1", ""); err != nil {
		t.Fatal(err)
	}
	if w.lan, err = nettest.NewNode(ctx, "lan", ""); err != nil {
		t.Fatal(err)
	}
	w.must(w.cable(ctx, "enp6s18", w.lan, "eth0"))
	w.must(w.host.IP(ctx, "addr add 192.168.99.66/24 dev enp6s18", "link set enp6s18 up", "route add default via 192.168.99.1"))
	w.must(w.lan.IP(ctx, "addr add 192.168.99.1/24 dev eth0", "link set eth0 up"))
	w.start(ctx)
	// Guests call themselves by addresses of their own choice, which nobody else may lease.
	w.run(ctx, "network", "create", "default", "--ipv6", "off", "--subnet", "192.168.122.0/24", "--dhcp-range", "192.168.122.2-192.168.122.199")
	w.run(ctx, "network", "create", "lab", "--mode", "isolated", "--subnet", "10.9.0.0/24", "--ipv6", "off")
	w.guest(ctx, "web", "virbr0", "web")
	w.guest(ctx, "db", "virbr0", "db")
	// What a guest calls itself is the guest's choice.
	w.guest(ctx, "mail", "virbr0", `<img/src=x/onerror=document.title=1>`)
	w.run(ctx, "port", "attach", "default", "--name", "build")
	w.run(ctx, "port", "attach", "lab", "--name", "build")
	w.run(ctx, "port", "attach", "lab", "--name", "probe")
	w.run(ctx, "forward", "add", "8080", "web:80")
	w.run(ctx, "forward", "add", "2222", "build:22", "--network", "default")
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) run(ctx context.Context, args ...string) {
	w.t.Helper()
	_, err := w.host.Run(ctx, w.program, args...)
	w.must(err)
}

func (w *world) cable(ctx context.Context, name string, to *nettest.Node, far string) error {
	return w.host.IP(ctx, fmt.Sprintf("link add %s type veth peer name %s netns %d", name, far, to.PID()))
}

// guest is a namespace on a switch, with a lease, that pings the host.
func (w *world) guest(ctx context.Context, name, bridge, hostname string) {
	w.t.Helper()
	g, err := nettest.NewNode(ctx, name, "")
	w.must(err)
	w.guests = append(w.guests, g)
	w.must(w.cable(ctx, name, g, "eth0"))
	w.must(w.host.IP(ctx, "link set "+name+" master "+bridge+" up"))
	w.must(g.IP(ctx, "link set eth0 up"))
	_, err = g.Run(ctx, "busybox", "udhcpc", "-q", "-n", "-f", "-i", "eth0", "-s", "/bin/true", "-x", "hostname:"+hostname)
	w.must(err)
	address := map[string]string{"web": "192.168.122.241/24", "db": "192.168.122.242/24", "mail": "192.168.122.243/24"}[name]
	w.must(g.IP(ctx, "addr add "+address+" dev eth0", "route add default via 192.168.122.1"))
	ping := g.Command(ctx, "ping", "-q", "-i", "0.01", "-s", "1000", "192.168.122.1")
	w.must(ping.Start())
	w.t.Cleanup(func() { _ = ping.Wait() }) // ends with the guest
}

func (w *world) start(ctx context.Context) {
	w.t.Helper()
	log, err := os.OpenFile(filepath.Join(w.dir, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	w.must(err)
	defer log.Close()
	w.daemon = w.host.Command(context.WithoutCancel(ctx), w.program, "daemon", "--state-dir", filepath.Join(w.dir, "state"), "--log-level", "debug", "--coexist", w.coexist)
	w.daemon.Stdout, w.daemon.Stderr = log, log
	w.daemon.SysProcAttr.Pdeathsig = 0 // guest services outlive it
	w.must(w.daemon.Start())
	d, ended := w.daemon, make(chan error, 1)
	w.ended = ended
	go func() { ended <- d.Wait() }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ; ctx.Err() == nil; <-tick.C {
		if w.host.Command(ctx, w.program, "status").Run() == nil {
			return
		}
		select {
		case err := <-ended:
			w.t.Fatalf("the daemon ended: %v", err)
		default:
		}
	}
	w.t.Fatal("the daemon does not answer")
}

func (w *world) stop(sig syscall.Signal) {
	w.must(w.daemon.Process.Signal(sig))
	<-w.ended
}

// follow does what the script asks for until it ends, and counts what passed.
func (w *world) follow(ctx context.Context, lines *bufio.Scanner, in io.Writer) (passed int) {
	var name string
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "@do":
			switch rest {
			case "kill":
				w.stop(syscall.SIGKILL)
			case "stop":
				w.stop(syscall.SIGTERM)
			case "start":
				w.start(ctx)
			case "freeze":
				w.must(w.daemon.Process.Signal(syscall.SIGSTOP))
			case "observe", "on": // other programs' rules
				w.coexist = rest
				w.stop(syscall.SIGTERM)
				w.start(ctx)
			case "reach", "cut": // whether the first guest reaches the LAN
				err := w.guests[0].Command(ctx, "ping", "-q", "-c", "1", "-W", "2", "192.168.99.1").Run()
				if (err == nil) != (rest == "reach") {
					w.t.Errorf("%s is to %s, and ping says %v", w.guests[0].Name, rest, err)
				}
			case "thaw":
				w.must(w.daemon.Process.Signal(syscall.SIGCONT))
			default:
				w.t.Errorf("page.mjs asks for %q", rest)
			}
			if _, err := io.WriteString(in, "done\n"); err != nil {
				w.t.Error(err)
			}
		case "@pass":
			passed++
			w.t.Run(rest, func(*testing.T) {})
		case "@fail":
			name = rest
			w.t.Errorf("%s failed", name)
		default:
			w.t.Log(lines.Text())
		}
	}
	return passed
}

func (w *world) close() {
	if w.daemon != nil {
		_ = w.daemon.Process.Kill()
		<-w.ended
	}
	for _, g := range w.guests {
		_ = g.Close()
	}
	for _, n := range []*nettest.Node{w.host, w.lan} {
		if n != nil {
			_ = n.Close()
		}
	}
	os.RemoveAll(w.dir)
}
