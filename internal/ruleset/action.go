package ruleset

import (
	"fmt"
	"net/netip"
	"strings"
)

// act writes what a rule does.
func (w *writer) act(e Expr) {
	switch e := e.(type) {
	case Decide:
		w.add("%s", e.Verdict)
	case Counter:
		w.add("counter packets %d bytes %d", e.Packets, e.Bytes)
	case Reject:
		w.add("%s", e)
	case Log:
		w.log(e)
	case Limit:
		w.limit(e)
	case Notrack:
		w.add("notrack")
	case QueueTo:
		w.add("queue num %d", e.Number)
	case NAT:
		w.nat(e)
	case MetaSet:
		x := metaWords[e.Key]
		w.add("%s set %s", x.text, w.value(e.Src, x))
	case CtSet:
		x := ctWords[e.Key]
		w.add("ct %s set %s", x.text, w.value(e.Src, x))
	case PayloadSet:
		name := "payload"
		if found := fieldsAt(e.Base, e.Offset, e.Len); found != nil {
			name = found[0].text
		}
		w.add("%s set %s", name, w.value(e.Src, word{kind: "hex"}))
	case Dynset:
		w.add("add @%s { … }", e.Name)
	case Match:
		w.add("xt match %q", e.Name)
	case Target:
		w.add("xt target %q", e.Name)
	case Object:
		w.add("object name %q", e.Name)
	case Harmless:
		w.add("%s", e.Name)
	}
}

// value is what a register holds: constant bytes in the words of as, or what was
// loaded.
func (w *writer) value(src int, as word) string {
	x := w.regs[src]
	if x.constant != nil {
		return format(as, x.constant)
	}
	return x.text
}

// String writes a reject as nft does.
func (r Reject) String() string {
	codes := map[uint32]string{0: "no-route", 1: "port-unreachable", 2: "host-unreachable", 3: "admin-prohibited"}
	switch r.Type {
	case 1:
		return "reject with tcp reset"
	case 2:
		return "reject with icmpx " + codes[r.Code]
	}
	return fmt.Sprintf("reject with icmp code %d", r.Code)
}

func (w *writer) log(e Log) {
	text := "log"
	if e.Prefix != "" {
		text += fmt.Sprintf(" prefix %q", e.Prefix)
	}
	if e.Group >= 0 {
		text += fmt.Sprintf(" group %d", e.Group)
	}
	w.add("%s", text)
}

func (w *writer) limit(e Limit) {
	unit := map[uint64]string{1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week"}[e.Seconds]
	over, what := "", ""
	if e.Over {
		over = "over "
	}
	if e.Bytes {
		what = " bytes"
	}
	w.add("limit rate %s%d%s/%s", over, e.Rate, what, unit)
}

func (w *writer) nat(e NAT) {
	text := e.Kind
	var to strings.Builder
	if e.AddrMin != NoRegister {
		x := w.regs[e.AddrMin]
		if a, ok := netip.AddrFromSlice(x.constant); ok {
			to.WriteString(a.String())
		} else {
			to.WriteString(x.text)
		}
	}
	if e.PortMin != NoRegister {
		if x := w.regs[e.PortMin]; len(x.constant) == 2 {
			to.WriteString(":" + format(word{kind: "port"}, x.constant))
		}
	}
	if to.Len() > 0 {
		text += " to " + to.String()
	}
	w.add("%s", text)
}
