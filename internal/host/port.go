package host

// Port is a guest's NIC on a network, as the run directory remembers it: what
// the kernel cannot tell. It is gone with the next boot, as the tap is.
type Port struct {
	Tap string `json:"tap"`
	// Bridge that the tap is plugged into, or the NIC that it shares.
	Bridge  string `json:"bridge"`
	Network string `json:"network"`
	// Guest is the guest's name, "" if nobody told us.
	Guest string `json:"guest,omitempty"`
	// MAC of the guest's NIC, "" until known.
	MAC string `json:"mac,omitempty"`
	// MTU of the tap in bytes.
	MTU int `json:"mtu"`
	// Made is who made the port: qemu, attach or bridge-helper.
	Made string `json:"made"`
	// Owner is the user id that the port belongs to.
	Owner int `json:"owner"`
	// PID is the process that asked for the port, 0 if that is not known. The one
	// that "drawbridge qemu" was becomes QEMU itself.
	PID int `json:"pid,omitempty"`
	// Persistent taps outlive the process that opened them.
	Persistent bool `json:"persistent"`
	// Open: the network is not ours; the guest may be a server on it, and gets its
	// address and name from others.
	Open bool `json:"open,omitempty"`
	// NIC is the host's card that the guest shares by macvtap, "" for a tap on a
	// bridge.
	NIC string `json:"nic,omitempty"`
	// VLAN and Trunk are the VLANs that were asked for this port, as spec.Tags has
	// them; 0 and "" are the network's.
	VLAN  int    `json:"vlan,omitempty"`
	Trunk string `json:"trunk,omitempty"`
	// Since is when the port was made, in seconds since 1970.
	Since int64 `json:"since"`
}
