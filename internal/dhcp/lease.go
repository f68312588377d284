package dhcp

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"time"
)

// State is what a lease is. Offers are never stored, so there is no such state.
type State string

// The states of a lease.
const (
	// Bound: the client may use the address until Expires.
	Bound State = "bound"
	// Released: the client gave the address back, or moved to another one. It
	// is remembered so that the client gets the same address again.
	Released State = "released"
	// Declined: somebody else was found to use the address; it is given to
	// nobody until Expires.
	Declined State = "declined"
)

// Lease is the right of one client to one address on one network.
type Lease struct {
	Network string     `json:"network"`
	Addr    netip.Addr `json:"addr"`
	// MAC in lower case with colons; "" for an address that was set aside
	// because of a conflict.
	MAC string `json:"mac,omitempty"`
	// ClientID is option 61 in hex, "" if the client sends none.
	ClientID string `json:"client_id,omitempty"`
	// Hostname is the name that the client gave itself, made a DNS label by
	// Hostname; "" for none. Never the name of a port or reservation.
	Hostname string `json:"hostname,omitempty"`
	// Expires in seconds since 1970. Leases are kept, and listed, after that.
	Expires int64 `json:"expires"`
	State   State `json:"state"`
}

// Live says whether the client may use the address at that time.
func (l Lease) Live(now time.Time) bool { return l.State == Bound && l.Expires > now.Unix() }

// client is who a lease belongs to: the client identifier (option 61, raw) and
// the hardware address together. RFC 2131, section 4.2, would have the
// identifier alone; but cloned guests share their identifier (it is made of
// /etc/machine-id), and then two live guests would get one address. A client
// that changes only its hardware address gets its old one back once the lease
// is over.
type client struct {
	mac [6]byte
	id  string
}

func clientOf(l Lease) (client, bool) {
	c := client{}
	mac, ok := parseMAC(l.MAC)
	if !ok {
		return c, false
	}
	id, err := hex.DecodeString(l.ClientID)
	if err != nil {
		return c, false
	}
	return client{mac, string(id)}, true
}

func formatMAC(m [6]byte) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 17)
	for i, b := range m {
		if i > 0 {
			out = append(out, ':')
		}
		out = append(out, digits[b>>4], digits[b&15])
	}
	return string(out)
}

func parseMAC(s string) ([6]byte, bool) {
	var m [6]byte
	if len(s) != 17 {
		return m, false
	}
	for i := range m {
		if i > 0 && s[3*i-1] != ':' {
			return m, false
		}
		if _, err := hex.Decode(m[i:i+1], []byte(s[3*i:3*i+2])); err != nil {
			return m, false
		}
	}
	return m, true
}

// Hostname makes a DNS label (RFC 1123) of what a client says its name is: the
// part before the first dot, lower case, other characters turned into '-', at
// most 63 bytes. Names that other machines act upon are refused: localhost,
// wpad (proxy discovery) and isatap (tunnel discovery). The result is "" if
// nothing is left.
func Hostname(said string) string {
	said, _, _ = strings.Cut(strings.TrimRight(said, "\x00"), ".")
	label := make([]byte, 0, 63)
	for i := 0; i < len(said) && len(label) < 63; i++ {
		switch c := said[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			label = append(label, c)
		case 'A' <= c && c <= 'Z':
			label = append(label, c+'a'-'A')
		default:
			label = append(label, '-')
		}
	}
	name := strings.Trim(string(label), "-")
	switch name {
	case "localhost", "wpad", "isatap":
		return ""
	}
	return name
}
