package host

// NIC is what there is to know of a network card beyond its Link: whether and
// with what consequences it can be a port of a bridge. It is seen when asked
// for, and never changed.
type NIC struct {
	Link string
	// Carrier: a cable is plugged in and the other end is up.
	Carrier bool
	// Wireless cards (IEEE 802.11 stations) send frames of one address only.
	Wireless bool
	// Root says in words how the root filesystem comes over this card ("NFS from
	// 192.168.99.5"); "" if it does not.
	Root string
	// Cloud is the provider whose network drops frames of addresses that it did
	// not give out; "" if none is known.
	Cloud string
}

// Key is the link.
func (n NIC) Key() Key { return NICKey(n.Link) }

// Needs is the link.
func (n NIC) Needs() []Key { return []Key{LinkKey(n.Link)} }
func (NIC) resource()      {}

// NICKey is the key of what there is to know of a network card.
func NICKey(link string) Key { return Key{KindNIC, link} }
