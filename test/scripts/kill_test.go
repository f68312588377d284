package scripts

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"drawbridge/internal/nettest"
)

var (
	seed    = flag.Uint64("seed", 0, "seed of TestKillAtRandomMoments; 0 takes one from the clock and prints it")
	changes = flag.Int("changes", 200, "how many changes TestKillAtRandomMoments makes")
)

// victim is a daemon that is killed again and again.
type victim struct {
	t      *testing.T
	host   *nettest.Node
	state  string
	log    *os.File
	daemon *exec.Cmd
}

func (v *victim) start() {
	v.t.Helper()
	v.daemon = v.host.Command(context.Background(), program, "daemon", "--state-dir", v.state)
	v.daemon.Stdout, v.daemon.Stderr = v.log, v.log
	v.daemon.SysProcAttr.Pdeathsig = 0
	if err := v.daemon.Start(); err != nil {
		v.t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); <-tick.C {
		if v.host.Command(context.Background(), program, "network", "ls").Run() == nil {
			return
		}
	}
	text, _ := os.ReadFile(v.log.Name())
	v.t.Fatalf("the daemon does not answer:\n%s", text)
}

func (v *victim) kill() {
	v.t.Helper()
	if err := v.daemon.Process.Signal(syscall.SIGKILL); err != nil {
		v.t.Fatal(err)
	}
	_ = v.daemon.Wait() // killed: it says so
}

func (v *victim) run(args ...string) string {
	v.t.Helper()
	out, err := v.host.Run(v.t.Context(), program, args...)
	if err != nil {
		v.t.Fatal(err)
	}
	return out
}

// wish is one network as this test knows it.
type wish struct {
	Mode    string
	Started bool
	MTU     int
}

// wanted is what the daemon says it wants, by name.
func (v *victim) wanted() (map[string]wish, map[string]string, map[string]netip.Prefix) {
	v.t.Helper()
	var list []struct {
		Name, Mode, Bridge string
		Started            bool
		MTU                int
		Subnets            []struct{ CIDR string }
	}
	if err := json.Unmarshal([]byte(v.run("network", "ls", "-o", "json")), &list); err != nil {
		v.t.Fatal(err)
	}
	wishes, bridges, subnets := map[string]wish{}, map[string]string{}, map[string]netip.Prefix{}
	for _, n := range list {
		wishes[n.Name] = wish{n.Mode, n.Started, n.MTU}
		bridges[n.Name] = n.Bridge
		subnets[n.Name] = netip.MustParsePrefix(n.Subnets[0].CIDR)
	}
	return wishes, bridges, subnets
}

// kernelAgrees asks ip and nft whether the host is exactly what is wanted.
func (v *victim) kernelAgrees(wishes map[string]wish, bridges map[string]string, subnets map[string]netip.Prefix) error {
	var links []struct {
		IfName   string
		MTU      int
		AddrInfo []struct {
			Family, Local string
			PrefixLen     int
		} `json:"addr_info"`
	}
	out, err := v.host.Run(v.t.Context(), "ip", "-j", "addr", "show", "type", "bridge")
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		return err
	}
	seen := map[string]string{}
	for _, l := range links {
		if l.IfName == "" {
			continue // ip prints {} for links that it leaves out
		}
		seen[l.IfName] = fmt.Sprintf("mtu %d", l.MTU)
		for _, a := range l.AddrInfo {
			if a.Family == "inet" {
				seen[l.IfName] += fmt.Sprintf(" %s/%d", a.Local, a.PrefixLen)
			}
		}
	}
	want := map[string]string{}
	var elements []string
	for name, w := range wishes {
		if w.Started {
			p := subnets[name]
			want[bridges[name]] = fmt.Sprintf("mtu %d %s/%d", w.MTU, p.Addr().Next(), p.Bits())
			elements = append(elements, bridges[name])
		}
	}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		return fmt.Errorf("bridges are %v, wanted %v", seen, want)
	}
	return v.rulesAgree(elements)
}

// rulesAgree looks for the bridges in nft's own listing of one set.
func (v *victim) rulesAgree(want []string) error {
	if len(want) == 0 {
		out, err := v.host.Run(v.t.Context(), "nft", "list", "tables")
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("tables are left: %s", out)
		}
		return err
	}
	out, err := v.host.Run(v.t.Context(), "nft", "-j", "list", "set", "inet", "drawbridge", "bridges")
	if err != nil {
		return err
	}
	var ruleset struct {
		NFTables []struct {
			Set struct{ Elem []string }
		}
	}
	if err := json.Unmarshal([]byte(out), &ruleset); err != nil {
		return err
	}
	var got []string
	for _, o := range ruleset.NFTables {
		got = append(got, o.Set.Elem...)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("rules are about %q, wanted %q", got, want)
	}
	return nil
}

// randomChange is a command and what the networks are once it is done.
func randomChange(r *rand.Rand, now map[string]wish) ([]string, map[string]wish) {
	after := map[string]wish{}
	var names []string
	for name, w := range now {
		after[name] = w
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) == 0 || len(names) < 5 && r.IntN(3) == 0 {
		name, mode := fmt.Sprintf("n%d", r.IntN(1000)), []string{"nat", "isolated"}[r.IntN(2)]
		if _, taken := after[name]; !taken {
			after[name] = wish{mode, true, 1500}
			return []string{"network", "create", name, "--mode", mode, "--ipv6", "off"}, after
		}
	}
	name := names[r.IntN(len(names))]
	w := after[name]
	switch r.IntN(4) {
	case 0:
		delete(after, name)
		return []string{"network", "rm", name}, after
	case 1:
		w.Started = !w.Started
		after[name] = w
		return []string{"network", map[bool]string{true: "start", false: "stop"}[w.Started], name}, after
	case 2:
		w.MTU = 1300 + r.IntN(200)
		after[name] = w
		return []string{"network", "set", name, fmt.Sprintf("mtu=%d", w.MTU)}, after
	default:
		on := r.IntN(2) == 0
		for name, w := range after {
			w.Started = on
			after[name] = w
		}
		return []string{map[bool]string{true: "up", false: "down"}[on]}, after
	}
}

// TestKillAtRandomMoments kills the daemon with SIGKILL somewhere in the middle
// of each of many random changes; the next daemon must stand before or after
// the change, the kernel (by ip and nft) with it, and never deny what the client
// was told.
func TestKillAtRandomMoments(t *testing.T) {
	nettest.Need(t, nettest.Root, "nft", "ip")
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to run this again: go test ./test/scripts -run %s -seed %d", t.Name(), *seed)
	r := rand.New(rand.NewPCG(*seed, 0))
	host, err := nettest.NewNode(t.Context(), "host", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{t: t, host: host, state: t.TempDir(), log: log}
	v.start()
	counts := map[string]int{}
	for i := range *changes {
		before, _, _ := v.wanted()
		args, after := randomChange(r, before)
		client := host.Command(t.Context(), program, args...)
		var said bytes.Buffer
		client.Stdout, client.Stderr = &said, &said
		if err := client.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(r.Int64N(int64(40 * time.Millisecond))))
		v.kill()
		told := client.Wait() == nil
		v.start()
		now, bridges, subnets := v.wanted()
		var end string
		switch {
		case fmt.Sprint(now) == fmt.Sprint(after):
			end = "all"
		case fmt.Sprint(now) == fmt.Sprint(before):
			end = "nothing"
		default:
			t.Fatalf("change %d (%q): neither all nor nothing\nbefore %v\nafter  %v\nnow    %v", i, args, before, after, now)
		}
		if told && end == "nothing" && fmt.Sprint(before) != fmt.Sprint(after) {
			t.Fatalf("change %d (%q): the client was told that it is done, and it is not: %s", i, args, said.String())
		}
		if err := v.kernelAgrees(now, bridges, subnets); err != nil {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("change %d (%q, ended in %s): %v\n%s", i, args, end, err, text[max(0, len(text)-3000):])
		}
		counts[fmt.Sprintf("%s, client told %v", end, told)]++
	}
	v.kill()
	t.Logf("%d changes: %v", *changes, counts)
	if counts["nothing, client told false"] == 0 || counts["all, client told true"] == 0 {
		t.Errorf("the daemon was always killed too early or too late: %v", counts)
	}
}
