package linux

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"drawbridge/internal/diagnose"
	"drawbridge/internal/nettest"
)

// explainFullTable is what is said when connection tracking has no more room. It
// fills the table of the machine, so it belongs into a guest.
func explainFullTable(t *testing.T) {
	h := newHost(t)
	const limit = "/proc/sys/net/netfilter/nf_conntrack_max"
	const rules = "table inet foreign {\nchain c {\ntype filter hook forward priority 0; policy accept;\nct state established accept\n}\n" +
		// A router tells its groups on new links, at its own time: that would take one of the few places.
		"chain o {\ntype filter hook output priority -300; policy accept;\nip protocol igmp notrack\n}\n}\n"
	if out, err := feed("nft", rules); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// Only the machine's first network namespace may set it, for all.
	allow := func(n string) {
		t.Helper()
		if out, err := exec.Command("nsenter", "-t", "1", "-n", "sh", "-c", "echo "+n+" > "+limit).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	before, err := os.ReadFile(limit)
	if err != nil {
		t.Fatal(err)
	}
	set := func(parameter, value string) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/net/"+parameter, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	set("ipv4/ip_forward", "1")
	// So would what IPv6 says by itself.
	set("ipv6/conf/all/disable_ipv6", "1")
	defer set("ipv6/conf/all/disable_ipv6", "0")
	var nodes []*nettest.Node
	var ends []diagnose.End
	for i := range 2 {
		n, err := nettest.NewNode(context.Background(), fmt.Sprintf("full%d", i), "")
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		port, bridge, mac := fmt.Sprintf("full%d", i), fmt.Sprintf("fullbr%d", i), fmt.Sprintf("52:54:00:00:01:%02x", i)
		for _, line := range []string{
			"link add " + bridge + " type bridge forward_delay 0", "link set " + bridge + " up", fmt.Sprintf("address add 192.168.%d.1/24 dev %s", 122+i, bridge),
			fmt.Sprintf("link add %s type veth peer name eth0 netns %d", port, n.PID()), fmt.Sprintf("link set %s up master %s", port, bridge),
		} {
			if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", line, err, out)
			}
		}
		if err := n.IP(t.Context(), "link set eth0 address "+mac, "link set eth0 up", fmt.Sprintf("address add 192.168.%d.10/24 dev eth0", 122+i), fmt.Sprintf("route add default via 192.168.%d.1", 122+i)); err != nil {
			t.Fatal(err)
		}
		subnet := netip.MustParsePrefix(fmt.Sprintf("192.168.%d.0/24", 122+i))
		nodes = append(nodes, n)
		ends = append(ends, diagnose.End{Kind: diagnose.Guest, Name: port, Addr: netip.MustParseAddr(fmt.Sprintf("192.168.%d.10", 122+i)), MAC: mac, Port: port, Bridge: bridge, Plugged: true,
			Subnet: subnet, Gateway: subnet.Addr().Next()})
	}
	defer func() {
		allow(strings.TrimSpace(string(before)))
		for _, line := range []string{"ip link del fullbr0", "ip link del fullbr1", "ip link del full0", "ip link del full1", "nft flush ruleset", "conntrack -F"} {
			args := strings.Fields(line)
			exec.Command(args[0], args[1:]...).Run()
		}
	}()
	track := func(number int, status string) {
		t.Helper()
		args := strings.Fields(fmt.Sprintf("-I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport %d --dport 9 -t 600 -u %s", number, status))
		if out, err := exec.Command("conntrack", args...).CombinedOutput(); err != nil {
			there, _ := exec.Command("conntrack", "-L").CombinedOutput()
			t.Fatalf("%v: %s; there are\n%s", err, out, there)
		}
	}
	forget := func(number int) {
		t.Helper()
		if out, err := exec.Command("conntrack", "-D", "-p", "udp", "--sport", fmt.Sprint(number)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	exec.Command("conntrack", "-F").Run()
	allow("4")
	for number := range 4 {
		track(1+number, "SEEN_REPLY,ASSURED")
	}
	for _, step := range []struct {
		name   string
		change func()
		said   diagnose.Kind
		reason string
	}{
		{"full of what stays", func() {}, diagnose.Dropped, "its table is full (4 of 4)"},
		{"one of them may go", func() { forget(1); track(1, "SEEN_REPLY") }, diagnose.Unknown, "unless the kernel finds one to give up"},
		{"there is room", func() { forget(1) }, diagnose.Accepted, "the answer comes back"},
		{"full again", func() { exec.Command("conntrack", "-D", "-p", "icmp").Run(); track(1, "SEEN_REPLY,ASSURED") }, diagnose.Dropped, "its table is full (4 of 4)"},
		{"more are allowed", func() { allow("8") }, diagnose.Accepted, "the answer comes back"},
	} {
		step.change()
		s, err := h.Scene(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.Guests = ends
		said := diagnose.Explain(s, diagnose.PathQuestion{From: ends[0], To: ends[1], Proto: 1})
		if said.Kind != step.said || !strings.Contains(said.Sentence, step.reason) {
			t.Fatalf("%s: said: %s (%d of %d)\nsteps: %s", step.name, said.Sentence, s.Tracked, s.TrackedMax, stepsText(said))
		}
		if said.Kind == diagnose.Unknown {
			continue
		}
		tries, did := 2, false
		if said.Kind == diagnose.Accepted {
			tries = 12
		}
		for ; tries > 0 && !did; tries-- {
			_, err := nodes[0].Run(t.Context(), "ping", "-n", "-c", "1", "-W", "1", ends[1].Addr.String())
			did = err == nil
		}
		if did != (said.Kind == diagnose.Accepted) {
			t.Errorf("%s: said: %s; it arrived: %v", step.name, said.Sentence, did)
		}
	}
}
