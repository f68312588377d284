package render

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"drawbridge/internal/host"
	"drawbridge/internal/spec"
)

// Settle fills in what people left open in the networks of want: mode, bridge,
// MAC, UUID, domain, subnets. Networks that are new in want, or get another
// subnet, or start, must not overlap anything on the host. had is the document
// before the edit. The result is settled, and not yet validated.
func Settle(had, want spec.Document, f Facts) (spec.Document, error) {
	out := want.Clone()
	for _, name := range want.Names() {
		n := out.Networks[name]
		old, existed := had.Networks[name]
		if n.Mode == "" {
			n.Mode = DefaultMode
			if len(n.Uplinks) > 0 || n.Adopt {
				n.Mode = bridged{}.Name() // nothing else can be meant
			}
		}
		if mode, err := ModeOf(n.Mode); err == nil {
			if j, joins := mode.(joiner); joins {
				out.Networks[name] = j.Settle(n, out, f)
				continue
			}
		}
		if n.Bridge == "" {
			n.Bridge = freeBridge("virbr", out, f)
		}
		settleNames(&n, out.Revision, f)
		if err := settleSubnets(&n, out, f); err != nil {
			return out, err
		}
		n.Forwards = SettleForwards(n)
		fresh := !existed || (n.Started && !old.Started) || !slices.Equal(n.Subnets, old.Subnets)
		if fresh {
			if err := collide(n, out, f); err != nil {
				return out, err
			}
		}
		out.Networks[name] = n
	}
	return out, nil
}

func settleNames(n *spec.Network, revision uint64, f Facts) {
	sum := digest(f.Seed, string(n.Name))
	if n.MAC == "" {
		n.MAC = spec.FormatMAC([6]byte{0x52, 0x54, 0x00, sum[0], sum[1], sum[2]})
	}
	if n.UUID == "" {
		n.UUID = uuid(digest(f.Seed, string(n.Name), strconv.FormatUint(revision, 10)))
	}
	if n.Domain == "" {
		// .internal is set aside for private use (ICANN board, July 2024).
		n.Domain = string(n.Name) + ".internal"
	}
	if n.IPv6 == "" {
		n.IPv6 = spec.IPv6Auto
	}
}

// SettleForwards fills in what the forwards of a network leave open, whose subnets are
// settled; a list that leaves nothing open stays the one that it is.
func SettleForwards(n spec.Network) spec.Forwards {
	open := func(f spec.Forward) bool { return !f.Listen.IsValid() || f.TargetPort == 0 && f.Proto != spec.ProtoAll }
	some := false
	for f := range n.Forwards.All() {
		some = some || open(f)
	}
	if !some {
		return n.Forwards
	}
	list := n.Forwards.List()
	for i, f := range list {
		list[i] = n.SettleForward(f)
	}
	return spec.MakeForwards(list...)
}

func settleSubnets(n *spec.Network, d spec.Document, f Facts) error {
	if _, ok := n.Subnet4(); !ok && len(n.Subnets) == 0 {
		p, err := freeSubnet4(*n, d, f)
		if err != nil {
			return err
		}
		n.Subnets = append([]spec.Subnet{spec.NewSubnet(p)}, n.Subnets...)
	}
	_, six := n.Subnet6()
	if p, wished := n.IPv6.Prefix(); wished && !six {
		n.Subnets = append(n.Subnets, spec.NewSubnet(p))
	}
	if !six && n.IPv6 == spec.IPv6Auto && f.KernelIPv6 && f.hasIPv6(bridgesOf(d)) {
		n.Subnets = append(n.Subnets, spec.NewSubnet(freeSubnet6(*n, d, f)))
	}
	return nil
}

func bridgesOf(d spec.Document) map[string]bool {
	bridges := map[string]bool{}
	for _, n := range d.Networks {
		if n.Bridge != "" {
			bridges[n.Bridge] = true
		}
	}
	return bridges
}

// freeBridge is the first name with a number that neither the document nor the
// host uses.
func freeBridge(prefix string, d spec.Document, f Facts) string {
	taken := bridgesOf(d)
	for i := 0; ; i++ {
		name := prefix + strconv.Itoa(i)
		if _, seen := f.Seen[host.LinkKey(name)]; !taken[name] && !seen {
			return name
		}
	}
}

// freeSubnet4 tries 192.168.122.0/24 first, which people know from libvirt,
// then the rest of 192.168/16 from there, then 172.30/16 and 10.122/16.
func freeSubnet4(n spec.Network, d spec.Document, f Facts) (netip.Prefix, error) {
	for _, from := range [][2]byte{{192, 168}, {172, 30}, {10, 122}} {
		for i := range 256 {
			third := byte((i + 122) % 256)
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{from[0], from[1], third, 0}), 24)
			if taken(p, n, d, f) == "" {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, &spec.InvalidError{Field: "subnet", Reason: "no free /24 is left in 192.168.0.0/16, 172.30.0.0/16 and 10.122.0.0/16; name one with --subnet"}
}

// freeSubnet6 makes a unique local prefix (RFC 4193, section 3.2) of the host's
// seed and the network's name, the same one each time.
func freeSubnet6(n spec.Network, d spec.Document, f Facts) netip.Prefix {
	for try := 0; ; try++ {
		sum := digest(f.Seed, "ula", string(n.Name), strconv.Itoa(try))
		a := [16]byte{0xfd, sum[0], sum[1], sum[2], sum[3], sum[4]}
		p := netip.PrefixFrom(netip.AddrFrom16(a), 64)
		if taken(p, n, d, f) == "" {
			return p
		}
	}
}

func taken(p netip.Prefix, n spec.Network, d spec.Document, f Facts) string {
	for _, name := range d.Names() {
		if name == n.Name {
			continue
		}
		for _, s := range d.Networks[name].Subnets {
			if s.Prefix.Overlaps(p) {
				return fmt.Sprintf("%s of network %q", s.Prefix, name)
			}
		}
	}
	return f.collision(p, n.Bridge)
}

func collide(n spec.Network, d spec.Document, f Facts) error {
	for _, s := range n.Subnets {
		if with := taken(s.Prefix, n, d, f); with != "" {
			return &spec.InvalidError{Field: "subnet", Reason: fmt.Sprintf("%s overlaps %s; leave --subnet out to get a free one", s.Prefix, with)}
		}
	}
	return nil
}

func digest(parts ...string) [32]byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return [32]byte(h.Sum(nil))
}

// uuid formats a digest as a version 8 UUID (RFC 9562, section 5.8).
func uuid(sum [32]byte) string {
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	x := hex.EncodeToString(sum[:16])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}
