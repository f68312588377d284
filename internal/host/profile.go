package host

// The stages of a Profile.
const (
	// Reserved profiles stand while nothing moves. Made before the bridge, one tells
	// the manager to keep its hands off it, and puts down what the manager does with
	// the uplink while that can be seen. Deleted before the uplink leaves, it makes
	// the manager let go of both. They live under /run.
	Reserved = "reserved"
	// Runtime profiles live under /run: they end with the boot, so that a power
	// cut before the confirmation of a change takes them back.
	Runtime = "runtime"
	// Permanent profiles are in the manager's own files, and hold over reboots.
	Permanent = "permanent"
)

// Profile is what the host's own network manager (ifupdown, systemd-networkd,
// netplan, NetworkManager; "none" where there is none, then a boot unit of ours)
// is told about a bridge that uplinks were moved into: what it used to do with
// the first uplink, it does with the bridge. How its files say that, and what
// they said before, is known to package hostconf alone.
type Profile struct {
	// Stage is Reserved, Runtime or Permanent.
	Stage string
	// Manager is the program's name: ifupdown, ifupdown2, networkd, netplan,
	// netplan-networkmanager, networkmanager or none.
	Manager string
	Bridge  string
	// Uplinks are the names of the ports, in order, separated by blanks. The
	// first is the one whose configuration moves to the bridge.
	Uplinks string
	// MAC and MTU are the bridge's: those of the first uplink.
	MAC string
	MTU int
	STP bool
}

// Key is the stage and the bridge.
func (p Profile) Key() Key { return ProfileKey(p.Stage, p.Bridge) }

// Needs nothing that a step makes; the stages say the order. A reserved profile is
// the first to be made and the first to be deleted, before links, addresses and
// routes move. The others are the last to be made (a permanent one after the commit
// point) and the last to be deleted, when addresses and routes are on the uplink.
func (p Profile) Needs() []Key { return nil }

func (Profile) resource() {}

// ProfileKey is the key of the profile of a bridge.
func ProfileKey(stage, bridge string) Key { return Key{KindProfile, stage + " " + bridge} }

// Unmanaged says that links of some names are none of the business of the host's
// own network managers, whichever run and will run: guests' ports, and bridges that
// only guests are in. A manager that does not know may give such a link addresses, take
// it down or pull it off its bridge when it is started anew. It ends with the boot.
type Unmanaged struct {
	// Links is a link's name, or a pattern with * as in a shell.
	Links string
}

// Key is the pattern.
func (u Unmanaged) Key() Key { return Key{KindUnmanaged, u.Links} }

// Needs nothing: it comes before the links.
func (Unmanaged) Needs() []Key { return nil }

func (Unmanaged) resource() {}
