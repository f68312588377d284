package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"drawbridge/internal/api"
)

var update = flag.Bool("update", false, "write the golden files anew")

// asMain makes a copy of the test program be drawbridge, or what starts it.
const asMain = "CLI_TEST_MAIN"

func TestMain(m *testing.M) {
	switch os.Getenv(asMain) {
	case "drawbridge":
		os.Exit(Main(os.Args, os.Stdin, os.Stdout, os.Stderr, Extra{Version: "1.2.3"}))
	case "qemu":
		os.Exit(beQEMU())
	}
	os.Exit(m.Run())
}

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// daemon answers with what the test puts in, by "METHOD path", and remembers
// what it was asked.
type daemon struct {
	socket  string
	answers map[string]any
	asked   []string
}

func startDaemon(t *testing.T, answers map[string]any) *daemon {
	t.Helper()
	d := &daemon{socket: filepath.Join(t.TempDir(), "s"), answers: answers}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(d.answer), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return d
}

func (d *daemon) answer(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	d.asked = append(d.asked, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
	r.Body = io.NopCloser(bytes.NewReader(body))
	v, ok := d.answers[r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v1")]
	if !ok {
		v = &api.Problem{Status: 404, Code: api.CodeNotFound, Detail: r.Method + " " + r.URL.Path + ": there is no such call"}
	}
	switch v := v.(type) {
	case http.HandlerFunc:
		v(w, r)
		return
	case *api.Problem:
		w.WriteHeader(v.Status)
	case nil:
		w.WriteHeader(http.StatusNoContent)
		return
	}
	_ = json.NewEncoder(w).Encode(v)
}

// run is one run of the program; its output is what a person would see.
type run struct {
	stdout, stderr string
	code           int
}

func (d *daemon) run(t *testing.T, stdin string, args ...string) run {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{
		stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs, extra: Extra{Version: "1.2.3"},
		now: func() time.Time { return now }, exec: func([]string) error { return nil },
		resolve: func(_ context.Context, _, name string) ([]netip.Addr, error) {
			if name != "www.example.com" {
				return nil, errors.New("no such host")
			}
			return []netip.Addr{netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("203.0.113.7")}, nil
		},
	}
	t.Setenv("DRAWBRIDGE_SOCKET", d.socket)
	t.Setenv("LC_ALL", "C.UTF-8")
	t.Setenv("COLUMNS", "")
	code := a.main(t.Context(), append([]string{"/usr/sbin/drawbridge"}, args...))
	return run{strings.ReplaceAll(out.String(), d.socket, "SOCKET"), strings.ReplaceAll(errs.String(), d.socket, "SOCKET"), code}
}

func at(after time.Duration) *time.Time { t := now.Add(after); return &t }
func number(n int) *int                 { return &n }

var (
	defaultNet = api.Network{
		Name: "default", UUID: "0b9d2c1e-6a43-4c55-9d25-1b5a3f6f2d11", Mode: "nat", Bridge: "virbr0", MAC: "52:54:00:aa:bb:cc", MTU: 1500,
		Subnets: []api.Subnet{
			{CIDR: "192.168.122.0/24", Gateway: "192.168.122.1", DHCPRange: "192.168.122.2-192.168.122.254", LeaseTime: "3600"},
			{CIDR: "fd00:1:2:3::/64", Gateway: "fd00:1:2:3::1"},
		},
		IPv6: "auto", Domain: "default.internal", AllowUsers: []string{"alice"}, Autostart: true, Started: true, Running: true, State: "running",
		Reservations: []api.Reservation{{MAC: "52:54:00:00:00:01", IP: "192.168.122.9", Hostname: "web"}}, Problems: []string{}, Guests: 2, Leases: 3, PoolSize: 253,
	}
	torn = api.Network{
		Name: "lab", Mode: "isolated", Bridge: "virbr1", Subnets: []api.Subnet{{CIDR: "10.9.0.0/24", Gateway: "10.9.0.1"}}, MTU: 1500, Started: true, State: "degraded",
		Problems: []string{"link virbr1 is missing"}, AllowUsers: []string{}, Reservations: []api.Reservation{}, PoolSize: 0,
	}
	hostile = "a\x1b[31mb\u009b1m\u202ec\nd"
	done    = api.Change{
		ID: "c0ffee01", Title: `create network "lab"`, Phase: "confirmed", Risk: "none", DurationMS: 16.4,
		Steps: []api.Step{{Verb: "create", Kind: "link", Name: "virbr0", Detail: "type bridge"}}, Cuts: []string{}, Notes: []string{"IPv6 is off on this host"},
	}
	dry = api.Change{
		Title: `stop network "default"`, DryRun: true, Risk: "host", Cuts: []string{"web", "db"}, Notes: []string{},
		Steps: []api.Step{
			{Verb: "delete", Kind: "link", Name: "virbr0"}, {Verb: "change", Kind: "link", Name: "virbr1", Detail: "mtu 1500 -> 1400"},
			{Verb: "create", Kind: "link", Name: "virbr2", Detail: "mtu 1500"},
		},
	}
	pending = api.Change{ID: "abcd1234", Title: "move eth0", Phase: "waiting", Risk: "host", DeadlineSecs: number(42), Steps: dry.Steps, Cuts: []string{}, Notes: []string{}}
	stuck   = api.Change{ID: "dead0000", Title: "drop eth1", Phase: "stuck", Risk: "host", Problem: "netlink is gone", Steps: []api.Step{}, Cuts: []string{}, Notes: []string{}}
	nothing = api.Change{Title: "apply document", NothingToDo: true, Risk: "none", Steps: []api.Step{}, Cuts: []string{}, Notes: []string{}}
	cut     = &api.Problem{Status: 409, Code: api.CodeCutsGuests, Detail: `stop network "default": would cut off web; stop them first, or insist with --cut-guests`, Guests: []string{"web"}}
	port    = api.Port{
		Network: "default", Bridge: "virbr0", Tap: "vnet0", Guest: "web", MAC: "52:54:00:00:00:01", Addresses: []string{"192.168.122.9", "fd00:1:2:3::9"},
		Made: "qemu", PID: 77, Process: "qemu-system-x86", RxBytes: 1536, TxBytes: 5 << 30,
	}
)

// everything is what the daemon of most tests answers.
func everything() map[string]any {
	return map[string]any{
		"GET /status": api.Status{
			Version: "1.2.3", PID: 4242, UptimeSecs: 93784, ServicesPID: 4343, Networks: []api.Network{defaultNet}, Problems: []string{}, Changes: []api.Change{},
		},
		"GET /modes":            []api.Mode{{Name: "nat", Summary: "reach out", Default: true}, {Name: "isolated", Summary: "stay in"}},
		"GET /networks":         []api.Network{defaultNet, torn},
		"GET /networks/default": defaultNet, "GET /networks/lab": torn,
		"GET /topology": api.Topology{Nodes: []api.Node{}, Edges: []api.Edge{}, Lines: []api.Line{{Spans: []api.Span{{Text: "LAN ", Style: "soft"}, {Text: "192.168.99.0/24", Style: "name"}}}, {Spans: []api.Span{{Text: "└─ ", Style: "soft"}, {Text: hostile}}}}, Drawing: "<svg/>\n"},
		"GET /leases": []api.Lease{
			{Network: "default", Address: "192.168.122.9", MAC: "52:54:00:00:00:01", Guest: "web", Hostname: hostile, Expires: at(59*time.Minute + 3*time.Second)},
			{Network: "default", Address: "192.168.122.10", MAC: "52:54:00:00:00:02", Guest: "日本", Expires: at(-time.Second)}, {Network: "lab", Address: "10.9.0.2", MAC: "52:54:00:00:00:03"},
		},
		"GET /ports":        []api.Port{port, {Network: "default", Bridge: "virbr0", Tap: "tap7", Addresses: []string{}, Made: "other"}},
		"GET /guests":       []api.Guest{{Name: "web", NICs: []api.GuestNIC{{Network: "default", Tap: "vnet0", MAC: "52:54:00:00:00:01", Addresses: []string{"192.168.122.9"}}, {Network: "lab", Tap: "vnet1", Addresses: []string{}}}}},
		"GET /reservations": []api.Reservation{{Network: "default", MAC: "52:54:00:00:00:01", IP: "192.168.122.9", Hostname: "web"}},
		"GET /networks/default/reservations": []api.Reservation{
			{Network: "default", MAC: "52:54:00:00:00:01", IP: "192.168.122.9", Hostname: "web"},
		},
		"GET /why": api.Path{
			From: "web", To: "lan", Proto: "tcp", Port: 80, Verdict: "dropped", Sentence: "it ends at inet x forward", Mend: "nft delete rule inet x forward handle 4", Drawing: "<svg/>\n",
			Steps: []api.PathStep{{Place: "port", Where: "port vnet0", What: "web's port, up", Verdict: "accepted"}, {Place: "chain", Where: "inet x forward", What: hostile, Verdict: "dropped", Owner: "unknown"}},
		},
		"GET /changes": []api.Change{pending, stuck}, "GET /changes/abcd1234": pending,
		"GET /document": api.Document{Networks: []api.DocumentNetwork{{Name: "default", Mode: "nat", IPv6: "off", Subnets: defaultNet.Subnets[:1]}, {Name: "no"}}},
		"POST /web":     api.Web{Address: "127.0.0.1:8420", URL: "http://127.0.0.1:8420/", Link: "http://127.0.0.1:8420/#login=SECRET", LinkUntil: at(10 * time.Minute)},
		"DELETE /web":   nil, "DELETE /sessions/ab12cd34": nil, "DELETE /tokens/wall": nil,
		"GET /sessions":  []api.Session{{ID: "ab12cd34", By: "root", Made: now, Used: now.Add(-time.Hour), Until: now.Add(23 * time.Hour), Browser: "Mozilla/5.0 " + hostile}},
		"GET /tokens":    []api.Token{{Name: "backup", By: "alice", Made: now.Add(-90 * time.Minute), Until: at(48 * time.Hour)}, {Name: "wall", ReadOnly: true, By: "root", Made: now}},
		"POST /tokens":   api.Token{Name: "wall", ReadOnly: true, By: "root", Made: now, Secret: "drawbridge_SECRET"},
		"POST /networks": done, "PATCH /networks/default": done, "DELETE /networks/default": cut,
		"POST /networks/default/stop": dry, "POST /networks/default/start": pending, "POST /up": nothing, "POST /down": dry,
		"POST /apply": nothing, "POST /plan": dry, "POST /ports": port, "DELETE /ports/vnet0": nil,
		"POST /networks/default/reservations": done, "DELETE /networks/default/reservations/52:54:00:00:00:01": done,
		"POST /changes/abcd1234/confirm": nil, "POST /changes/abcd1234/cancel": nil, "POST /changes/abcd1234/extend": nil,
	}
}

// Each case is a command line whose whole effect is in testdata/<name>.txt:
// what was asked of the daemon, what was printed, and the exit code.
var goldens = []struct{ name, args string }{
	{"status", "status"}, {"status-json", "status -o json"}, {"topology", "topology"}, {"topology-all", "topology --all --ascii"}, {"topology-svg", "topology -o svg"}, {"topology-change", "topology --before-after abcd1234 -o json"}, {"topology-bad-form", "topology -o dot"}, {"plan-picture", "plan --picture -f -"}, {"topology-help", "topology --help"}, {"complete-forms", "__complete topology -o s"}, {"mode-ls", "mode ls"}, {"version", "version"},
	{"network-ls", "network ls"}, {"network-show", "network show default"}, {"network-show-degraded", "network show lab"},
	{"network-show-yaml", "network show default -o yaml"}, {"network-show-missing", "network show nope"},
	{"network-create", "network create lab --mode isolated --subnet 10.9.0.0/24 --subnet fd00::/64 --ipv6 off --bridge br9 --dhcp-range 10.9.0.5-10.9.0.9 --domain lab --mtu 1400 --no-start --allow-users a,b"},
	{"network-create-short", "network create lab"}, {"network-create-json", "network create lab -o json --dry-run"},
	{"network-create-range", "network create lab --dhcp-range 10.0.0.1-10.0.0.2"}, {"network-create-nameless", "network create"},
	{"network-set", "network set default mtu=1400 domain=a=b --cut-guests"}, {"network-set-bad", "network set default mtu"}, {"network-set-twice", "network set default a=1 a=2"},
	{"network-stop", "network stop default --dry-run"}, {"network-start", "network start default --no-wait"}, {"network-rm", "network rm default"},
	{"up", "up"}, {"down", "down --cut-guests"},
	{"plan", "plan -f -"}, {"apply", "apply -f - --dry-run"}, {"apply-fileless", "apply"}, {"apply-missing", "apply -f /nonexistent/file"}, {"export", "export"}, {"export-json", "export -o json"},
	{"reservation-add", "reservation add default 52:54:00:00:00:01 192.168.122.9 --hostname web"}, {"reservation-ls", "reservation ls"}, {"reservation-ls-one", "reservation ls default"},
	{"reservation-rm", "reservation rm default 52:54:00:00:00:01"},
	{"lease-ls", "lease ls"}, {"lease-ls-json", "lease ls -o json"}, {"lease-ls-yaml", "lease ls -o yaml"}, {"guest-ls", "guest ls"},
	{"why", "why web lan:80"}, {"why-svg", "why web lan:80 -o svg"}, {"port-ls", "port ls"}, {"port-ls-network", "port ls default"}, {"port-ls-empty", "port ls lab"}, {"port-ls-unknown", "port ls nope"}, {"lease-ls-network", "lease ls default -o json"}, {"guest-ls-one", "guest ls web"}, {"guest-ls-unknown", "guest ls nope"}, {"port-attach", "port attach default --name web --user alice --queues 2"}, {"port-detach", "port detach vnet0"},
	{"change-ls", "change ls"}, {"change-show", "change show abcd1234"}, {"change-confirm", "change confirm abcd1234"}, {"change-cancel", "change cancel abcd1234 -o json"},
	{"change-extend", "change extend abcd1234 --by 90s"}, {"change-extend-bad", "change extend abcd1234 --by 1ms"},
	{"qemu-print", "qemu --print --nic network=default,name=web,queues=2 --nic network=lab,mac=52:54:00:00:00:09,model=e1000 -- qemu-system-x86_64 -m 1G disk.img"},
	{"qemu-nicless", "qemu -- qemu-system-x86_64"}, {"qemu-bad-nic", "qemu --nic net=default -- qemu-system-x86_64"}, {"qemu-bad-queues", "qemu --nic network=a,model=e1000,queues=2 -- q"},
	{"web", "web"}, {"web-read-only", "web --read-only --listen 127.0.0.1:9000 -o json"}, {"web-off", "web --off"},
	{"session-ls", "session ls"}, {"session-rm", "session rm ab12cd34"},
	{"token-add", "token add wall --read-only --for 48h"}, {"token-add-bad", "token add wall --for 1ms"}, {"token-ls", "token ls"}, {"token-rm", "token rm wall"},
	{"unknown", "bogus"}, {"unknown-near", "netwrok ls"}, {"unknown-near-in-group", "forward lst"}, {"unknown-in-group", "network bogus"}, {"group", "network"}, {"unknown-flag", "network ls --bogus"}, {"extra-argument", "network ls all"},
	{"bad-output", "status -o xml"}, {"misspelt-flag", "status --ouput json"}, {"bad-number", "network create x --mtu 1500kb"}, {"bad-time", "forward add 80 web --for 2"}, {"bad-moment", "monitor --since foo"}, {"help-unknown", "help bogus"}, {"help", "--help"}, {"help-create", "network create --help"},
	{"complete-network", "__complete network show d"}, {"complete-mac", "__complete reservation rm default "}, {"complete-set", "__complete network set default m"},
	{"unreachable", "--socket /nonexistent/socket status"}, {"complete-unreachable", "__complete --socket /nonexistent/socket network show "},
}

func TestCommandLines(t *testing.T) {
	for _, c := range goldens {
		t.Run(c.name, func(t *testing.T) {
			d := startDaemon(t, everything())
			args := strings.Split(c.args, " ")
			r := d.run(t, "networks: []\n", args...)
			var b strings.Builder
			fmt.Fprintf(&b, "$ drawbridge %s\n", c.args)
			for _, asked := range d.asked {
				fmt.Fprintln(&b, "> "+asked)
			}
			fmt.Fprintf(&b, "%s", r.stdout)
			for l := range strings.Lines(r.stderr) {
				fmt.Fprintf(&b, "! %s", l)
			}
			fmt.Fprintf(&b, "= %d\n", r.code)
			golden(t, filepath.Join("testdata", c.name+".txt"), b.String())
			if strings.ContainsAny(r.stdout+r.stderr, "\x1b\u009b\r") {
				t.Error("a control character got out")
			}
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it anew):\n%s", path, got)
	}
}

func TestStatusInTrouble(t *testing.T) {
	answers := everything()
	answers["GET /status"] = api.Status{
		Version: "1.2.3", UptimeSecs: 5, Networks: []api.Network{}, Repairs: 2,
		Problems: []string{"guest services do not answer", "network \"lab\": link virbr1 is missing\x1b[2J"}, Changes: []api.Change{pending, stuck},
	}
	r := startDaemon(t, answers).run(t, "", "status")
	golden(t, "testdata/status-in-trouble.txt", r.stdout)
}

// Colour is for terminals: here it is asked of the writer itself.
func TestColourIsBesideTheText(t *testing.T) {
	plain, coloured := &writer{}, &writer{color: true}
	for _, w := range []*writer{plain, coloured} {
		networkTable(w, []api.Network{defaultNet, torn})
	}
	bare := coloured.buf.String()
	for _, code := range []string{"\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m"} {
		bare = strings.ReplaceAll(bare, code, "")
	}
	if bare != plain.buf.String() || bare == coloured.buf.String() {
		t.Errorf("without colours:\n%s\nwith:\n%q", plain.buf.String(), coloured.buf.String())
	}
}

func TestColumnsOfATable(t *testing.T) {
	for s, want := range map[string]int{"abc": 3, "日本": 4, "e\u0301": 1, "ｆ": 2, "🐧": 2, "": 0} {
		if got := columns(s); got != want {
			t.Errorf("%q takes %d columns, not %d", s, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1536: "1.50 KiB", 10 << 20: "10.0 MiB", 999 << 30: "999 GiB", 1000 << 30: "0.98 TiB", 1<<64 - 1: "16.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("%d bytes are %q, not %q", n, got, want)
		}
	}
}

func TestEveryCommandIsExplained(t *testing.T) {
	a := &app{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s has no short explanation", c.CommandPath())
		}
		if c.Example == "" && c.Name() != "completion" && (c.Parent() == nil || c.Parent().Name() != "completion") {
			t.Errorf("%s has no example", c.CommandPath())
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			name, _ := pflag.UnquoteUsage(f)
			if name != strings.ToUpper(name) && name != "auto|off|CIDR" {
				t.Errorf("%s --%s: %q does not say what is to be given", c.CommandPath(), f.Name, name)
			}
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(a.root())
}

func TestManualHasAPageForEveryCommand(t *testing.T) {
	dir := t.TempDir()
	if r := startDaemon(t, nil).run(t, "", "man", dir); r.code != 0 {
		t.Fatal(r)
	}
	for _, page := range []string{"drawbridge", "drawbridge-network", "drawbridge-network-create", "drawbridge-qemu"} {
		text, err := os.ReadFile(filepath.Join(dir, page+".8"))
		if err != nil {
			t.Fatal(err)
		}
		for _, section := range []string{".TH", ".SH NAME", ".SH SYNOPSIS", ".SH EXIT STATUS"} {
			if !strings.Contains(string(text), section) {
				t.Errorf("%s has no %s", page, section)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "drawbridge-man.8")); err == nil {
		t.Error("a hidden command has a page")
	}
	if got := roff(".a\\b-c"); got != `\&.a\eb\-c` {
		t.Errorf("roff made %q", got)
	}
}

func TestExtraCommandsMayChooseTheirExitCode(t *testing.T) {
	for want, err := range map[int]error{0: nil, 1: io.EOF, 9: codedError{9}} {
		var out, errs bytes.Buffer
		a := &app{stdout: &out, stderr: &errs, now: time.Now, extra: Extra{Commands: []*cobra.Command{{
			Use: "daemon", Short: "x", RunE: func(*cobra.Command, []string) error { return err },
		}}}}
		if code := a.main(t.Context(), []string{"drawbridge", "daemon"}); code != want {
			t.Errorf("%v gave %d", err, code)
		}
	}
}

type codedError struct{ code int }

func (e codedError) Error() string { return "coded" }
func (e codedError) ExitCode() int { return e.code }
