package dhcp

import (
	"encoding/binary"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// request is a client's message, checked as far as that goes without knowing
// the pool.
type request struct {
	// came is when it was received.
	came time.Time
	msg  *dhcpv4.DHCPv4
	kind dhcpv4.MessageType
	who  client
	// ciaddr and giaddr are from the header, requested and serverID are options
	// 50 and 54; 0 stands for none, as it does on the wire.
	ciaddr, giaddr, requested, serverID uint32
	// hostname is made a label already.
	hostname  string
	broadcast bool
	// leaseSeconds is option 51, 0 for none.
	leaseSeconds uint32
	rapid        bool
}

// dropError is why a message gets no answer; the reason is one word, a counter
// is kept for each.
type dropError struct{ reason string }

func (e dropError) Error() string { return "drop message: " + e.reason }

// The reasons to drop a message.
const (
	dropMalformed  = "malformed"   // not a DHCP message, or an option has a wrong length
	dropNotRequest = "not-request" // sent by a server
	dropBOOTP      = "bootp"       // no message type: BOOTP, which has no leases
	dropHardware   = "hardware"    // no Ethernet address, or one of a group
	dropRelay      = "relay"       // a relay agent that is not in our subnet
	dropNoPool     = "no-pool"     // nothing is served on the bridge
	dropOther      = "other"       // meant for another server
	dropState      = "state"       // fields that the client's state does not allow
	dropFull       = "full"        // no address is left
	dropBusy       = "busy"        // too much is under way for this client already
	dropPanic      = "panic"       // a fault in this program
)

// parse reads a client's message (RFC 2131, table 5). It never panics and keeps
// nothing of b.
func parse(b []byte) (*request, error) {
	msg, err := dhcpv4.FromBytes(b)
	if err != nil {
		return nil, dropError{dropMalformed}
	}
	if msg.OpCode != dhcpv4.OpcodeBootRequest {
		return nil, dropError{dropNotRequest}
	}
	if err := readOverload(msg, b); err != nil {
		return nil, err
	}
	r := &request{
		msg: msg, ciaddr: ip4(msg.ClientIPAddr), giaddr: ip4(msg.GatewayIPAddr), broadcast: msg.IsBroadcast(),
		rapid: msg.Options.Has(dhcpv4.GenericOptionCode(80)),
	}
	// htype 1, 6 bytes; the bit that says group is the lowest of the first byte.
	if msg.HWType != 1 || len(msg.ClientHWAddr) != 6 || msg.ClientHWAddr[0]&1 != 0 {
		return nil, dropError{dropHardware}
	}
	copy(r.who.mac[:], msg.ClientHWAddr)
	if r.who.mac == [6]byte{} {
		return nil, dropError{dropHardware}
	}
	return r, r.readOptions()
}

func (r *request) readOptions() error {
	o := r.msg.Options
	kind := o.Get(dhcpv4.OptionDHCPMessageType)
	switch len(kind) {
	case 0:
		return dropError{dropBOOTP}
	case 1:
		r.kind = dhcpv4.MessageType(kind[0])
	default:
		return dropError{dropMalformed}
	}
	for _, f := range []struct {
		code dhcpv4.OptionCode
		to   *uint32
	}{
		{dhcpv4.OptionRequestedIPAddress, &r.requested},
		{dhcpv4.OptionServerIdentifier, &r.serverID},
		{dhcpv4.OptionIPAddressLeaseTime, &r.leaseSeconds},
	} {
		switch v := o.Get(f.code); {
		case len(v) == 4:
			*f.to = binary.BigEndian.Uint32(v)
		case o.Has(f.code):
			return dropError{dropMalformed}
		}
	}
	// RFC 2132, section 9.14: at least two bytes. More than 255 would take
	// several options (RFC 3396), which nobody sends.
	if id := o.Get(dhcpv4.OptionClientIdentifier); len(id) >= 2 && len(id) <= 255 {
		r.who.id = string(id)
	} else if len(id) > 255 {
		return dropError{dropMalformed}
	}
	if len(o.Get(dhcpv4.OptionRelayAgentInformation)) > 255 {
		return dropError{dropMalformed}
	}
	r.hostname = Hostname(string(o.Get(dhcpv4.OptionHostName)))
	if r.hostname == "" {
		r.hostname = Hostname(fqdn(o.Get(dhcpv4.OptionFQDN)))
	}
	return nil
}

// fqdn is the first label of option 81 (RFC 4702): flags and two more bytes,
// then the name, in DNS wire format if the flag E (4) is set, else plain.
func fqdn(v []byte) string {
	if len(v) < 4 {
		return ""
	}
	name := v[3:]
	if v[0]&4 == 0 {
		return string(name)
	}
	n := int(name[0])
	if n == 0 || n > 63 || n >= len(name) {
		return ""
	}
	return string(name[1 : 1+n])
}

// readOverload adds the options that are in the fields file and sname (option
// 52, RFC 2131, section 4.1): file first, then sname.
func readOverload(msg *dhcpv4.DHCPv4, b []byte) error {
	v := msg.Options.Get(dhcpv4.OptionOptionOverload)
	if len(v) == 0 {
		return nil
	}
	if len(v) != 1 || v[0] < 1 || v[0] > 3 {
		return dropError{dropMalformed}
	}
	if v[0]&1 != 0 && msg.Options.FromBytes(b[108:236]) != nil {
		return dropError{dropMalformed}
	}
	if v[0]&2 != 0 && msg.Options.FromBytes(b[44:108]) != nil {
		return dropError{dropMalformed}
	}
	return nil
}

// wants says whether the client asked for an option (option 55). One that sends
// no list takes what it gets.
func (r *request) wants(code dhcpv4.OptionCode) bool {
	list := r.msg.Options.Get(dhcpv4.OptionParameterRequestList)
	return list == nil || strings.IndexByte(string(list), code.Code()) >= 0
}

func ip4(ip []byte) uint32 {
	if len(ip) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(ip)
}
