package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// acceptMark begins the comment of every rule of ours in a chain of others; the
// way, the bridge and the subnet follow. Whoever lists the rules sees it.
const acceptMark = "drawbridge: "

// docker's chain for rules of others, at the head of FORWARD.
const dockerUser = "DOCKER-USER"

// acceptRule is a rule in a chain of others that is ours by its comment.
type acceptRule struct {
	host.Accept
	handle uint64
	// same: it does what its comment says.
	same bool
}

func acceptComment(a host.Accept) string {
	text := acceptMark + string(a.Way) + " " + a.Bridge
	if a.Subnet.IsValid() {
		text += " " + a.Subnet.String()
	}
	return text
}

// parseAccept is the opposite of acceptComment.
func parseAccept(comment string) (a host.Accept, ok bool) {
	rest, ok := strings.CutPrefix(comment, acceptMark)
	words := strings.Fields(rest)
	if !ok || len(words) < 2 || len(words) > 3 {
		return a, false
	}
	a.Way, a.Bridge = host.Way(words[0]), words[1]
	if len(words) == 3 {
		p, err := netip.ParsePrefix(words[2])
		if err != nil {
			return a, false
		}
		a.Subnet = p
	}
	return a, true
}

// observeAccepts reads our rules in the chains of others: those with the given
// keys, or all. One that does something else than it says is shown without a
// way, so that it differs from what is wanted.
func (a *nftAdapter) observeAccepts(ctx context.Context, seen host.State, keys []host.Key) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	wanted := map[host.Key]bool{}
	for _, k := range keys {
		wanted[k] = true
	}
	rules, err := a.acceptRules()
	if err != nil {
		return err
	}
	for _, r := range rules {
		key := r.Key()
		if keys != nil && !wanted[key] {
			continue
		}
		if !r.same {
			// The key stays, by which it is known; what it does does not.
			seen[key] = host.Accept{Table: r.Table, Chain: r.Chain, Bridge: r.Bridge}
			continue
		}
		seen[key] = r.Accept
	}
	return nil
}

// listedAccepts are rules of ours as they were listed, at some time and at some
// count of changes of others.
type listedAccepts struct {
	rules  []acceptRule
	others uint32
	at     time.Time
	// made counts our own changes.
	made uint32
}

// listingHolds is how long a listing is believed although nobody was seen to
// change rules: see byOthers.
const listingHolds = 30 * time.Second

// acceptRules lists our rules in chains of others. Only those chains are read in
// which there can be some: base chains of filters, and Docker's for others. A host
// may have ten thousand rules there, which every look at it would read: they are
// listed anew when somebody else changed rules, or we these.
func (a *nftAdapter) acceptRules() (all []acceptRule, err error) {
	others, err := a.sock.byOthers()
	if err != nil {
		return nil, err
	}
	if last := a.accepts; last.others == others && time.Since(last.at) < listingHolds {
		return last.rules, nil
	}
	for range listTries {
		if all, err = a.listAccepts(); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		a.accepts = listedAccepts{all, others, time.Now(), a.accepts.made}
	}
	return all, err
}

// listTries is how often a listing is begun anew because others change rules
// meanwhile (NLM_F_DUMP_INTR): a firewall that starts does so for a second.
const listTries = 50

func (a *nftAdapter) listAccepts() ([]acceptRule, error) {
	chains, err := a.sock.get(unix.NFT_MSG_GETCHAIN, 0, netlink.Dump, nil)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	var all []acceptRule
	for _, c := range chains {
		f := fieldsOf(c.attrs)
		t := host.Table{Family: host.Family(familyWords[c.family]), Name: f.text(unix.NFTA_CHAIN_TABLE)}
		name := f.text(unix.NFTA_CHAIN_NAME)
		filter := f[unix.NFTA_CHAIN_HOOK] != nil && f.text(unix.NFTA_CHAIN_TYPE) == "filter"
		if acceptFamilies[t.Family] == 0 || t.Name == ourTable || !filter && name != dockerUser {
			continue
		}
		found, err := a.acceptsIn(t, name)
		if err != nil && !isGone(err) {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// acceptFamilies are those whose chains can have rules of ours.
var acceptFamilies = map[host.Family]byte{host.FamilyIP: unix.NFPROTO_IPV4, host.FamilyIP6: unix.NFPROTO_IPV6, host.FamilyInet: unix.NFPROTO_INET}

// RulesOfOthers is a number that changes whenever another program changed rules.
func (h *Host) RulesOfOthers() (uint32, error) {
	h.rules.mu.Lock()
	defer h.rules.mu.Unlock()
	return h.rules.sock.byOthers()
}

func (a *nftAdapter) acceptsIn(t host.Table, chain string) ([]acceptRule, error) {
	attrs := putText(putText(nil, unix.NFTA_RULE_TABLE, t.Name), unix.NFTA_RULE_CHAIN, chain)
	replies, err := a.sock.get(unix.NFT_MSG_GETRULE, acceptFamilies[t.Family], netlink.Dump, attrs)
	if err != nil {
		return nil, fmt.Errorf("list nftables rules of %s %s: %w", t, chain, err)
	}
	var all []acceptRule
	for _, reply := range replies {
		f := fieldsOf(reply.attrs)
		// Older kernels do not look at the names that a listing is asked for.
		if f.text(unix.NFTA_RULE_TABLE) != t.Name || f.text(unix.NFTA_RULE_CHAIN) != chain {
			continue
		}
		_, why, _ := readUserData(f[unix.NFTA_RULE_USERDATA])
		accept, ours := parseAccept(why)
		if !ours {
			continue
		}
		accept.Table, accept.Chain = t, chain
		r := acceptRule{Accept: accept, handle: f.u64(unix.NFTA_RULE_HANDLE)}
		if want, err := acceptExpressions(accept); err == nil {
			r.same = canonicalAccept(want) == canonicalAccept(f[unix.NFTA_RULE_EXPRESSIONS])
		}
		all = append(all, r)
	}
	return all, nil
}

// canonicalAccept writes expressions so that ours and the kernel's are the same
// text: extensions of iptables come back padded.
func canonicalAccept(exprs []byte) string {
	var b strings.Builder
	for one := range nftAttrs(exprs) {
		name, _ := find(one.data, unix.NFTA_EXPR_NAME)
		data, _ := find(one.data, unix.NFTA_EXPR_DATA)
		line := name.text()
		if line == "match" {
			kind, _ := find(data.data, unix.NFTA_MATCH_NAME)
			info, _ := find(data.data, unix.NFTA_MATCH_INFO)
			line += fmt.Sprintf(" %s %x", kind.text(), strings.TrimRight(string(info.data), "\x00"))
		} else if text, err := canonicalExpr(line, data.data, nil); err == nil {
			line = text
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// ExceptionsMade counts how often rules of ours were put into chains of others, or
// taken out.
func (h *Host) ExceptionsMade() uint32 {
	h.rules.mu.Lock()
	defer h.rules.mu.Unlock()
	return h.rules.accepts.made
}

// applyAccepts puts rules at the head of chains of others, and takes them out,
// in one transaction. One that is to be made and is there comes to the head anew:
// somebody may have put a rule before it since.
func (a *nftAdapter) applyAccepts(ctx context.Context, steps []plan.Step) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var err error
	for range applyTries {
		if err := ctx.Err(); err != nil {
			return err
		}
		there, lookErr := a.acceptRules()
		if lookErr != nil {
			return lookErr
		}
		msgs, buildErr := acceptMessages(steps, there)
		if buildErr != nil {
			return buildErr
		}
		a.accepts = listedAccepts{made: a.accepts.made + 1}
		if err = a.sock.transact(msgs); err == nil || !errors.Is(err, unix.ENOENT) {
			return err
		}
		// Somebody took the rule or the chain away meanwhile: look again.
	}
	return err
}

func acceptMessages(steps []plan.Step, there []acceptRule) ([]nftMessage, error) {
	var gone, made []nftMessage
	for _, s := range steps {
		key, stays := s.Key(), false
		want, _ := s.After.(host.Accept)
		for _, r := range there {
			if r.Key() != key {
				continue
			}
			if s.After != nil && s.Before != nil && r.same && !stays {
				stays = true // as wanted; a second one goes
				continue
			}
			attrs := putText(putText(nil, unix.NFTA_RULE_TABLE, r.Table.Name), unix.NFTA_RULE_CHAIN, r.Chain)
			attrs = put(attrs, unix.NFTA_RULE_HANDLE, bigEndian64(r.handle))
			gone = append(gone, nftMessage{kind: unix.NFT_MSG_DELRULE, family: acceptFamilies[r.Table.Family], attrs: attrs, about: "delete " + key.String()})
		}
		if s.After == nil || stays {
			continue
		}
		exprs, err := acceptExpressions(want)
		if err != nil {
			return nil, fmt.Errorf("nftables: %s: %w", key, err)
		}
		why := acceptComment(want)
		attrs := putText(putText(nil, unix.NFTA_RULE_TABLE, want.Table.Name), unix.NFTA_RULE_CHAIN, want.Chain)
		attrs = putNest(attrs, unix.NFTA_RULE_EXPRESSIONS, exprs)
		if iptablesChain(want) && icmpTypes[want.Way] != 0 {
			// What the extension icmp6 asks for: that the rule is about ICMPv6.
			attrs = putNest(attrs, unix.NFTA_RULE_COMPAT, putU32(putU32(nil, unix.NFTA_RULE_COMPAT_PROTO, unix.IPPROTO_ICMPV6), unix.NFTA_RULE_COMPAT_FLAGS, 0))
		}
		attrs = put(attrs, unix.NFTA_RULE_USERDATA, append(append([]byte{udataComment, byte(len(why) + 1)}, why...), 0))
		// Without NLM_F_APPEND a rule comes first in its chain.
		made = append(made, nftMessage{kind: unix.NFT_MSG_NEWRULE, family: acceptFamilies[want.Table.Family], flags: netlink.Create, attrs: attrs, about: key.String()})
	}
	return slices.Concat(gone, made), nil
}

func bigEndian64(v uint64) []byte {
	b := make([]byte, 8)
	for i := range b {
		b[i] = byte(v >> (56 - 8*i))
	}
	return b
}

// acceptExpressions encodes a rule. In iptables' own tables it is written as
// iptables-nft writes it: that program reads back only what it could have
// written, and with it Docker, ufw and others fail where it meets anything else
// ("table `filter' is incompatible, use 'nft' tool").
func acceptExpressions(a host.Accept) ([]byte, error) {
	family := acceptFamilies[a.Table.Family]
	if family == 0 {
		return nil, fmt.Errorf("family %q is not one that can be opened", a.Table.Family)
	}
	b := acceptBuilder{native: !iptablesChain(a), six: a.Subnet.IsValid() && a.Subnet.Addr().Is6() || icmpTypes[a.Way] != 0}
	if b.native && a.Table.Family == host.FamilyInet && (a.Subnet.IsValid() || icmpTypes[a.Way] != 0) {
		proto := byte(unix.NFPROTO_IPV4)
		if b.six {
			proto = unix.NFPROTO_IPV6
		}
		b.add(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}})
	}
	if err := b.way(a); err != nil {
		return nil, err
	}
	b.add(&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept})
	var out []byte
	for _, e := range b.exprs {
		one, err := expr.Marshal(family, e)
		if err != nil {
			return nil, err
		}
		out = putNest(out, unix.NFTA_LIST_ELEM, one)
	}
	return out, nil
}

// iptablesChain knows iptables-nft's tables by their names: built-in chains are
// in capitals, and nft users write them small.
func iptablesChain(a host.Accept) bool {
	return a.Table.Family != host.FamilyInet && a.Table.Name == "filter" && a.Chain == strings.ToUpper(a.Chain)
}

// icmpTypes of the ways of IPv6 address configuration (RFC 4861, section 4).
var icmpTypes = map[host.Way]byte{
	host.WaySolicit: 133, host.WayLook: 135, host.WayFound: 136, host.WayAdvert: 134, host.WayAsk: 135, host.WayTell: 136,
}

type acceptBuilder struct {
	native, six bool
	exprs       []expr.Any
}

func (b *acceptBuilder) add(e ...expr.Any) { b.exprs = append(b.exprs, e...) }

// way writes what the packets of a way have in common.
func (b *acceptBuilder) way(a host.Accept) error {
	const source, target = true, false
	switch a.Way {
	case host.WayOut:
		b.link(expr.MetaKeyIIFNAME, a.Bridge)
		b.addr(a.Subnet, source)
	case host.WayBack, host.WayDoors:
		b.link(expr.MetaKeyOIFNAME, a.Bridge)
		b.addr(a.Subnet, target)
		b.connection(a.Way)
	case host.WayWithin:
		b.link(expr.MetaKeyIIFNAME, a.Bridge)
		b.link(expr.MetaKeyOIFNAME, a.Bridge)
	case host.WayDHCP:
		b.link(expr.MetaKeyIIFNAME, a.Bridge)
		b.port(unix.IPPROTO_UDP, 67, target)
	case host.WayOffer:
		b.link(expr.MetaKeyOIFNAME, a.Bridge)
		b.port(unix.IPPROTO_UDP, 67, source)
	case host.WayDNS:
		b.link(expr.MetaKeyIIFNAME, a.Bridge)
		b.port(unix.IPPROTO_UDP, 53, target)
	case host.WayDNSStream:
		b.link(expr.MetaKeyIIFNAME, a.Bridge)
		b.port(unix.IPPROTO_TCP, 53, target)
	case host.WayName:
		b.link(expr.MetaKeyOIFNAME, a.Bridge)
		b.port(unix.IPPROTO_UDP, 53, source)
	case host.WaySolicit, host.WayLook, host.WayFound:
		b.link(expr.MetaKeyIIFNAME, a.Bridge)
		b.icmp(icmpTypes[a.Way])
	case host.WayAdvert, host.WayAsk, host.WayTell:
		b.link(expr.MetaKeyOIFNAME, a.Bridge)
		b.icmp(icmpTypes[a.Way])
	default:
		return fmt.Errorf("unknown way %q", a.Way)
	}
	return nil
}

func (b *acceptBuilder) link(key expr.MetaKey, name string) {
	data := append([]byte(name), 0)
	if b.native {
		data = make([]byte, unix.IFNAMSIZ)
		copy(data, name)
	}
	b.add(&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data})
}

// addr compares an address of the network header with a prefix (RFC 791, 8200).
func (b *acceptBuilder) addr(p netip.Prefix, source bool) {
	offset, size := uint32(16), uint32(4)
	switch {
	case p.Addr().Is6() && source:
		offset, size = 8, 16
	case p.Addr().Is6():
		offset, size = 24, 16
	case source:
		offset = 12
	}
	b.add(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
	if p.Bits() < p.Addr().BitLen() {
		mask := make([]byte, size)
		for i := range p.Bits() {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		b.add(&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)})
	}
	b.add(&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()})
}

// connection compares the state: answers, or what a forward translated.
func (b *acceptBuilder) connection(way host.Way) {
	if !b.native {
		state := uint16(xtStateEstablished | xtStateRelated)
		if way == host.WayDoors {
			state = xtStateDNAT
		}
		info := make(xt.Unknown, xtConntrackSize)
		binary.NativeEndian.PutUint16(info[xtMatchFlags:], xtConntrackState)
		binary.NativeEndian.PutUint16(info[xtStateMask:], state)
		b.add(&expr.Match{Name: "conntrack", Rev: 3, Info: &info})
		return
	}
	key, mask := expr.CtKeySTATE, uint32(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	if way == host.WayDoors {
		key, mask = expr.CtKeySTATUS, ipsDNAT
	}
	native := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	b.add(&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(mask), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native(0)})
}

// Bits of linux/netfilter/xt_conntrack.h and nf_conntrack_common.h.
const (
	xtConntrackSize     = 168 // struct xt_conntrack_mtinfo3 by XT_ALIGN
	xtMatchFlags        = 146 // where in it match_flags and state_mask are
	xtStateMask         = 150
	xtConntrackState    = 1 << 0
	xtStateEstablished  = 1 << 1
	xtStateRelated      = 1 << 2
	xtStateDNAT         = 1 << 7
	ipsDNAT             = 1 << 5
	udpOffset, udpBytes = 0, 2
)

func (b *acceptBuilder) port(proto byte, port uint16, source bool) {
	offset := uint32(udpBytes)
	if source {
		offset = udpOffset
	}
	b.add(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: udpBytes},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(port >> 8), byte(port)}})
}

func (b *acceptBuilder) icmp(kind byte) {
	b.add(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMPV6}})
	if b.native {
		b.add(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{kind}})
		return
	}
	// struct ip6t_icmp: type, the first and last code, flags that invert.
	info := xt.Unknown{kind, 0, 0xff, 0, 0, 0, 0, 0} // and XT_ALIGN
	b.add(&expr.Match{Name: "icmp6", Rev: 0, Info: &info})
}
