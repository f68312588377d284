package neighbours

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/nettest"
)

// newDocker is the daemon that has the nftables backend, which is built once.
func (w *world) newDocker() string {
	w.t.Helper()
	const at = "/usr/local/sbin/new-dockerd"
	w.on(fmt.Sprintf("touch /run/nb/root%s && mount --bind %s /run/nb/root%s", at, script(w.t, "../../scripts/neighbours-dockerd"), at))
	return at
}

// docker asks Docker's API.
func (w *world) docker(method, path, body string) (string, error) {
	return w.host.Run(context.Background(), "curl", "-sS", "--fail-with-body", "-m20", "--unix-socket", "/run/nb/root/run/docker.sock", "-X", method, "-H", "Content-Type: application/json", "-d", body, "http://docker"+path)
}

// dockerWithNFT is about Docker's nftables backend. It sets no policy and has no
// chain for rules of others: guests' traffic to the LAN passes it by, unless one of
// Docker's networks is on the guests' own bridge, and to containers it lets
// nothing in but published ports. Both are Docker's to open.
func dockerWithNFT(t *testing.T) {
	w := begin(t)
	dockerd := w.newDocker()
	w.begin(usual) // which turns forwarding on: without, this backend makes no network
	stop := func() {}
	start := func() {
		w.beside("test -S /run/containerd/containerd.sock || { containerd >/var/log/containerd.log 2>&1 & }")
		stop = w.start(dockerd + " --firewall-backend nftables --storage-driver vfs --userland-proxy=false --containerd /run/containerd/containerd.sock >/var/log/dockerd.log 2>&1")
		w.until("Docker answers", func() error {
			if _, err := w.docker("GET", "/_ping", ""); err != nil {
				log, _ := w.host.Run(context.Background(), "tail", "-n20", "/run/nb/root/var/log/dockerd.log")
				return fmt.Errorf("%w\n%s", err, log)
			}
			return nil
		})
	}
	w.event("Docker (nft) starts", start)
	rules := w.on("nft list ruleset")
	if !strings.Contains(rules, "table ip docker-bridges") || strings.Contains(rules, "DOCKER-USER") {
		t.Errorf("this is not Docker's nftables backend:\n%s", rules)
	}
	w.event("Docker (nft) reloads", func() { w.on("kill -HUP $(cat /run/nb/root/run/docker.pid)") })
	w.event("Docker (nft) stops", func() { stop() })
	w.event("Docker (nft) starts", start)
	w.fromGuestToContainer(func() { stop(); start() })
	w.dockerOnOurBridge()
	if rules := w.on("nft list table ip docker-bridges"); strings.Contains(rules, "drawbridge: ") {
		t.Errorf("there is something of ours in Docker's own table:\n%s", rules)
	}
	w.gone()
	stop()
}

// fromGuestToContainer asks why a guest does not reach a container, and does
// what the answer says.
func (w *world) fromGuestToContainer(restart func()) {
	w.t.Helper()
	ctx := context.Background()
	container, err := nettest.NewNode(ctx, "container", "")
	w.check(err)
	w.t.Cleanup(func() { _ = container.Close() })
	plug := func() error {
		return w.host.IP(ctx, "link set ctr0 master docker0 up")
	}
	w.check(w.host.IP(ctx, fmt.Sprintf("link add ctr0 type veth peer name eth0 netns %d", container.PID())))
	w.check(plug())
	w.check(container.IP(ctx, "link set eth0 up", "addr add 172.17.0.2/16 dev eth0", "route add default via 172.17.0.1"))
	ping := func() error { _, err := w.guest.Run(ctx, "ping", "-c1", "-W1", "172.17.0.2"); return err }
	if ping() == nil {
		w.t.Error("Docker lets a guest in to a container")
	}
	a := w.why("172.17.0.2")
	if a.Verdict == "accepted" || !strings.Contains(a.Sentence, "docker-bridges filter-forward-in__docker0") || !strings.Contains(a.Sentence, "Docker's") {
		w.t.Errorf("why a guest does not reach a container: %+v", a)
	}
	_, command, found := strings.Cut(a.Mend, "shall pass: ")
	if !found || !strings.Contains(a.Mend, `"bridge-accept-fwmark": "0x1000"`) {
		w.t.Fatalf("how a guest reaches a container: %s", a.Mend)
	}
	w.on(`mkdir -p /run/nb/root/etc/docker; echo '{"bridge-accept-fwmark": "0x1000"}' >/run/nb/root/etc/docker/daemon.json`)
	w.event("Docker with a mark", func() { restart(); w.on(command) })
	w.check(plug())
	w.until("a guest reaches a container", ping)
	if a := w.why("172.17.0.2"); a.Verdict != "accepted" {
		w.t.Errorf("a guest reaches a container, and: %+v", a)
	}
	w.on("nft delete table inet to-docker; rm /run/nb/root/etc/docker/daemon.json")
	restart()
	if ping() == nil {
		w.t.Error("the setting is taken back, and a guest reaches a container")
	}
}

type why struct{ Verdict, Sentence, Mend string }

func (w *world) why(to string) (a why) {
	w.t.Helper()
	// It says by its exit code that the packet does not arrive.
	out, err := w.host.Run(context.Background(), program, "why", w.at.String(), to, "-o", "json")
	if json.Unmarshal([]byte(out), &a) != nil {
		w.t.Fatalf("why: %v\n%s", err, out)
	}
	return a
}

// dockerOnOurBridge makes a network of Docker's on the guests' bridge: then
// Docker's rules are about guests, too.
func (w *world) dockerOnOurBridge() {
	w.t.Helper()
	ctx := context.Background()
	web := w.serve()
	defer web.Close()
	w.on(program + " forward add 8080 " + w.at.String() + ":80")
	reach := func() error {
		return w.lan.Do(func() error {
			conn, err := net.DialTimeout("tcp", "192.168.99.66:8080", time.Second)
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
	w.until("a forward works", reach)
	network := func(options string) string {
		return fmt.Sprintf(`{"Name": "guests", "Driver": "bridge", "IPAM": {"Config": [{"Subnet": %q, "Gateway": %q}]}, "Options": {"com.docker.network.bridge.name": %q%s}}`,
			netip.PrefixFrom(w.gateway, 24).Masked(), w.gateway, w.bridge, options)
	}
	_, err := w.docker("POST", "/networks/create", network(""))
	w.check(err)
	if reach() == nil {
		w.t.Error("Docker lets in to its bridge what comes by a forward to a guest")
	}
	found := w.finding("forwards-blocked")
	if found == nil || !strings.Contains(found.Seen, "docker-bridges filter-forward-in__"+w.bridge) || !strings.Contains(found.Seen, "(Docker)") ||
		!strings.Contains(found.Fix.Advice, "gateway_mode_ipv4=nat-unprotected") {
		w.t.Errorf("Docker's network on the guests' bridge: %+v", found)
	}
	_, err = w.docker("DELETE", "/networks/guests", "")
	w.check(err)
	_, err = w.docker("POST", "/networks/create", network(`, "com.docker.network.bridge.gateway_mode_ipv4": "nat-unprotected"`))
	w.check(err)
	w.until("the forward works with Docker's setting", reach)
	w.event("Docker on our bridge", func() {})
	_, err = w.docker("DELETE", "/networks/guests", "")
	w.check(err)
	w.on(program + " forward rm 8080")
	w.check(ctx.Err())
}

// serve answers on port 80 of the guest.
func (w *world) serve() (l net.Listener) {
	w.t.Helper()
	w.check(w.guest.Do(func() (err error) {
		l, err = net.Listen("tcp4", ":80")
		return err
	}))
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	return l
}

type finding struct {
	Code, Seen string
	Fix        struct{ Command, Advice string }
}

// finding is what doctor says under a code; nil if nothing.
func (w *world) finding(code string) (found *finding) {
	w.t.Helper()
	var report struct{ Findings []finding }
	out, err := w.host.Run(context.Background(), program, "doctor", "-o", "json")
	if json.Unmarshal([]byte(out), &report) != nil {
		w.t.Fatalf("doctor: %v\n%s", err, out)
	}
	for _, f := range report.Findings {
		if f.Code == code {
			return &f
		}
	}
	return nil
}
