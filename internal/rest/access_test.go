package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/nettest"
	"drawbridge/internal/spec"
)

// childSocket tells a copy of the test program to be a client, as whoever it
// runs as, and to print what became of its calls.
const childSocket = "REST_TEST_SOCKET"

func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(listenEnv)); err == nil {
		beListeners(n, os.Args[1])
		return
	}
	if socket := os.Getenv(childSocket); socket != "" {
		child(socket)
		return
	}
	os.Exit(m.Run())
}

// childCalls are the calls that a child makes, by name.
var childCalls = []struct {
	name string
	call func(*api.Client, context.Context) error
}{
	{"read", func(c *api.Client, ctx context.Context) error { _, err := c.Networks(ctx); return err }},
	{"status", func(c *api.Client, ctx context.Context) error { _, err := c.Status(ctx); return err }},
	{"create", func(c *api.Client, ctx context.Context) error {
		_, err := c.CreateNetwork(ctx, api.DocumentNetwork{Name: "mine"}, api.Options{})
		return err
	}},
	{"dry", func(c *api.Client, ctx context.Context) error {
		_, err := c.StopNetwork(ctx, "default", api.Options{DryRun: true})
		return err
	}},
	{"apply", func(c *api.Client, ctx context.Context) error {
		_, err := c.Apply(ctx, []byte("networks: []\n"), api.Options{})
		return err
	}},
	{"confirm", func(c *api.Client, ctx context.Context) error { return c.Confirm(ctx, "x") }},
	{"attach", func(c *api.Client, ctx context.Context) error {
		_, err := c.AttachPort(ctx, api.PortRequest{Network: "default", Guest: "g"})
		return err
	}},
	{"attach-elsewhere", func(c *api.Client, ctx context.Context) error {
		_, err := c.AttachPort(ctx, api.PortRequest{Network: "closed", Guest: "g"})
		return err
	}},
	{"attach-for-root", func(c *api.Client, ctx context.Context) error {
		_, err := c.AttachPort(ctx, api.PortRequest{Network: "default", User: "root"})
		return err
	}},
	{"open-by-bridge", func(c *api.Client, ctx context.Context) error {
		_, taps, vhosts, err := c.OpenPort(ctx, api.PortRequest{Bridge: "virbr-d", NoMAC: true, Made: "bridge-helper"})
		closeAll(append(taps, vhosts...))
		return err
	}},
	{"open-foreign-bridge", func(c *api.Client, ctx context.Context) error {
		_, taps, vhosts, err := c.OpenPort(ctx, api.PortRequest{Bridge: "docker0"})
		closeAll(append(taps, vhosts...))
		return err
	}},
	{"capture", func(c *api.Client, ctx context.Context) error {
		_, f, err := c.OpenCapture(ctx, api.CaptureRequest{Target: "default"})
		if err == nil {
			f.Close()
		}
		return err
	}},
	{"detach-own", func(c *api.Client, ctx context.Context) error { return c.DetachPort(ctx, "own0") }},
	{"detach-other", func(c *api.Client, ctx context.Context) error { return c.DetachPort(ctx, "other0") }},
	{"detach-none", func(c *api.Client, ctx context.Context) error { return c.DetachPort(ctx, "none0") }},
}

func child(socket string) {
	got := map[string]string{}
	c := api.Dial(socket)
	for _, cc := range childCalls {
		got[cc.name] = "done"
		if err := cc.call(c, context.Background()); err != nil {
			got[cc.name] = err.Error()
			if p, ok := err.(*api.Problem); ok {
				got[cc.name] = fmt.Sprint(p.Status, " ", p.Detail)
			}
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(got)
}

// callAs runs the calls as another user and returns what became of each.
func callAs(t *testing.T, socket string, uid, gid uint32, groups ...uint32) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), childSocket+"="+socket)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("child as %d: %v\n%s", uid, err, errs.String())
	}
	got := map[string]string{}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("child said %q: %v", out, err)
	}
	return got
}

const nobody, games = 65534, 60

func accessFake(t *testing.T, allow ...string) *fakeEngine {
	f := newFake()
	n := network(t, "default")
	n.AllowUsers = allow
	closed := network(t, "closed")
	f.doc = f.doc.With(n).With(closed)
	f.files = func(n int) []*os.File { return pipes(t, n) }
	f.vhosts = 0
	f.ports["own0"] = engine.Port{Network: "default", Tap: "own0", Owner: nobody}
	f.ports["other0"] = engine.Port{Network: "default", Tap: "other0", Owner: 1000}
	return f
}

func TestStrangersAreToldHowToBeLetIn(t *testing.T) {
	nettest.Need(t, nettest.Root)
	socket, _ := serve(t, accessFake(t), nil)
	for call, became := range callAs(t, socket, nobody, nobody) {
		if !strings.HasPrefix(became, "403 nobody may not use drawbridge here: use sudo") {
			t.Errorf("%s: %s", call, became)
		}
	}
}

func TestAllowedUsersMayReadAndPlugTheirOwn(t *testing.T) {
	nettest.Need(t, nettest.Root)
	f := accessFake(t, "alice", "nobody")
	socket, _ := serve(t, f, nil)
	got := callAs(t, socket, nobody, nobody)
	want := map[string]string{
		"read": "done", "status": "done", "attach": "done", "open-by-bridge": "done", "detach-own": "done",
		"create": "403 nobody may read", "dry": "403 nobody may read", "apply": "403 nobody may read", "confirm": "403 nobody may read",
		"attach-elsewhere": `403 nobody may not plug into network "closed"`, "attach-for-root": "403 nobody may not make ports for root",
		"capture":             "403 nobody may not see who is let in, nor what guests send",
		"open-foreign-bridge": `404 bridge "docker0"`, "detach-other": "403 port other0 does not belong to nobody", "detach-none": "404 ",
	}
	if len(got) != len(want) {
		t.Errorf("%d calls, %d expected", len(got), len(want))
	}
	for call, became := range got {
		if !strings.HasPrefix(became, want[call]) || want[call] == "" {
			t.Errorf("%s: %s, want %s", call, became, want[call])
		}
	}
	if _, still := f.ports["other0"]; !still {
		t.Error("the port of somebody else is gone")
	}
	if len(f.doc.Networks) != 2 {
		t.Errorf("networks were changed: %v", f.doc.Names())
	}
	if f.request.Owner != nobody || f.request.Made != "bridge-helper" || !f.request.NoMAC {
		t.Errorf("the last request was %+v", f.request)
	}
}

// Membership counts whether the group is primary or supplementary, and only by
// the credentials of the connection.
func TestGroupMayDoEverything(t *testing.T) {
	nettest.Need(t, nettest.Root)
	for _, who := range []struct {
		gid    uint32
		groups []uint32
		may    bool
	}{{games, nil, true}, {nobody, []uint32{4, games, 99}, true}, {nobody, []uint32{4, 99}, false}} {
		f := accessFake(t)
		socket, _ := serve(t, f, func(c *Config) { c.AdminGroup = "games" })
		got := callAs(t, socket, 12345, who.gid, who.groups...)
		if may := got["create"] == "done" && got["apply"] == "done" && got["attach-for-root"] == "done"; may != who.may {
			t.Errorf("gid %d, groups %v: %v", who.gid, who.groups, got)
		}
		if !who.may && !strings.Contains(got["read"], `"usermod -aG games uid 12345"`) && !strings.Contains(got["read"], "use sudo") {
			t.Errorf("refusal is %q", got["read"])
		}
	}
}

func TestPeerOfThisProcess(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	peer, err := PeerOf(got.(*net.UnixConn))
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	var want []uint32
	for _, g := range groups {
		want = append(want, uint32(g))
	}
	if int(peer.UID) != os.Getuid() || int(peer.GID) != os.Getgid() || int(peer.PID) != os.Getpid() || (len(want) > 0 && !reflect.DeepEqual(peer.Groups, want)) {
		t.Errorf("peer is %+v, groups should be %v", peer, want)
	}
	if peer.In(-1) {
		t.Error("everybody is in the group that does not exist")
	}
}

func TestFullRequestsAreRefused(t *testing.T) {
	socket, c := serve(t, newFake(), nil)
	big := strings.Repeat("#", maxBody+1)
	_, err := c.Apply(t.Context(), []byte(big), api.Options{})
	isProblem(t, err, http.StatusRequestEntityTooLarge, api.CodeTooLarge, "")
	if status, _, _ := raw(t, socket, "POST", "/v1/networks", `{"name":"`+big+`"}`); status != http.StatusRequestEntityTooLarge {
		t.Errorf("status is %d", status)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// A client that does not say what it wants is cut off, by the header timeout
// and not by the test's own limit.
func TestSlowHeadersAreCutOff(t *testing.T) {
	socket, _ := serve(t, newFake(), func(c *Config) { c.HeaderTimeout = 50 * time.Millisecond })
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /v1/status HTTP/1.1\r\nHost: x\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		if _, err := conn.Read(buf); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Error("the connection was left open")
			}
			return
		}
	}
}

func TestOneUserCannotTakeAllConnections(t *testing.T) {
	l := newFairListener(nil, 2)
	for i, want := range []bool{true, true, false} {
		if got := l.take(1000); got != want {
			t.Errorf("connection %d of uid 1000: %v", i+1, got)
		}
	}
	if !l.take(1001) || !l.take(0) || !l.take(0) || !l.take(0) {
		t.Error("others were refused")
	}
	l.give(1000)
	if !l.take(1000) {
		t.Error("a place that was given back is not free")
	}
}

func TestUserNamesOfUnknownIDsNeverMatch(t *testing.T) {
	name := userName(4294000000)
	n := spec.Network{Name: "x", AllowUsers: []string{name}}
	if err := n.Validate(); err == nil {
		t.Errorf("%q could be an allowed user", name)
	}
}
