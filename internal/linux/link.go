package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// link is a link as the kernel shows it, with the numbers that only the
// conversation with the kernel needs.
type link struct {
	host.Link
	index, master int
	lower         int    // IFLA_LINK
	queue         string // IFLA_QDISC
	carrier       bool   // IFF_LOWER_UP
	operational   bool   // IFLA_OPERSTATE is up
	group         uint32
	tells         bool   // a bridge of a kernel that can tell VLANs apart
	defaultPVID   int    // of a bridge; IFLA_BR_VLAN_DEFAULT_PVID
	hardware      uint16 // ARPHRD_*
	forwards4     bool   // net.ipv4.conf.LINK.forwarding
	portOf        string // the type of the master
	port          portDoes
	counters      Counters
	reading       uint64 // of kept: which it was read by
}

// portDoes is what a port of a bridge does with frames, as far as only why asks.
type portDoes struct {
	state                                uint8 // BR_STATE_*
	noLearning, noFlood, noBroad, locked bool
}

const portLocked = 39 // IFLA_BRPORT_LOCKED in linux/if_link.h

const operUp = 6 // IF_OPER_UP in linux/if.h

// linkHeader is struct ifinfomsg.
func linkHeader(index int, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

func parseLink(m netlink.Message) (link, error) {
	var l link
	if len(m.Data) < unix.SizeofIfInfomsg {
		return l, fmt.Errorf("link message of %d bytes is cut short", len(m.Data))
	}
	l.hardware = binary.NativeEndian.Uint16(m.Data[2:])
	l.index = int(int32(binary.NativeEndian.Uint32(m.Data[4:])))
	l.Up = binary.NativeEndian.Uint32(m.Data[8:])&unix.IFF_UP != 0
	l.carrier = binary.NativeEndian.Uint32(m.Data[8:])&unix.IFF_LOWER_UP != 0
	elsewhere := false
	// Not by decode: there may be thousands, with two hundred attributes each.
	for a := range nftAttrs(m.Data[unix.SizeofIfInfomsg:]) {
		switch a.kind {
		case unix.IFLA_IFNAME:
			l.Name = a.text()
		case unix.IFLA_ADDRESS:
			// Tunnels have an IP address here, which is no MAC.
			if len(a.data) == 6 {
				l.MAC = net.HardwareAddr(a.data).String()
			}
		case unix.IFLA_MTU:
			l.MTU = int(a.native())
		case unix.IFLA_MASTER:
			l.master = int(a.native())
		case unix.IFLA_QDISC:
			l.queue = a.text()
		case unix.IFLA_OPERSTATE:
			l.operational = a.native() == operUp
		case unix.IFLA_LINK:
			l.lower = int(a.native())
		case unix.IFLA_LINK_NETNSID:
			elsewhere = true
		case unix.IFLA_GROUP:
			l.group = a.native()
		case unix.IFLA_IFALIAS:
			l.Alias = a.text()
		case unix.IFLA_STATS64:
			l.counters = parseCounters(a.data)
		case unix.IFLA_LINKINFO:
			l.parseInfo(a.data)
		case unix.IFLA_AF_SPEC:
			l.parseParameters(a.data)
		}
	}
	if elsewhere || l.Type == host.TypeVeth {
		l.lower = 0 // a link of another namespace, or the other end of a cable
	}
	return l, nil
}

// parseInfo reads IFLA_LINKINFO. The kernel puts the kind before the data, which
// has another meaning for each kind.
func (l *link) parseInfo(info []byte) {
	for a := range nftAttrs(info) {
		switch a.kind {
		case unix.IFLA_INFO_KIND:
			l.Type = a.text()
		case unix.IFLA_INFO_DATA:
			l.parseData(a.data)
		case unix.IFLA_INFO_SLAVE_KIND:
			l.portOf = a.text()
		case unix.IFLA_INFO_SLAVE_DATA:
			if l.portOf != host.TypeBridge {
				continue
			}
			for a := range nftAttrs(a.data) {
				switch a.kind {
				case unix.IFLA_BRPORT_MODE:
					l.Hairpin = a.native() != 0
				case unix.IFLA_BRPORT_ISOLATED:
					l.Isolated = a.native() != 0
				case unix.IFLA_BRPORT_STATE:
					l.port.state = uint8(a.native())
				case unix.IFLA_BRPORT_LEARNING:
					l.port.noLearning = a.native() == 0
				case unix.IFLA_BRPORT_UNICAST_FLOOD:
					l.port.noFlood = a.native() == 0
				case unix.IFLA_BRPORT_BCAST_FLOOD:
					l.port.noBroad = a.native() == 0
				case portLocked:
					l.port.locked = a.native() != 0
				}
			}
		}
	}
}

func (l *link) parseData(data []byte) {
	switch l.Type {
	case host.TypeVLAN:
		if id, there := find(data, vlanID); there {
			l.VID = int(id.native())
		}
	case host.TypeBridge:
		for a := range nftAttrs(data) {
			switch a.kind {
			case unix.IFLA_BR_VLAN_FILTERING:
				l.Filter = a.native() != 0
			case unix.IFLA_BR_VLAN_DEFAULT_PVID:
				// Not told by a kernel without VLANs on bridges.
				l.tells, l.defaultPVID = true, int(a.native())
			case unix.IFLA_BR_STP_STATE:
				l.STP = a.native() != 0
			case unix.IFLA_BR_FORWARD_DELAY:
				l.ForwardDelay = a.native()
			}
		}
	}
}

// parseParameters reads from IFLA_AF_SPEC what IPv4 has of parameters of the
// link, of which forwarding is the first (IPV4_DEVCONF_FORWARDING in linux/ip.h).
func (l *link) parseParameters(spec []byte) {
	const inetConf = 1 // IFLA_INET_CONF
	four, _ := find(spec, unix.AF_INET)
	if conf, there := find(four.data, inetConf); there && len(conf.data) >= 4 {
		l.forwards4 = binary.NativeEndian.Uint32(conf.data) != 0
	}
}

// linkBy asks for one link, by index or, if that is 0, by name. A link that is
// not there is an error that errors.Is fs.ErrNotExist.
func (r *rtnl) linkBy(index int, name string) (link, error) {
	if index == 0 && len(name) >= unix.IFNAMSIZ {
		return link{}, fmt.Errorf("link %s: the name is longer than %d characters: %w", name, unix.IFNAMSIZ-1, fs.ErrNotExist)
	}
	msgs, err := r.do(unix.RTM_GETLINK, netlink.Request, linkHeader(index, 0, 0), func(ae *netlink.AttributeEncoder) {
		if index == 0 {
			ae.String(unix.IFLA_IFNAME, name)
		}
	})
	if errors.Is(err, unix.ENODEV) {
		return link{}, fmt.Errorf("link %s: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return link{}, fmt.Errorf("look up link %s: %w", name, err)
	}
	if len(msgs) == 0 {
		return link{}, fmt.Errorf("look up link %s: the kernel gave no answer", name)
	}
	return parseLink(msgs[0])
}

// filterSkipStats is RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h.
const filterSkipStats = 1 << 3

// links dumps all links, without their counters, which are most of each message.
func (r *rtnl) links() ([]link, error) {
	msgs, err := r.dump(unix.RTM_GETLINK, linkHeader(0, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.IFLA_EXT_MASK, filterSkipStats)
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	links := make([]link, 0, len(msgs))
	for _, m := range msgs {
		l, err := parseLink(m)
		if err != nil {
			return nil, fmt.Errorf("list links: %w", err)
		}
		links = append(links, l)
	}
	return links, nil
}

// manyLinks is the number of names from which on one dump is cheaper than
// look-ups: a look-up costs about 20 µs, a dump of 1000 links about 12 ms.
const manyLinks = 500

func (h *Host) observeLinks(seen host.State, keys []host.Key) error {
	if len(keys) >= manyLinks {
		all := host.State{}
		if _, err := h.allLinks(all); err != nil {
			return err
		}
		for _, r := range all.Only(keys) {
			seen.Add(r)
		}
		return nil
	}
	masters := map[int]link{}
	for _, k := range keys {
		l, err := h.rtnl.linkBy(0, k.Name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		// The kernel also answers to an alternative name.
		if l.Name != k.Name {
			continue
		}
		if err := h.nameOthers(&l, masters); err != nil {
			return err
		}
		if err := h.readVLANs(&l, masters); err != nil {
			return err
		}
		seen.Add(l.Link)
	}
	return nil
}

// nameOthers fills in the names of the master and of the link below; known
// remembers links by index.
func (h *Host) nameOthers(l *link, known map[int]link) error {
	for index, name := range map[int]*string{l.master: &l.Master, l.lower: &l.Lower} {
		if index == 0 {
			continue
		}
		if there, ok := known[index]; ok {
			*name = there.Name
			continue
		}
		m, err := h.rtnl.linkBy(index, fmt.Sprintf("with index %d", index))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went between the two questions, and so did the plug
		}
		if err != nil {
			return err
		}
		known[index], *name = m, m.Name
	}
	return nil
}

// readVLANs fills in the VLANs of a bridge or a port of one; known has its master.
func (h *Host) readVLANs(l *link, known map[int]link) error {
	bridge := known[l.master]
	if l.Type == host.TypeBridge {
		bridge = *l
	}
	if !bridge.tells {
		return nil
	}
	sets, err := h.rtnl.vlans(l.index)
	if isAny(err, unix.EINVAL, unix.ENODEV, unix.EOPNOTSUPP) {
		return nil // it went or was unplugged between the two questions, or Linux is older than 5.6
	}
	if err != nil {
		return err
	}
	l.VLANs = sets[l.index].Text(bridge.defaultPVID)
	return nil
}

// allLinks adds every link and returns the names by index.
func (h *Host) allLinks(seen host.State) (map[int]string, error) {
	links, err := h.rtnl.links()
	if err != nil {
		return nil, err
	}
	names, byIndex, tells := make(map[int]string, len(links)), make(map[int]link, len(links)), false
	for _, l := range links {
		names[l.index], byIndex[l.index] = l.Name, l
		tells = tells || l.tells
	}
	var vlans map[int]host.VLANSet
	if tells {
		if vlans, err = h.rtnl.vlans(0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, err
		}
	}
	addLinks(seen, byIndex, vlans)
	return names, nil
}

// addLinks adds links, given by index, with the names of those that they are
// joined to, and their VLANs.
func addLinks(seen host.State, links map[int]link, vlans map[int]host.VLANSet) {
	for _, l := range links {
		l.Master, l.Lower = links[l.master].Name, links[l.lower].Name
		bridge := links[l.master]
		if l.tells {
			bridge = l
		}
		if set, told := vlans[l.index]; told {
			l.VLANs = set.Text(bridge.defaultPVID)
		}
		seen.Add(l.Link)
	}
}

// Counters are the bytes and packets of a link since it was made, as the host
// sees them: what a guest sends is received on its tap.
type Counters struct {
	RxBytes, TxBytes, RxPackets, TxPackets uint64
	// Index is the link's number, and Carrier whether there is a cable with
	// somebody at its other end (IFF_LOWER_UP).
	Index   int
	Carrier bool
	// SpeedMbit in Mbit/s, asked for with all links alone; 0 if not known.
	SpeedMbit int
}

// parseCounters reads the head of struct rtnl_link_stats64.
func parseCounters(b []byte) Counters {
	if len(b) < 32 {
		return Counters{}
	}
	at := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8*i:]) }
	return Counters{RxPackets: at(0), TxPackets: at(1), RxBytes: at(2), TxBytes: at(3)}
}

func (l link) counted() Counters {
	c := l.counters
	c.Index, c.Carrier = l.index, l.carrier
	return c
}

// Counters reads the counters of the named links, of all links if none is
// named. Links that are not there are missing from the answer.
func (h *Host) Counters(names ...string) (map[string]Counters, error) {
	if len(names) == 0 {
		return h.kept.counters()
	}
	out := map[string]Counters{}
	for _, name := range names {
		l, err := h.rtnl.linkBy(0, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[name] = l.counted()
	}
	return out, nil
}

// Index is the number of a link, which changes when it is made again; 0 if it is
// not there.
func (h *Host) Index(name string) int {
	l, err := h.rtnl.linkBy(0, name)
	if err != nil || l.Name != name {
		return 0
	}
	return l.index
}
