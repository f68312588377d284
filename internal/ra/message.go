package ra

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/mdlayher/ndp"

	"drawbridge/internal/host"
)

// Lifetimes. A guest hears an advertisement every minInterval to maxInterval
// (see serve.go), so each of these bridges several lost ones.
const (
	// routerLifetime is 3 × maxInterval, the default of RFC 4861, section 6.2.1.
	routerLifetime = 3 * maxInterval
	// dnsLifetime is the same (RFC 8106, section 5.1).
	dnsLifetime = 3 * maxInterval
	// The prefix lifetimes are the defaults of RFC 4861: 30 and 7 days.
	validLifetime     = 30 * 24 * time.Hour
	preferredLifetime = 7 * 24 * time.Hour
	// endLifetime is what is left to addresses of a prefix that goes. Less than
	// two hours would be ignored (RFC 4862, section 5.5.3 e).
	endLifetime = 2 * time.Hour
)

// advertisement says what a router is.
func advertisement(r host.Router) *ndp.RouterAdvertisement {
	m := &ndp.RouterAdvertisement{CurrentHopLimit: 64}
	if r.Default {
		m.RouterLifetime = routerLifetime
	}
	m.Options = append(m.Options, prefix(r, validLifetime, preferredLifetime))
	if r.MTU > 0 {
		m.Options = append(m.Options, ndp.NewMTU(uint32(r.MTU)))
	}
	if r.DNS.Is6() {
		m.Options = append(m.Options, &ndp.RecursiveDNSServer{Lifetime: dnsLifetime, Servers: []netip.Addr{r.DNS}})
	}
	if domain := strings.Trim(r.Domain, "."); domain != "" {
		m.Options = append(m.Options, &ndp.DNSSearchList{Lifetime: dnsLifetime, DomainNames: []string{domain}})
	}
	return m
}

// farewell takes back what the advertisement of was said: as router, as DNS
// server, and the prefix, whose addresses guests then stop using for new
// connections. Of what now says as well, nothing is taken back; now may be nil.
func farewell(was host.Router, now *host.Router) *ndp.RouterAdvertisement {
	m := &ndp.RouterAdvertisement{CurrentHopLimit: 64}
	if now != nil && now.Default {
		m.RouterLifetime = routerLifetime
	}
	if now == nil || now.Server.Masked() != was.Server.Masked() {
		m.Options = append(m.Options, prefix(was, endLifetime, 0))
	}
	if was.DNS.Is6() && (now == nil || now.DNS != was.DNS) {
		m.Options = append(m.Options, &ndp.RecursiveDNSServer{Servers: []netip.Addr{was.DNS}})
	}
	if domain := strings.Trim(was.Domain, "."); domain != "" && (now == nil || now.Domain != was.Domain) {
		m.Options = append(m.Options, &ndp.DNSSearchList{DomainNames: []string{domain}})
	}
	return m
}

// prefix is the option by which guests configure addresses themselves; only a
// prefix of 64 bits is good for that (RFC 4862, section 5.5.3 d, RFC 2464).
func prefix(r host.Router, valid, preferred time.Duration) ndp.Option {
	return &ndp.PrefixInformation{
		PrefixLength: uint8(r.Server.Bits()), OnLink: true, AutonomousAddressConfiguration: r.Server.Bits() == 64,
		ValidLifetime: valid, PreferredLifetime: preferred, Prefix: r.Server.Masked().Addr(),
	}
}

func marshal(m *ndp.RouterAdvertisement) ([]byte, error) {
	for _, o := range m.Options {
		if p, ok := o.(*ndp.PrefixInformation); ok && (!p.Prefix.Is6() || p.Prefix.Is4In6() || p.PrefixLength > 128) {
			return nil, fmt.Errorf("write router advertisement: %s/%d is no IPv6 prefix", p.Prefix, p.PrefixLength)
		}
		if d, ok := o.(*ndp.DNSSearchList); ok && !validDomain(d.DomainNames[0]) {
			return nil, fmt.Errorf("write router advertisement: %q is no domain name", d.DomainNames[0])
		}
	}
	b, err := ndp.MarshalMessage(m)
	if err != nil {
		return nil, fmt.Errorf("write router advertisement: %w", err)
	}
	return b, nil
}

// validDomain says whether every label has 1 to 63 bytes and all together fit
// (RFC 1035, section 3.1); the codec does not look.
func validDomain(domain string) bool {
	for label := range strings.SplitSeq(domain, ".") {
		if len(label) < 1 || len(label) > 63 {
			return false
		}
	}
	return len(domain) <= 253
}

// checkSolicitation says whether a message is a valid router solicitation (RFC
// 4861, section 6.1.1). The kernel has checked the ICMPv6 checksum.
func checkSolicitation(p Packet) error {
	if p.HopLimit != 255 {
		return fmt.Errorf("read router solicitation: hop limit %d, it came from another link", p.HopLimit)
	}
	if len(p.Data) < 8 || p.Data[1] != 0 {
		return fmt.Errorf("read router solicitation: too short, or its code is not 0")
	}
	m, err := ndp.ParseMessage(p.Data)
	if err != nil {
		return fmt.Errorf("read router solicitation: %w", err)
	}
	rs, ok := m.(*ndp.RouterSolicitation)
	if !ok {
		return fmt.Errorf("read router solicitation: it is a %s", m.Type())
	}
	for _, o := range rs.Options {
		if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == ndp.Source && p.From.IsUnspecified() {
			return fmt.Errorf("read router solicitation: a link-layer address without an address")
		}
	}
	return nil
}
