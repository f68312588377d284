package linux

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// User data of a rule is a list of type, length, value, one byte each for the
// first two (libnftnl's udata.h). Type 0 is the comment that `nft list` shows;
// nft skips types it does not know. The kernel takes 256 bytes
// (NFT_USERDATA_MAXLEN).
const (
	udataComment = 0
	udataText    = 0xdb // the rule as it was written
	udataHash    = 0xdc // SHA-256 of it, shortened, where it does not fit
	udataMax     = unix.NFT_USERDATA_MAXLEN
	hashBytes    = 16
)

// userData keeps a rule's reason and its text with the rule.
func (r *nftRule) userData() ([]byte, error) {
	if r.raw != nil {
		return r.rawData, nil
	}
	var b []byte
	if r.why != "" {
		b = append(b, udataComment, byte(len(r.why)+1))
		b = append(append(b, r.why...), 0)
	}
	kept, kind := []byte(r.text), byte(udataText)
	if len(b)+2+len(kept) > udataMax || len(kept) > 255 {
		kept, kind = hashOf(r.text), udataHash
	}
	b = append(append(b, kind, byte(len(kept))), kept...)
	if len(b) > udataMax {
		return nil, fmt.Errorf("rule %q: %d bytes of user data", r.text, len(b))
	}
	return b, nil
}

func hashOf(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:hashBytes]
}

// readUserData is the opposite of userData; hash is set if only that was kept.
func readUserData(b []byte) (text, why, hash string) {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		v := b[2 : 2+int(b[1])]
		switch b[0] {
		case udataComment:
			why = cString(v)
		case udataText:
			text = string(v)
		case udataHash:
			hash = hex.EncodeToString(v)
		}
		b = b[2+len(v):]
	}
	return text, why, hash
}

var familyNumbers = map[host.Family]byte{
	host.FamilyInet: unix.NFPROTO_INET, host.FamilyBridge: unix.NFPROTO_BRIDGE, host.FamilyIP: unix.NFPROTO_IPV4, host.FamilyIP6: unix.NFPROTO_IPV6,
}

// expressions encodes what a rule does, as the value of NFTA_RULE_EXPRESSIONS.
func (r *nftRule) expressions(family host.Family) ([]byte, error) {
	if r.raw != nil {
		return r.raw, nil
	}
	var b []byte
	for _, e := range r.exprs {
		if l, ok := e.(*expr.Lookup); ok && r.sets[l] != nil {
			l.SetID = r.sets[l].id
		}
		one, err := expr.Marshal(familyNumbers[family], e)
		if err != nil {
			return nil, fmt.Errorf("rule %q: %w", r.text, err)
		}
		b = putNest(b, unix.NFTA_LIST_ELEM, one)
	}
	return b, nil
}

// anonymousSets lists the sets written in the rule, in order.
func (r *nftRule) anonymousSets() []*nftSet {
	var sets []*nftSet
	for _, e := range r.exprs {
		if l, ok := e.(*expr.Lookup); ok && r.sets[l] != nil {
			sets = append(sets, r.sets[l])
		}
	}
	return sets
}

// canonical describes what the rule does, for comparison with canonicalRule.
func (r *nftRule) canonical(family host.Family) (string, error) {
	b, err := r.expressions(family)
	if err != nil {
		return "", err
	}
	sets := r.anonymousSets()
	return canonicalRule(b, func(string) (*nftSet, error) {
		set := sets[0]
		sets = sets[1:]
		return set, nil
	})
}

// nestedData are the attributes of expressions that hold data (nft_data) and
// not a number.
var nestedData = map[string][]uint16{
	"cmp": {unix.NFTA_CMP_DATA}, "immediate": {unix.NFTA_IMMEDIATE_DATA}, "range": {unix.NFTA_RANGE_FROM_DATA, unix.NFTA_RANGE_TO_DATA},
	"bitwise": {unix.NFTA_BITWISE_MASK, unix.NFTA_BITWISE_XOR, 7 /* NFTA_BITWISE_DATA */},
}

// derivedFlags are NAT flags that the kernel sets by itself when it is given
// addresses (1) or ports (2) to translate to: NF_NAT_RANGE_MAP_IPS and
// NF_NAT_RANGE_PROTO_SPECIFIED.
const derivedFlags = 3

// canonicalRule writes encoded expressions so that two rules that do the same
// have the same text, whether they come from our compiler or from the kernel:
// without counts, identifiers and defaults. Unknown expressions are kept as
// they are. anonymous finds a set that is written in the rule.
func canonicalRule(exprs []byte, anonymous func(name string) (*nftSet, error)) (string, error) {
	var lines []string
	for one := range nftAttrs(exprs) {
		name, _ := find(one.data, unix.NFTA_EXPR_NAME)
		data, _ := find(one.data, unix.NFTA_EXPR_DATA)
		line, err := canonicalExpr(name.text(), data.data, anonymous)
		if err != nil {
			return "", err
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n"), nil
}

func canonicalExpr(name string, data []byte, anonymous func(string) (*nftSet, error)) (string, error) {
	values := map[uint16]string{}
	for a := range nftAttrs(data) {
		switch {
		case name == "counter", name == "lookup" && a.kind == unix.NFTA_LOOKUP_SET_ID:
		case name == "lookup" && a.kind == unix.NFTA_LOOKUP_SET && isAnonymous(a.text()):
			set, err := anonymous(a.text())
			if err != nil {
				return "", err
			}
			values[a.kind] = set.canonical()
		case slices.Contains(nestedData[name], a.kind):
			values[a.kind] = canonicalData(a.data)
		case !allZero(a.data):
			values[a.kind] = hex.EncodeToString(a.data)
		}
	}
	switch name {
	case "nat":
		dropDerived(values, unix.NFTA_NAT_FLAGS, unix.NFTA_NAT_REG_ADDR_MIN, unix.NFTA_NAT_REG_ADDR_MAX, unix.NFTA_NAT_REG_PROTO_MIN, unix.NFTA_NAT_REG_PROTO_MAX)
	case "redir":
		dropDerived(values, unix.NFTA_REDIR_FLAGS, unix.NFTA_REDIR_REG_PROTO_MIN, unix.NFTA_REDIR_REG_PROTO_MAX)
	}
	var b strings.Builder
	b.WriteString(name)
	for kind := uint16(1); len(values) > 0; kind++ {
		if v, ok := values[kind]; ok {
			fmt.Fprintf(&b, " %d=%s", kind, v)
			delete(values, kind)
		}
	}
	return b.String(), nil
}

// dropDerived removes flags that follow from the registers given, and the upper
// end of a range that equals the lower: minMax are pairs of them.
func dropDerived(values map[uint16]string, flags uint16, minMax ...uint16) {
	if b, err := hex.DecodeString(values[flags]); err == nil && len(b) == 4 {
		b[3] &^= derivedFlags
		values[flags] = hex.EncodeToString(b)
		if allZero(b) {
			delete(values, flags)
		}
	}
	for i := 0; i+1 < len(minMax); i += 2 {
		if values[minMax[i]] == values[minMax[i+1]] {
			delete(values, minMax[i+1])
		}
	}
}

// canonicalData writes struct nft_data: bytes or a verdict.
func canonicalData(b []byte) string {
	if v, ok := find(b, unix.NFTA_DATA_VALUE); ok {
		return hex.EncodeToString(v.data)
	}
	v, _ := find(b, unix.NFTA_DATA_VERDICT)
	code, _ := find(v.data, unix.NFTA_VERDICT_CODE)
	chain, _ := find(v.data, unix.NFTA_VERDICT_CHAIN)
	return formatVerdict(expr.VerdictKind(int32(code.u32())), chain.text())
}

// isAnonymous knows the names that nft and we let the kernel number.
func isAnonymous(set string) bool {
	return strings.HasPrefix(set, "__set") || strings.HasPrefix(set, "__map")
}

// Lines of an observed chain that no wanted chain has: what somebody else did
// to it. Raw ones carry the rule as the kernel gave it, so that going back to
// such a chain can put it there again.
const (
	linePolicyDrop = "# policy drop"
	lineAdded      = "# added by somebody: "
	lineChanged    = "# changed by somebody, was: "
	rawMark        = " raw "
)

// foreignLine shows a rule that is not as we wrote it.
func foreignLine(was, why string, exprs, udata []byte) string {
	var b strings.Builder
	if was != "" {
		b.WriteString(lineChanged + was)
	} else {
		b.WriteString(lineAdded + strings.Join(exprNames(exprs), " "))
	}
	if why != "" {
		fmt.Fprintf(&b, " (%s)", strings.Map(printable, why))
	}
	if usesAnonymous(exprs) {
		return b.String() + ", with a set of its own"
	}
	enc := base64.RawStdEncoding
	return b.String() + rawMark + enc.EncodeToString(exprs) + "." + enc.EncodeToString(udata)
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '?'
	}
	return r
}

func exprNames(exprs []byte) []string {
	var names []string
	for one := range nftAttrs(exprs) {
		name, _ := find(one.data, unix.NFTA_EXPR_NAME)
		names = append(names, name.text())
	}
	return names
}

func usesAnonymous(exprs []byte) bool {
	for one := range nftAttrs(exprs) {
		data, _ := find(one.data, unix.NFTA_EXPR_DATA)
		name, _ := find(one.data, unix.NFTA_EXPR_NAME)
		if set, ok := find(data.data, unix.NFTA_LOOKUP_SET); ok && name.text() == "lookup" && isAnonymous(set.text()) {
			return true
		}
	}
	return false
}

// parseForeignLine gives back the raw rule of a line that begins with #, or nil
// if it has none.
func parseForeignLine(line string) (*nftRule, error) {
	i := strings.LastIndex(line, rawMark)
	if i < 0 || !strings.HasPrefix(line, lineAdded) && !strings.HasPrefix(line, lineChanged) {
		return nil, nil
	}
	exprs, udata, _ := strings.Cut(line[i+len(rawMark):], ".")
	raw, err := base64.RawStdEncoding.DecodeString(exprs)
	if err != nil {
		return nil, fmt.Errorf("raw rule: %w", err)
	}
	rawData, err := base64.RawStdEncoding.DecodeString(udata)
	if err != nil {
		return nil, fmt.Errorf("raw rule: %w", err)
	}
	return &nftRule{text: line[:i], raw: raw, rawData: rawData}, nil
}
