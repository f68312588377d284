package linux

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// statement reads one statement or match. To add a statement, add a case.
func (c *compiler) statement() error {
	word := c.peek(0)
	if c.setsMark() {
		c.last = nil
		return c.setMark()
	}
	if _, ok := plainVerdicts[word]; ok || word == "jump" || word == "goto" {
		c.ended = true
		return c.verdict()
	}
	switch word {
	case "counter":
		c.emit(&expr.Counter{})
	case "notrack":
		c.emit(&expr.Notrack{})
	case "reject", "masquerade", "redirect", "snat", "dnat":
		c.ended = true
		c.at++
		return map[string]func() error{
			"reject": c.reject, "masquerade": c.masquerade, "redirect": c.redirect,
			"snat": func() error { return c.nat(expr.NATTypeSourceNAT) },
			"dnat": func() error { return c.nat(expr.NATTypeDestNAT) },
		}[word]()
	default:
		return c.match()
	}
	// What comes after is about fewer packets than what was before: matches are
	// not merged across.
	c.last = nil
	c.at++
	return nil
}

var plainVerdicts = map[string]expr.VerdictKind{
	"accept": expr.VerdictAccept, "drop": expr.VerdictDrop, "return": expr.VerdictReturn, "continue": expr.VerdictContinue,
}

func (c *compiler) verdict() error {
	v, err := parseVerdict(c.peek(0), c.peek(1))
	if err != nil {
		return err
	}
	c.at++
	if v.Chain != "" {
		c.at++
	}
	c.emit(v)
	return nil
}

func parseVerdict(verb, chain string) (*expr.Verdict, error) {
	if kind, ok := plainVerdicts[verb]; ok {
		return &expr.Verdict{Kind: kind}, nil
	}
	if chain == "" || !isName(chain) {
		return nil, fmt.Errorf("%q is not the name of a chain", chain)
	}
	switch verb {
	case "jump":
		return &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}, nil
	case "goto":
		return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}, nil
	}
	return nil, fmt.Errorf("%q is not a verdict", verb)
}

// isName says whether s can name a chain, set or table without quotes in nft.
func isName(s string) bool {
	for i, r := range s {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || !('0' <= r && r <= '9' || r == '-' || r == '.')) {
			return false
		}
	}
	return s != "" && len(s) < unix.NFT_NAME_MAXLEN
}

type rejection struct {
	kind uint32
	code uint8
}

var rejections = map[string]map[string]uint8{
	"icmpx":  {"no-route": 0, "port-unreachable": 1, "host-unreachable": 2, "admin-prohibited": 3},
	"icmp":   {"net-unreachable": 0, "host-unreachable": 1, "prot-unreachable": 2, "port-unreachable": 3, "net-prohibited": 9, "host-prohibited": 10, "admin-prohibited": 13},
	"icmpv6": {"no-route": 0, "admin-prohibited": 1, "addr-unreachable": 3, "port-unreachable": 4, "policy-fail": 5, "reject-route": 6},
}

// reject answers with an ICMP error or a TCP reset. Without a word it is port
// unreachable, in the family that the rule is about.
func (c *compiler) reject() error {
	if !c.accept("with") {
		r := map[string]rejection{"ip": {unix.NFT_REJECT_ICMP_UNREACH, 3}, "ip6": {unix.NFT_REJECT_ICMP_UNREACH, 4}, "": {unix.NFT_REJECT_ICMPX_UNREACH, 1}}[c.l3]
		c.emit(&expr.Reject{Type: r.kind, Code: r.code})
		return nil
	}
	family, reason := c.peek(0), c.peek(1)
	c.at = min(c.at+2, len(c.toks))
	code, ok := rejections[family][reason]
	switch {
	case family == "tcp" && reason == "reset":
		if err := c.depend(selector{l4: unix.IPPROTO_TCP}); err != nil {
			return err
		}
		c.emit(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
		return nil
	case !ok:
		return fmt.Errorf("%q is not a way to reject", family+" "+reason)
	case family == "icmpx":
		c.emit(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: code})
		return nil
	}
	if err := c.dependL3(map[string]string{"icmp": "ip", "icmpv6": "ip6"}[family], true); err != nil {
		return err
	}
	c.emit(&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code})
	return nil
}

type natFlags struct{ random, fully, persistent bool }

func (c *compiler) natFlags() (natFlags, error) {
	var f natFlags
	for !c.done() {
		switch {
		case c.accept("random"):
			f.random = true
		case c.accept("fully-random"):
			f.fully = true
		case c.accept("persistent"):
			f.persistent = true
		default:
			return f, fmt.Errorf("expected random, fully-random or persistent, got %q", c.rest())
		}
		if !c.accept(",") {
			break
		}
	}
	return f, nil
}

// masquerade is source NAT to the address of the interface the packet leaves by.
func (c *compiler) masquerade() error {
	f, err := c.natFlags()
	if err != nil {
		return err
	}
	c.emit(&expr.Masq{Random: f.random, FullyRandom: f.fully, Persistent: f.persistent})
	return nil
}

// redirect is destination NAT to the host itself.
func (c *compiler) redirect() error {
	r := &expr.Redir{}
	ports, err := c.toPorts(1)
	if err != nil {
		return err
	}
	if len(ports) > 0 {
		r.RegisterProtoMin, r.Flags = ports[0], unix.NF_NAT_RANGE_PROTO_SPECIFIED
	}
	if len(ports) > 1 {
		r.RegisterProtoMax = ports[1]
	}
	c.emit(r)
	return nil
}

// toPorts reads "to :80" or "to :80-90" and says which registers hold them.
func (c *compiler) toPorts(reg uint32) ([]uint32, error) {
	if !c.accept("to") {
		return nil, nil
	}
	t, err := c.next()
	if err != nil {
		return nil, err
	}
	ports, ok := strings.CutPrefix(t.text, ":")
	if !ok {
		return nil, fmt.Errorf("%q is not a port", t.text)
	}
	return c.loadRange(typePort, ports, reg)
}

// loadRange puts a constant, or both ends of a range, into registers from reg on.
func (c *compiler) loadRange(t *nftDatatype, text string, reg uint32) ([]uint32, error) {
	first, last, err := parseMember(t, true, text)
	if err != nil {
		return nil, err
	}
	c.emit(&expr.Immediate{Register: reg, Data: first})
	if string(first) == string(last) {
		return []uint32{reg}, nil
	}
	c.emit(&expr.Immediate{Register: reg + 1, Data: last})
	return []uint32{reg, reg + 1}, nil
}

// nat reads snat and dnat: to an address and perhaps a port, or to what a map
// yields.
func (c *compiler) nat(kind expr.NATType) error {
	family := ""
	if p := c.peek(0); p == "ip" || p == "ip6" {
		family = p
		c.at++
	}
	if err := c.expect("to"); err != nil {
		return err
	}
	n := &expr.NAT{Type: kind}
	var err error
	if _, isWord := firstWords[c.peek(0)]; isWord {
		family, err = c.natMap(n, family)
	} else {
		family, err = c.natConstant(n, family)
	}
	if err != nil {
		return err
	}
	n.Family = map[string]uint32{"ip": unix.NFPROTO_IPV4, "ip6": unix.NFPROTO_IPV6}[family]
	f, err := c.natFlags()
	if err != nil {
		return err
	}
	n.Random, n.FullyRandom, n.Persistent = f.random, f.fully, f.persistent
	c.emit(n)
	return nil
}

// firstWords are the words that selectors begin with.
var firstWords = func() map[string]bool {
	w := map[string]bool{}
	for name := range selectors {
		first, _, _ := strings.Cut(name, " ")
		w[first] = true
	}
	return w
}()

func (c *compiler) natConstant(n *expr.NAT, family string) (string, error) {
	t, err := c.next()
	if err != nil {
		return "", err
	}
	addrs, ports := splitPort(t.text)
	typ := typeIPv4
	if strings.Contains(addrs, ":") {
		typ = typeIPv6
	}
	own := map[*nftDatatype]string{typeIPv4: "ip", typeIPv6: "ip6"}[typ]
	if family == "" && c.l3 == "" {
		return "", errors.New("say ip or ip6 before to")
	}
	if family != "" && family != own || c.l3 != "" && c.l3 != own {
		return "", fmt.Errorf("%s is not of the rule's family", t.text)
	}
	regs, err := c.loadRange(typ, addrs, 1)
	if err != nil {
		return "", err
	}
	n.RegAddrMin = regs[0]
	if len(regs) > 1 {
		n.RegAddrMax = regs[1]
	}
	if ports == "" {
		return own, nil
	}
	regs, err = c.loadRange(typePort, ports, regs[len(regs)-1]+1)
	if err != nil {
		return "", err
	}
	n.RegProtoMin, n.Specified = regs[0], true
	if len(regs) > 1 {
		n.RegProtoMax = regs[1]
	}
	return own, nil
}

// splitPort takes 10.0.0.1:80 or [fd00::1]:80 apart; an IPv6 address without
// brackets has no port.
func splitPort(s string) (addrs, ports string) {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		addrs, ports, _ = strings.Cut(rest, "]")
		return addrs, strings.TrimPrefix(ports, ":")
	}
	if _, err := netip.ParseAddr(s); err == nil || strings.Count(s, ":") > 1 {
		return s, ""
	}
	addrs, ports, _ = strings.Cut(s, ":")
	return addrs, ports
}

func (c *compiler) natMap(n *expr.NAT, family string) (string, error) {
	sels, err := c.concatenation()
	if err != nil {
		return "", err
	}
	if err := c.depend(sels...); err != nil {
		return "", err
	}
	if err := c.expect("map"); err != nil {
		return "", err
	}
	if family == "" {
		family = c.l3
	}
	addr := map[string]*nftDatatype{"ip": typeIPv4, "ip6": typeIPv6}[family]
	if addr == nil {
		return "", errors.New("say ip or ip6 before to")
	}
	c.loadAll(sels)
	kind := braced{isMap: true}
	if c.peek(0) == "{" {
		kind.values = c.bracedValues(addr)
	}
	set, err := c.mapOf(typesOf(sels), kind)
	if err != nil {
		return "", err
	}
	c.addLookup(&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true}, set)
	n.RegAddrMin = 1
	switch nameOf(set.values) {
	case addr.name:
	case addr.name + " . " + typePort.name:
		n.RegProtoMin = register(align4(addr.size) / 4)
	default:
		return "", fmt.Errorf("the map yields %q, wanted is %s", nameOf(set.values), addr.name)
	}
	return family, nil
}

// bracedValues looks ahead whether a map in braces yields ports as well.
func (c *compiler) bracedValues(addr *nftDatatype) []*nftDatatype {
	for i := 0; c.peek(i) != "}" && c.peek(i) != ""; i++ {
		if c.peek(i) == ":" && c.peek(i+2) == "." {
			return []*nftDatatype{addr, typePort}
		}
	}
	return []*nftDatatype{addr}
}

func (c *compiler) setsMark() bool {
	return (c.peek(0) == "meta" || c.peek(0) == "ct") && c.peek(1) == "mark" && c.peek(2) == "set"
}

// setMark reads "meta mark set X": a number, another mark, or what a map yields.
func (c *compiler) setMark() error {
	target, err := c.selector()
	if err != nil {
		return err
	}
	c.at++ // set
	if _, err := strconv.ParseUint(c.peek(0), 0, 32); err == nil {
		value, err := typeMark.parse(c.peek(0))
		if err != nil {
			return err
		}
		c.at++
		c.emit(&expr.Immediate{Register: 1, Data: value}, target.assign(1))
		return nil
	}
	sels, err := c.concatenation()
	if err != nil {
		return err
	}
	if err := c.depend(sels...); err != nil {
		return err
	}
	c.loadAll(sels)
	if c.accept("map") {
		err = c.mapTo(typesOf(sels), 1, braced{isMap: true, values: []*nftDatatype{typeMark}})
	} else if len(sels) != 1 || sels[0].typ != typeMark {
		err = errors.New("a mark is set to a number, a mark or what a map yields")
	}
	if err != nil {
		return err
	}
	c.emit(target.assign(1))
	return nil
}
