package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"drawbridge/internal/api"
)

// foreignRules is how many rules of other programs stand beside ours.
const foreignRules = 10_000

func understandGroup() Group {
	return Group{"understand", "What is wrong, and why a packet does not arrive", `
A hundred networks run, with ten guests' ports each, whose taps this program holds open, and a reservation for every guest. Two other firewalls have ten thousand
rules on the way of every forwarded packet: 6000 of nft, and 4000 of Docker's kind made by iptables (nf_tables). None of them is about a guest of ours, so each has to be asked and
says no. A command is a whole process, from its start to its end; by the API it is the client's time on the unix socket. "why" is asked about a
connection between guests of two networks, from a guest to the internet, and from the LAN to a forwarded port; "doctor" about all that there is. There is no peer: nothing else answers.`, runUnderstand}
}

func runUnderstand(ctx context.Context, b *Bench) (err error) {
	n, rules := b.runs(fleet, 3), b.runs(foreignRules, 100)
	h, err := newOurs(ctx, b, "ours-understand")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	const each = 10
	if _, err := h.feed(ctx, inhabited(n, each), "apply", "-f", "-"); err != nil {
		return err
	}
	files, err := inhabit(ctx, h, n, each)
	defer closeBy(8, files)
	if err != nil {
		return err
	}
	if _, err := h.run(ctx, "forward", "add", "8080", "g0:80"); err != nil {
		return err
	}
	if err := foreignFirewalls(ctx, h, rules); err != nil {
		return err
	}
	b.say("ours: %d networks with %d ports beside %d foreign rules", n, n*each, rules)
	for _, q := range []struct {
		what   string
		ask    api.WhyRequest
		verify string // what the answer has to be
	}{
		{"between guests of two networks", api.WhyRequest{From: "g0", To: "g1", Port: 80}, "rejected dropped"},
		{"guest to internet", api.WhyRequest{From: "g0", To: "internet", Port: 443}, "accepted"},
		{"LAN to forward", api.WhyRequest{From: "lan", To: "host", Port: 8080}, "accepted"},
	} {
		if err := b.askWhy(ctx, h, n, q.what, q.ask, q.verify); err != nil {
			return err
		}
	}
	return b.askDoctor(ctx, h, n)
}

func (b *Bench) askWhy(ctx context.Context, h *Host, n int, what string, ask api.WhyRequest, verify string) error {
	var byAPI, command Series
	for range b.runs(31, 3) {
		began := time.Now()
		p, err := h.client.Why(ctx, ask)
		byAPI.Took(time.Since(began))
		if err != nil {
			return err
		}
		if !strings.Contains(verify, p.Verdict) {
			return fmt.Errorf("why, %s: %s: %s", what, p.Verdict, p.Sentence)
		}
		if err := b.judged(ctx, h, []string{"why", ask.From, fmt.Sprintf("%s:%d", ask.To, ask.Port)}, &command); err != nil {
			return err
		}
	}
	b.add(Row{Work: fmt.Sprintf("drawbridge why, %s", what), Ours: command, Target: below(100, Millis)})
	b.add(Row{Work: fmt.Sprintf("why by the API, %s", what), Ours: byAPI})
	return nil
}

func (b *Bench) askDoctor(ctx context.Context, h *Host, n int) error {
	var byAPI, command Series
	findings := map[string]int{}
	for range b.runs(15, 3) {
		began := time.Now()
		d, err := h.client.Doctor(ctx, "")
		byAPI.Took(time.Since(began))
		if err != nil {
			return err
		}
		clear(findings)
		for _, f := range d.Findings {
			findings[f.Code]++
		}
		if err := b.judged(ctx, h, []string{"doctor"}, &command); err != nil {
			return err
		}
	}
	b.add(Row{Work: fmt.Sprintf("drawbridge doctor, %d networks", n), Ours: command, Target: below(300, Millis),
		Notes: []string{fmt.Sprintf("sorts of findings here: %d", len(findings))}})
	b.add(Row{Work: fmt.Sprintf("doctor by the API, %d networks", n), Ours: byAPI})
	return nil
}

// judged times a command that ends with 1 where what it looks at is not well.
func (b *Bench) judged(ctx context.Context, h *Host, args []string, into *Series) error {
	took, err := h.run(ctx, args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		err = nil
	}
	into.Took(took)
	return err
}

// guestMAC is the hardware address of guest number i.
func guestMAC(i int) string { return fmt.Sprintf("52:54:00:00:%02x:%02x", i/256, i%256) }

// inhabited is a document of n networks with a reservation for each of their guests.
func inhabited(n, each int) string {
	var b strings.Builder
	b.WriteString("networks:\n")
	for i := range n {
		fmt.Fprintf(&b, "- name: n%d\n  mode: nat\n  bridge: virbr%d\n  subnets: [10.80.%d.0/24]\n  reservations:\n", i, i, i)
		for j := range each {
			guest := i + j*n
			fmt.Fprintf(&b, "  - {mac: %q, ip: 10.80.%d.%d, hostname: g%d}\n", guestMAC(guest), i, 10+j, guest)
		}
	}
	return b.String()
}

// inhabit plugs them in.
func inhabit(ctx context.Context, h *Host, n, each int) (files []*os.File, err error) {
	for i := range n * each {
		_, taps, vhosts, err := h.client.OpenPort(ctx, api.PortRequest{Network: fmt.Sprintf("n%d", i%n), Guest: fmt.Sprintf("g%d", i), MAC: guestMAC(i)})
		files = append(append(files, taps...), vhosts...)
		if err != nil {
			return files, err
		}
	}
	return files, nil
}

// foreignFirewalls loads rules into chains of other programs that all forwarded packets go through.
func foreignFirewalls(ctx context.Context, h *Host, n int) error {
	var nft, ipt strings.Builder
	nft.WriteString("table inet site {\nchain forward {\ntype filter hook forward priority 0; policy accept;\n")
	for i := range n * 6 / 10 {
		fmt.Fprintf(&nft, "ip saddr 172.%d.%d.%d tcp dport %d counter drop comment \"customer %d\"\n", 16+i/65536, i/256%256, i%256, 1024+i%30000, i)
	}
	nft.WriteString("}\n}\n")
	ipt.WriteString("*filter\n:FORWARD ACCEPT [0:0]\n:CUSTOMERS - [0:0]\n-A FORWARD -j CUSTOMERS\n")
	for i := range n * 4 / 10 {
		fmt.Fprintf(&ipt, "-A CUSTOMERS -s 172.%d.%d.%d/32 -p tcp -m tcp --dport %d -m comment --comment \"customer %d\" -j DROP\n", 20+i/65536, i/256%256, i%256, 1024+i%30000, i)
	}
	ipt.WriteString("COMMIT\n")
	for program, text := range map[string]string{"nft": nft.String(), "iptables-nft-restore": ipt.String()} {
		args := map[string][]string{"nft": {"-f", "-"}}[program]
		cmd := h.node.Command(ctx, program, args...)
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("load foreign rules by %s: %w: %s", program, err, out)
		}
	}
	return nil
}
