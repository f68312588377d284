package linux

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// sizeofRule is that of struct fib_rule_hdr, and ruleInvert its flag
// FIB_RULE_INVERT (linux/fib_rules.h).
const (
	sizeofRule = 12
	ruleInvert = 2
)

// parseRule reads an entry of the policy database.
func parseRule(m netlink.Message) (host.Rule, error) {
	var r host.Rule
	if len(m.Data) < sizeofRule {
		return r, fmt.Errorf("rule message of %d bytes is cut short", len(m.Data))
	}
	r.Six = m.Data[0] == unix.AF_INET6
	r.TOS, r.Table, r.Action = int(m.Data[3]), int(m.Data[4]), int(m.Data[7])
	r.Not = binary.NativeEndian.Uint32(m.Data[8:])&ruleInvert != 0
	prefix := func(b []byte, length byte) netip.Prefix {
		a, _ := netip.AddrFromSlice(b)
		return netip.PrefixFrom(a, int(length))
	}
	rest := netlink.NewAttributeEncoder()
	err := decode(m.Data, sizeofRule, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.FRA_DST:
			r.To = prefix(ad.Bytes(), m.Data[1])
		case unix.FRA_SRC:
			r.From = prefix(ad.Bytes(), m.Data[2])
		case unix.FRA_IIFNAME:
			r.Iif = ad.String()
		case unix.FRA_OIFNAME:
			r.Oif = ad.String()
		case unix.FRA_PRIORITY:
			r.Priority = ad.Uint32()
		case unix.FRA_FWMARK:
			r.Mark = ad.Uint32()
		case unix.FRA_FWMASK:
			r.Mask = ad.Uint32()
		case unix.FRA_TABLE:
			r.Table = int(ad.Uint32())
		case unix.FRA_PROTOCOL:
			r.Protocol = int(ad.Uint8())
		case unix.FRA_PAD:
		case unix.FRA_SUPPRESS_PREFIXLEN:
			// Every rule has it; all ones is off.
			if v := ad.Uint32(); v != 1<<32-1 {
				rest.Uint32(ad.Type(), v)
			}
		default:
			rest.Bytes(ad.Type(), ad.Bytes())
		}
	})
	if err != nil {
		return r, err
	}
	b, err := rest.Encode()
	r.Rest = hex.EncodeToString(b)
	return r, err
}

// PolicyRouting says whether the way of a packet depends on more than where it
// goes: there are rules beside the three that the kernel makes.
func (h *Host) PolicyRouting() (special bool, err error) {
	err = h.rulesSeen(func(r host.Rule) { special = special || r.Protocol != unix.RTPROT_KERNEL })
	return special, err
}

// rules lists the policy database of both families.
func (h *Host) rulesSeen(each func(host.Rule)) error {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		header := make([]byte, sizeofRule)
		header[0] = family
		msgs, err := h.rtnl.dump(unix.RTM_GETRULE, header, nil)
		if isAny(err, unix.EAFNOSUPPORT, unix.EOPNOTSUPP) {
			continue // a kernel without IPv6, or without policy routing
		}
		if err != nil {
			return fmt.Errorf("list rules: %w", err)
		}
		for _, m := range msgs {
			if !ipFamily(m) {
				continue
			}
			r, err := parseRule(m)
			if err != nil {
				return fmt.Errorf("list rules: %w", err)
			}
			each(r)
		}
	}
	return nil
}

func (h *Host) observePolicy(seen host.State, keys []host.Key) error {
	wanted := map[host.Key]bool{}
	for _, k := range keys {
		wanted[k] = true
	}
	return h.rulesSeen(func(r host.Rule) {
		if wanted[r.Key()] {
			seen.Add(r)
		}
	})
}

func (h *Host) applyPolicy(steps []plan.Step) error {
	for _, s := range steps {
		var err error
		if s.After == nil {
			err = h.sendRule(unix.RTM_DELRULE, flagChange, s.Before.(host.Rule))
			if isAny(err, fs.ErrNotExist, unix.ESRCH) {
				err = nil
			}
		} else {
			err = h.sendRule(unix.RTM_NEWRULE, flagCreate, s.After.(host.Rule))
			if errors.Is(err, unix.EEXIST) {
				err = nil
			}
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", s.Verb(), s.Key(), err)
		}
	}
	return nil
}

func (h *Host) sendRule(typ uint16, flags netlink.HeaderFlags, r host.Rule) error {
	header := make([]byte, sizeofRule)
	header[0], header[3], header[7] = unix.AF_INET, byte(r.TOS), byte(r.Action)
	if r.Six {
		header[0] = unix.AF_INET6
	}
	if r.Table < 256 {
		header[4] = byte(r.Table)
	}
	if r.Not {
		binary.NativeEndian.PutUint32(header[8:], ruleInvert)
	}
	if r.To.IsValid() {
		header[1] = byte(r.To.Bits())
	}
	if r.From.IsValid() {
		header[2] = byte(r.From.Bits())
	}
	rest, err := hex.DecodeString(r.Rest)
	if err != nil {
		return fmt.Errorf("attributes %q: %w", r.Rest, err)
	}
	_, err = h.rtnl.do(typ, flags, header, func(ae *netlink.AttributeEncoder) {
		if r.To.IsValid() {
			ae.Bytes(unix.FRA_DST, r.To.Addr().AsSlice())
		}
		if r.From.IsValid() {
			ae.Bytes(unix.FRA_SRC, r.From.Addr().AsSlice())
		}
		if r.Iif != "" {
			ae.String(unix.FRA_IIFNAME, r.Iif)
		}
		if r.Oif != "" {
			ae.String(unix.FRA_OIFNAME, r.Oif)
		}
		ae.Uint32(unix.FRA_PRIORITY, r.Priority)
		if r.Mark != 0 || r.Mask != 0 {
			ae.Uint32(unix.FRA_FWMARK, r.Mark)
			ae.Uint32(unix.FRA_FWMASK, r.Mask)
		}
		if r.Table != 0 {
			ae.Uint32(unix.FRA_TABLE, uint32(r.Table))
		}
		ae.Uint8(unix.FRA_PROTOCOL, uint8(r.Protocol))
		// What is not decoded was read from a kernel and goes back to one as it is.
		_ = decode(rest, 0, func(ad *netlink.AttributeDecoder) { ae.Bytes(ad.Type(), ad.Bytes()) })
	})
	return err
}
