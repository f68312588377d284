package hostconf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"drawbridge/internal/host"
)

// The managers, as host.Profile.Manager names them.
const (
	IfUpDown       = "ifupdown"
	IfUpDown2      = "ifupdown2"
	Networkd       = "networkd"
	Netplan        = "netplan"
	NetplanNM      = "netplan-networkmanager" // netplan with NetworkManager as renderer
	NetworkManager = "networkmanager"
	None           = "none"
)

// Method is how a link gets its addresses of one family; several may hold.
type Method struct {
	// Static addresses are written in the configuration.
	Static bool `json:"static,omitempty"`
	// DHCP is a client for that family.
	DHCP bool `json:"dhcp,omitempty"`
	// RA is router advertisements, IPv6 only: by the kernel or by the manager.
	RA bool `json:"ra,omitempty"`
}

// Description is what the host's own network manager does with a link, found by
// looking. It is data: it is stored with a change, and all that is told to the
// manager later comes from it and from the manager's own files.
type Description struct {
	Link string `json:"link"`
	// MAC of the link, in lower case with colons; MTU in bytes, 0 if not configured.
	MAC string `json:"mac"`
	MTU int    `json:"mtu,omitempty"`
	// Manager is one of the names above.
	Manager string `json:"manager"`
	// Evidence says what led to Manager: a file, a unit, what a program answered.
	Evidence []string `json:"evidence"`
	// Files hold the configuration, in the order in which they are read.
	Files []string `json:"files,omitempty"`
	IPv4  Method   `json:"ipv4"`
	IPv6  Method   `json:"ipv6"`
	// What is configured, not what is seen: a DHCP client's addresses are missing.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Gateways  []netip.Addr   `json:"gateways,omitempty"`
	// DNS and Domains are the link's: configured, or told by DHCP where the manager says so.
	DNS     []netip.Addr `json:"dns,omitempty"`
	Domains []string     `json:"domains,omitempty"`
	// ClientID is the DHCPv4 client identifier in use, in hexadecimal (RFC 2132
	// section 9.14; RFC 4361: ff, IAID, DUID); "" if the client sends none or
	// nobody knows. A bridge with the same MAC gets the same lease only with it.
	ClientID string `json:"client_id,omitempty"`
	// IAID and DUID are the DHCPv6 client's (RFC 8415), in hexadecimal, "" if unknown.
	IAID string `json:"iaid,omitempty"`
	DUID string `json:"duid,omitempty"`
	// Client is the DHCP client's command line where it is a program of its own.
	Client []string `json:"client,omitempty"`
	// Connection is NetworkManager's UUID of the connection that the link has.
	Connection string `json:"connection,omitempty"`
	// Lines are what ip(8) has to be told, without the link's name, where nobody manages it.
	Lines []string `json:"lines,omitempty"`
	// RouteMetric is NetworkManager's default for the link's routes.
	RouteMetric int `json:"route_metric,omitempty"`
	// Definition is netplan's name for the link, Generated the text that netplan made
	// of it for the renderer, or of NetworkManager's connection.
	Definition string `json:"definition,omitempty"`
	Generated  string `json:"generated,omitempty"`
	// Bridge is the bridge that the configuration makes the link a port of, "" if none.
	Bridge string `json:"bridge,omitempty"`
	// CloudInit is the file of cloud-init's that rewrites the configuration at boot, "" if none.
	CloudInit string `json:"cloud_init,omitempty"`
	// Cannot names what of the configuration a bridge cannot have or we cannot
	// move, each as a sentence: there the change is refused.
	Cannot []string `json:"cannot,omitempty"`
	// Notes say what will be done in a way that the operator might not expect.
	Notes []string `json:"notes,omitempty"`
}

func (d *Description) cannot(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(d.Cannot, s) {
		d.Cannot = append(d.Cannot, s)
	}
}

func (d *Description) note(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(d.Notes, s) {
		d.Notes = append(d.Notes, s)
	}
}

// hasMethod says whether the link is configured to get addresses at all.
func (d Description) hasMethod() bool {
	return d.IPv4.Static || d.IPv4.DHCP || d.IPv6.Static || d.IPv6.DHCP || d.IPv6.RA
}

// addAddress notes a static address, with or without a prefix length.
func (d *Description) addAddress(text string) {
	text = strings.TrimSpace(text)
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	d.Addresses = appendNew(d.Addresses, p)
	if p.Addr().Is4() {
		d.IPv4.Static = true
	} else {
		d.IPv6.Static = true
	}
}

func (d *Description) addGateway(text string) {
	if a, err := netip.ParseAddr(strings.TrimSpace(text)); err == nil {
		d.Gateways = appendNew(d.Gateways, a)
	}
}

func (d *Description) addDNS(text string) {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' || r == ';' || r == '\t' }) {
		// A name for DNS over TLS may follow (systemd.network(5), DNS=).
		word, _, _ = strings.Cut(word, "#")
		if a, err := netip.ParseAddr(word); err == nil {
			d.DNS = appendNew(d.DNS, a)
		}
	}
}

func (d *Description) addDomains(text string) {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' || r == ';' || r == '\t' }) {
		d.Domains = appendNew(d.Domains, word)
	}
}

func appendNew[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}

// manager is one program that manages links. What it does with files is a pure
// function of them and of the profile; only the methods from release on speak to programs.
type manager interface {
	// name is one of the names above.
	name() string
	// describe fills in what the manager does with d.Link, which it finds by itself;
	// false if it does not have it.
	describe(ctx context.Context, t tree, d *Description) (bool, error)
	// runtime and permanent are the files of that stage, whole, as they will be; a
	// file with a nil content is to go.
	runtime(t tree, p host.Profile, d Description) ([]file, error)
	permanent(t tree, p host.Profile, d Description) ([]file, error)
	// release makes the running manager let go of the uplinks, which it put into the
	// bridge itself; hold takes that back.
	release(ctx context.Context, t tree, p host.Profile, d Description) error
	hold(ctx context.Context, t tree, p host.Profile, d Description) error
	// saved lets the running manager read its permanent files, if it keeps them in
	// mind; it must not do anything with them.
	saved(ctx context.Context, t tree, p host.Profile, d Description) error
	// takeOver makes the running manager do with the bridge what it did with the
	// link. The runtime files are there. Doing it twice is success.
	takeOver(ctx context.Context, t tree, p host.Profile, d Description) error
	// giveBack makes the running manager do with the link what it did before. No
	// file of ours is there any more.
	giveBack(ctx context.Context, t tree, p host.Profile, d Description) error
	// verify waits until the manager's clients have the bridge and have renewed.
	verify(ctx context.Context, t tree, p host.Profile, d Description) error
}

// managers are asked in this order. Who speaks for a link at run time comes first:
// netplan before the program that carries it out, and files that nobody may read
// any more, such as ifupdown's, after the daemons.
func managers() []manager {
	return []manager{netplan{}, networkd{}, netplanNM{}, networkManager{}, ifupdown{}, ifupdown2{}}
}

func managerOf(name string) (manager, error) {
	for _, m := range append(managers(), none{}) {
		if m.name() == name {
			return m, nil
		}
	}
	return nil, fmt.Errorf("no network manager %q is known here", name)
}

// describe looks who has a link and what is done with it.
func describe(ctx context.Context, t tree, link string) (Description, error) {
	if !t.isLink(link) {
		return Description{}, fmt.Errorf("describe %s: there is no such interface", link)
	}
	var claims []Description
	for _, m := range append(managers(), none{}) {
		if m.name() == None && len(claims) > 0 {
			break
		}
		d := Description{Link: link, MAC: t.mac(link), Manager: m.name()}
		has, err := m.describe(ctx, t, &d)
		if err != nil {
			return Description{}, fmt.Errorf("describe %s: %s: %w", link, m.name(), err)
		}
		if has {
			claims = append(claims, d)
		}
	}
	if len(claims) == 0 { // and no systemd either
		return Description{}, fmt.Errorf("describe %s: %w", link, ErrNobody)
	}
	d := claims[0]
	for _, other := range claims[1:] {
		d.note("%s is configured for %s too (%s), but %s has it", other.Manager, link, strings.Join(other.Evidence, "; "), d.Manager)
	}
	if t.exists("/sys/class/net/"+link+"/wireless") || t.exists("/sys/class/net/"+link+"/phy80211") {
		d.cannot("%s is a Wi-Fi station: access points take frames from its own address only, so it cannot be a port of a bridge", link)
	}
	lookForCloudInit(t, &d)
	return d, nil
}

// ErrNobody says that no manager has a link, and that nothing that could be told to
// make a bridge at boot is there either.
var ErrNobody = errors.New("no network manager that is known here has it")

// cloudInitOff is the file by which cloud-init is told to leave the network
// alone (cloud-init's documentation, "Disabling network configuration").
const cloudInitOff = "/etc/cloud/cloud.cfg.d/99-drawbridge-network.cfg"

const cloudInitText = "# Drawbridge: the network of this host was changed since cloud-init wrote it.\nnetwork: {config: disabled}\n"

// lookForCloudInit finds out whether cloud-init rewrites the files at boot: its
// files say so in their first lines, and nothing has told it not to.
func lookForCloudInit(t tree, d *Description) {
	if !t.exists("/etc/cloud/cloud.cfg") || t.exists("/etc/cloud/cloud-init.disabled") {
		return
	}
	for _, f := range append(t.glob("/etc/cloud/cloud.cfg.d/*.cfg"), "/etc/cloud/cloud.cfg") {
		text := strings.ReplaceAll(t.text(f), " ", "")
		if path.Base(f) != path.Base(cloudInitOff) && strings.Contains(text, "network:{config:disabled}") || strings.Contains(text, "network:\nconfig:disabled") {
			return
		}
	}
	for _, f := range append(slices.Clone(d.Files), t.glob("/etc/netplan/50-cloud-init.yaml")...) {
		if strings.Contains(path.Base(f), "cloud-init") || strings.Contains(t.text(f), "cloud-init") {
			d.CloudInit = f
			d.note("cloud-init writes %s at boot: it will be told not to by %s", f, cloudInitOff)
			return
		}
	}
}
