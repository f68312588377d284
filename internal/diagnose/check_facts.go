package diagnose

import (
	"net/netip"

	"drawbridge/internal/host"
	"drawbridge/internal/ruleset"
	"drawbridge/internal/spec"
)

// Facts is what doctor knows about a host: one moment, read by others. What could
// not be read is missing, and nothing is concluded from that.
type Facts struct {
	Document spec.Document
	// State has all links, addresses and routes, foreign ones included.
	State host.State
	// Rules are all firewall rules of all programs; nil if they could not be read.
	Rules *ruleset.Ruleset
	// Machine is what rules can ask about the host.
	Machine *Host
	// Sysctls by path, as host.Sysctl has it; a missing one is not there.
	Sysctls map[string]string
	Ports   []Port
	Leases  []Lease
	// Neighbours are who was seen on links of the host.
	Neighbours []Neighbour
	// Learned are the hardware addresses seen behind each port.
	Learned map[string][]string
	// Held are networks that cannot run, and why; Drift is what is not as wanted.
	Held  map[spec.NetworkName]string
	Drift []Drift
	// Changes are those that are not finished.
	Changes []Change
	// Quarrel says who keeps undoing what; "" in peace.
	Quarrel string
	// Services is what keeps guest services from working, and Silent that their
	// process does not answer.
	Services []Blocked
	Silent   string
	// Conntrack is the connection table: entries, and how many there may be; 0
	// if not known.
	Conntrack, ConntrackMax int
	// NameServers are those of /etc/resolv.conf; nil if it could not be read.
	NameServers []netip.Addr
	// Libvirt are libvirt's networks, as its files say.
	Libvirt []LibvirtNetwork
	// Grabbers are the host's network managers that would take a bridge or tap.
	Grabbers []Grabber
	// Lacks are those of Features that the kernel does not have.
	Lacks []string
	// OpenTables: the kernel cannot keep other programs out of our nftables tables.
	OpenTables bool
	// Foreign are other programs on the host that are known to change rules.
	Foreign []string
	// FirewalldZone: firewalld runs and has our zone.
	FirewalldZone bool
	// Offline: no daemon runs, so nothing is repaired.
	Offline bool
	// Observe: the daemon was told to leave other programs' rules alone.
	Observe bool
	// Recorded is when the newest entry of the record was written, by the wall clock
	// of then in seconds since 1970; 0 if there is none.
	Recorded int64
	// Now is the wall clock in seconds since 1970.
	Now int64

	// What is worked out once.
	found  *obstacles
	sorted []host.Key
	places []host.Resource
}

// keys are those of the state, in order.
func (f *Facts) keys() []host.Key {
	if len(f.sorted) != len(f.State) {
		f.sorted = f.State.Keys()
	}
	return f.sorted
}

// Port is a guest's NIC.
type Port struct {
	Network     spec.NetworkName
	Bridge, Tap string
	// Guest is "" or the tap's name where nobody told.
	Guest, MAC string
	Addresses  []string
	// Ours: made by drawbridge; else somebody plugged it in.
	Ours bool
	// Tagged: it is in VLANs of its own.
	Tagged bool
	// PID holds the tap open; 0 for nobody.
	PID int
	// Since, in seconds since 1970; 0 if not known.
	Since int64
}

// Lease is an address given by DHCP; Expires in seconds since 1970, 0 never.
type Lease struct {
	Network spec.NetworkName
	MAC     string
	Addr    netip.Addr
	Expires int64
	// Hostname is what the client calls itself.
	Hostname string
}

// Neighbour is somebody seen on a link.
type Neighbour struct {
	Link, MAC string
	Addr      netip.Addr
}

// Drift is one thing that is not as wanted.
type Drift struct {
	Key  host.Key
	What string
}

// Change is one that is not finished.
type Change struct {
	ID, Title, Phase, Problem string
}

// Blocked is a guest service that cannot work.
type Blocked struct {
	Bridge string
	// Service is dhcp, dns or ra.
	Service, Why string
	// Holder is the program that has the port, "" if that is not known.
	Holder string
}

// LibvirtNetwork is a network that libvirt defines.
type LibvirtNetwork struct {
	Name, Bridge string
	Subnets      []netip.Prefix
	// Mode is nat, route, open, isolated, bridge …
	Mode   string
	Active bool
	// Autostart networks come with the next boot.
	Autostart bool
}

// Grabber is a network manager that would take links.
type Grabber struct {
	Manager string
	// Links are bridges and names of taps, with * as in a shell.
	Links    []string
	Why, Fix string
}
