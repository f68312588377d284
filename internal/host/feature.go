package host

// Feature is something that kernels are built with or without: it is there or it
// is not. It is seen when asked for, and never changed.
type Feature struct{ Name string }

// The features that networks rest on, each with what the kernel calls it.
const (
	// BridgeVLANs is that bridges can tell VLANs apart (CONFIG_BRIDGE_VLAN_FILTERING, and
	// RTM_GETVLAN, since Linux 5.6).
	BridgeVLANs = "bridge-vlan-filtering"
	// Taps is that programs can have the other end of a link (CONFIG_TUN).
	Taps = "taps"
	// Macvtaps is that a NIC can be shared without a bridge (CONFIG_MACVTAP).
	Macvtaps = "macvtaps"
	// ConnectionLists is that connections can be listed and cut (CONFIG_NF_CT_NETLINK).
	ConnectionLists = "connection-lists"
	// ConnectionEvents is that the end of a connection is told (CONFIG_NF_CONNTRACK_EVENTS).
	ConnectionEvents = "connection-events"
)

// Key is the name.
func (f Feature) Key() Key { return FeatureKey(f.Name) }

// Needs nothing.
func (Feature) Needs() []Key { return nil }
func (Feature) resource()    {}

// FeatureKey is the key of something that kernels may lack.
func FeatureKey(name string) Key { return Key{KindFeature, name} }
