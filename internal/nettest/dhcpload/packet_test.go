package dhcpload

import (
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// The codec of another hand reads what we write.
func TestFramesAreDHCP(t *testing.T) {
	f := request(7, 0x01020304, netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("10.0.0.1"))
	m, err := dhcpv4.FromBytes(f[dhcpOff:])
	if err != nil {
		t.Fatal(err)
	}
	if m.MessageType() != dhcpv4.MessageTypeRequest || m.RequestedIPAddress().String() != "10.0.0.9" ||
		m.ServerIdentifier().String() != "10.0.0.1" || m.ClientHWAddr.String() != "02:db:00:00:00:07" {
		t.Errorf("%s", m.Summary())
	}
}

func FuzzParseReply(f *testing.F) {
	b := discover(1, 1)
	b[dhcpOff] = 2
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := parseReply(b); ok && !r.addr.Is4() {
			t.Fatalf("%+v", r)
		}
	})
}
