package host

// The link types that we make, as the kernel names them (IFLA_INFO_KIND); a
// link of any other type keeps the kernel's word, a plain NIC has "".
const (
	TypeBridge = "bridge"
	TypeTap    = "tun"
	TypeVeth   = "veth"
	// TypeMacvtap is a link through which a program has an address of its own on the
	// link below it.
	TypeMacvtap = "macvtap"
	// TypeVLAN is a link that stands for one VLAN of the link below it.
	TypeVLAN = "vlan"
)

// Link is a network interface. Every field is managed: a wanted link says all
// of them, an observed one shows all of them.
type Link struct {
	Name string
	Type string
	// MAC in lower case with colons; "" for links that have none.
	MAC string
	// MTU in bytes.
	MTU int
	// Up is the administrative state (IFF_UP), not the carrier.
	Up bool
	// Master is the bridge that the link is a port of, or "".
	Master string
	// STP and ForwardDelay (hundredths of a second) are a bridge's, else zero.
	STP          bool
	ForwardDelay uint32
	// Isolated and Hairpin are a bridge port's flags, else false
	// (IFLA_BRPORT_ISOLATED, IFLA_BRPORT_MODE).
	Isolated bool
	Hairpin  bool
	// Filter: a bridge tells VLANs apart (IFLA_BR_VLAN_FILTERING), else false.
	Filter bool `json:",omitempty"`
	// VLANs are those that a bridge's port, or the bridge itself, is in, as
	// VLANSet.Text writes them; "" is what every new port gets. They count while
	// the bridge filters, and are there while it does not.
	VLANs string `json:",omitempty"`
	// Alias is the text that `ip link` shows as alias; it names the network.
	Alias string
	// Lower is the link of this namespace that this one stands on (IFLA_LINK): the
	// NIC under a VLAN or macvlan. It is seen, and never changed.
	Lower string `json:",omitempty"`
	// VID is the VLAN of a link of type vlan, else 0. It is seen, and never changed.
	VID int `json:",omitempty"`
}

// Key is the interface's name.
func (l Link) Key() Key { return LinkKey(l.Name) }

// On is the link that a guest's port stands on: the bridge that it is plugged into, or
// the NIC that it shares; "" for what stands on its own.
func (l Link) On() string {
	if l.Type == TypeMacvtap {
		return l.Lower
	}
	return l.Master
}

// Needs is the bridge that the link is plugged into.
func (l Link) Needs() []Key {
	if l.Master == "" {
		return nil
	}
	return []Key{LinkKey(l.Master)}
}
func (Link) resource() {}

// LinkKey is the key of the interface of that name.
func LinkKey(name string) Key { return Key{KindLink, name} }

// Sysctl is one kernel parameter. Path has slashes, so that interface names
// with dots are no trouble: net/ipv4/ip_forward.
type Sysctl struct {
	Path  string
	Value string
	// Link is the interface that the parameter belongs to, or "".
	Link string
}

// Key is the path.
func (s Sysctl) Key() Key { return SysctlKey(s.Path) }

// Needs is the link that the parameter belongs to.
func (s Sysctl) Needs() []Key {
	if s.Link == "" {
		return nil
	}
	return []Key{LinkKey(s.Link)}
}
func (Sysctl) resource() {}

// SysctlKey is the key of the parameter at that path.
func SysctlKey(path string) Key { return Key{KindSysctl, path} }

// LinkSysctl is a parameter of one interface, e.g. ("ipv6", "virbr0",
// "accept_ra", "0") for net/ipv6/conf/virbr0/accept_ra.
func LinkSysctl(family, link, name, value string) Sysctl {
	return Sysctl{Path: "net/" + family + "/conf/" + link + "/" + name, Value: value, Link: link}
}
