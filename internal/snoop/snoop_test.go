package snoop

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// frame reads hexadecimal with blanks and line ends.
func frame(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	guestMAC = "52:54:00:00:00:67"
	fromTo   = "ffffffffffff 525400000067 "
	arpHead  = fromTo + "0806 0001 0800 06 04 "
	// IPv4 and UDP from port 68 to 67, then BOOTREQUEST, Ethernet.
	dhcpHead = fromTo + "0800 45 00 0120 0000 0000 40 11 0000 00000000 ffffffff 0044 0043 010c 0000 01 01 06 00 11223344 0000 0000 "
	ndHead   = "333300000001 525400000067 86dd 60000000 0020 3a ff "
	six      = "20010db8009900000000000000000067 "
	lan6     = "20010db8009900000000000000000010 "
)

// dhcp is a request with a ciaddr and options.
func dhcp(ciaddr, mac, options string) string {
	return dhcpHead + ciaddr + " 00000000 00000000 00000000 " + mac + strings.Repeat("00", 10) + strings.Repeat("00", 192) + "63825363 " + options
}

var frames = map[string]struct{ frame, want string }{
	"question":                     {arpHead + "0001 525400000067 c0a86343 000000000000 c0a86301", "192.168.99.67"},
	"answer":                       {arpHead + "0002 525400000067 c0a86343 020000000001 c0a86301", "192.168.99.67"},
	"announcement":                 {arpHead + "0001 525400000067 c0a86343 000000000000 c0a86343", "192.168.99.67"},
	"probe (RFC 5227)":             {arpHead + "0001 525400000067 00000000 000000000000 c0a86343", ""},
	"for somebody else":            {arpHead + "0002 525400000099 c0a86343 020000000001 c0a86301", ""},
	"a group's address":            {arpHead + "0001 525400000067 e0000001 000000000000 c0a86343", ""},
	"broadcast":                    {arpHead + "0001 525400000067 ffffffff 000000000000 c0a86343", ""},
	"loopback":                     {arpHead + "0001 525400000067 7f000001 000000000000 c0a86343", ""},
	"sent from a group":            {"ffffffffffff 015400000067 0806 0001 0800 06 04 0001 015400000067 c0a86343 000000000000 c0a86301", ""},
	"ARP cut short":                {arpHead + "0001 525400000067 c0a86343 000000000000 c0a863", ""},
	"ARP of another kind":          {fromTo + "0806 0006 0800 06 04 0001 525400000067 c0a86343 000000000000 c0a86301", ""},
	"solicitation":                 {ndHead + six + lan6 + "87 00 0000 00000000 " + lan6 + "0101 525400000067", "2001:db8:99::67"},
	"solicitation, only probing":   {ndHead + strings.Repeat("00", 16) + lan6 + "87 00 0000 00000000 " + six, ""},
	"advertisement":                {ndHead + six + lan6 + "88 00 0000 60000000 " + six + "0201 525400000067", "2001:db8:99::67"},
	"link-local":                   {ndHead + "fe800000000000000000000000000067 " + lan6 + "87 00 0000 00000000 " + lan6, ""},
	"ND that was routed":           {strings.Replace(ndHead, "3a ff", "3a 40", 1) + six + lan6 + "88 00 0000 60000000 " + six, ""},
	"ND cut short":                 {ndHead + six + lan6 + "88 00 0000 60000000 20010db8", ""},
	"router advertisement":         {ndHead + six + lan6 + "86 00 0000 60000000 " + six, ""},
	"DHCP discover":                {dhcp("00000000", "525400000067", "350101 3204c0a86343 ff"), ""},
	"DHCP request":                 {dhcp("00000000", "525400000067", "350103 3204c0a86343 ff"), "192.168.99.67"},
	"DHCP request, option first":   {dhcp("00000000", "525400000067", "00 3204c0a86343 0c03616263 350103 ff"), "192.168.99.67"},
	"DHCP renewal":                 {dhcp("c0a86344", "525400000067", "350103 ff"), "192.168.99.68"},
	"DHCP release":                 {dhcp("c0a86344", "525400000067", "350107 ff"), "192.168.99.68 gone"},
	"DHCP decline":                 {dhcp("00000000", "525400000067", "350104 3204c0a86343 ff"), "192.168.99.67 gone"},
	"DHCP for somebody else":       {dhcp("00000000", "525400000099", "350103 3204c0a86343 ff"), ""},
	"DHCP, option beyond the end":  {dhcp("00000000", "525400000067", "350103 32ffc0a86343"), ""},
	"DHCP, option without length":  {dhcp("00000000", "525400000067", "350103 32"), ""},
	"IPv4 with a head too long":    {fromTo + "0800 4f 00 0120 0000 0000 40 11 0000 00000000 ffffffff 0044 0043", ""},
	"IPv4 with a head too short":   {fromTo + "0800 41 00 0120 0000 0000 40 11 0000 00000000 ffffffff 0044 0043", ""},
	"IPv4 of another kind":         {fromTo + "0800 45 00 0120 0000 0000 40 06 0000 00000000 ffffffff 0044 0043", ""},
	"not the first fragment":       {strings.Replace(dhcp("c0a86344", "525400000067", "350103 ff"), "0000 0000 40 11", "0000 0001 40 11", 1), ""},
	"nothing":                      {"", ""},
	"Ethernet alone":               {fromTo + "0806", ""},
	"another protocol":             {fromTo + "88cc 00", ""},
	"an address of IPv4 in IPv6":   {ndHead + six + lan6 + "88 00 0000 60000000 00000000000000000000ffffc0a86343", ""},
	"the unspecified in an answer": {ndHead + six + lan6 + "88 00 0000 60000000 " + strings.Repeat("00", 16), ""},
}

func TestParse(t *testing.T) {
	for name, c := range frames {
		got := ""
		if s, ok := parse(frame(t, c.frame)); ok {
			got = s.addr.String()
			if s.gone {
				got += " gone"
			}
			if text(s.mac) != guestMAC {
				t.Errorf("%s: from %s", name, text(s.mac))
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range frames {
		f.Add(frame(f, c.frame))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := parse(b)
		if ok && (!usable(s.addr) || s.mac[0]&1 != 0 || text(s.mac) != text([6]byte(b[6:12]))) {
			t.Errorf("%x: %+v", b, s)
		}
	})
}

// arp is an announcement of 10.x.y.z, made of a number.
func arp(t testing.TB, n int) []byte {
	return frame(t, fmt.Sprintf("%s0001 525400000067 %08x 000000000000 c0a86301", arpHead, 10<<24|n))
}

// table is a server with a clock, and what it told.
type table struct {
	*Server
	at   time.Time
	told []string
}

func newTable() *table {
	x := &table{at: time.Unix(1e9, 0)}
	x.Server = New(Config{Now: func() time.Time { return x.at }, Changed: func(s host.Snoop, a netip.Addr, in bool) {
		x.told = append(x.told, fmt.Sprintf("%s %s %t", s.Tap, a, in))
	}})
	return x
}

func (x *table) apply(t *testing.T, r host.Snoop) {
	t.Helper()
	if err := x.Apply(plan.Step{After: r}); err != nil {
		t.Fatal(err)
	}
}

func (x *table) addrs() []string {
	var list []string
	for _, h := range x.Heard() {
		list = append(list, h.Tap+" "+h.MAC+" "+h.Addr.String())
	}
	return list
}

var vnet0 = host.Snoop{Bridge: "br0", Tap: "vnet0", MAC: guestMAC}

func TestTableIsBounded(t *testing.T) {
	x := newTable()
	x.apply(t, vnet0)
	x.hear("vnet0", arp(t, 1))
	for n := range 1000 {
		x.at = x.at.Add(time.Second)
		x.hear("vnet0", arp(t, 1)) // the real one goes on talking
		x.hear("vnet0", arp(t, 1000+n))
		x.hear("another", arp(t, n))
	}
	got := x.addrs()
	if len(got) != mostHeard || !slices.Contains(got, "vnet0 "+guestMAC+" 10.0.0.1") {
		t.Errorf("%d are kept: %q", len(got), got)
	}
	in := 0
	for _, line := range x.told {
		if strings.HasSuffix(line, "true") {
			in++
		} else {
			in--
		}
	}
	if in != mostHeard {
		t.Errorf("%d were told and not taken back", in)
	}
}

func TestSilentAddressesAreForgotten(t *testing.T) {
	x := newTable()
	x.apply(t, vnet0)
	x.hear("vnet0", arp(t, 1))
	x.at = x.at.Add(silence / 2)
	x.hear("vnet0", arp(t, 2))
	x.at = x.at.Add(silence/2 + time.Second)
	if got := x.addrs(); len(got) != 1 || !strings.HasSuffix(got[0], " 10.0.0.2") {
		t.Errorf("after an hour: %q", got)
	}
	x.hear("vnet0", frame(t, frames["DHCP renewal"].frame))
	x.hear("vnet0", frame(t, frames["DHCP release"].frame))
	if err := x.Apply(plan.Step{Before: vnet0}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"vnet0 10.0.0.1 true", "vnet0 10.0.0.2 true", "vnet0 10.0.0.1 false", "vnet0 192.168.99.68 true", "vnet0 192.168.99.68 false", "vnet0 10.0.0.2 false",
	}
	if !reflect.DeepEqual(x.told, want) || len(x.addrs()) != 0 || len(x.Observe()) != 0 {
		t.Errorf("told %q, has %q and %v", x.told, x.addrs(), x.Observe())
	}
}

// TestOnlyItsOwnAddressIsTold: another hardware address behind a port is shown, and
// gets no name.
func TestOnlyItsOwnAddressIsTold(t *testing.T) {
	x := newTable()
	unknown := vnet0
	unknown.MAC = ""
	x.apply(t, unknown)
	x.hear("vnet0", arp(t, 1))
	other := arp(t, 2)
	other[11], other[27] = 0x99, 0x99
	x.hear("vnet0", other)
	if len(x.told) != 0 || len(x.addrs()) != 2 {
		t.Errorf("told %q of %q", x.told, x.addrs())
	}
	x.apply(t, vnet0) // now it is known
	if !reflect.DeepEqual(x.told, []string{"vnet0 10.0.0.1 true"}) {
		t.Errorf("told %q", x.told)
	}
	if got := x.Observe(); !reflect.DeepEqual(got, []host.Resource{vnet0}) {
		t.Errorf("observed %v", got)
	}
}

func TestPaceOfAFlood(t *testing.T) {
	at := time.Unix(1e9, 0)
	p := pacer{now: func() time.Time { return at }}
	var waited time.Duration
	const frames = 1000
	for range frames {
		w := p.spend()
		waited += w
		at = at.Add(w)
	}
	if least := time.Duration(frames-2*burst) * time.Second / rate; waited < least {
		t.Errorf("%d frames are read within %s", frames, waited)
	}
}
