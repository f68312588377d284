package linux

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// observeNICs reads what matters of network cards before they become ports.
func (h *Host) observeNICs(seen host.State, keys []host.Key) error {
	root := os.DirFS("/")
	for _, k := range keys {
		l, err := h.rtnl.linkBy(0, k.Name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && l.Name != k.Name {
			continue
		}
		if err != nil {
			return err
		}
		n := host.NIC{Link: l.Name, Carrier: l.carrier, Wireless: wireless(root, l.Name), Cloud: cloud(root)}
		how, server := networkRoot(root)
		if how != "" {
			over, err := h.leadsOver(server)
			if err != nil {
				return err
			}
			// Where it is not known which card it is, any may be.
			if over == 0 || over == l.index || over == l.master {
				n.Root = how
			}
		}
		seen.Add(n)
	}
	return nil
}

// leadsOver is the index of the link that packets to an address leave by; 0 if
// there is no way or the address is not known.
func (h *Host) leadsOver(to netip.Addr) (int, error) {
	if !to.IsValid() {
		return 0, nil
	}
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = byte(familyOfAddr(to)), byte(to.BitLen())
	msgs, err := h.rtnl.do(unix.RTM_GETROUTE, netlink.Request, header, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.RTA_DST, to.AsSlice())
	})
	if isAny(err, unix.ENETUNREACH, unix.EHOSTUNREACH) || err == nil && len(msgs) == 0 {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look up the way to %s: %w", to, err)
	}
	indexes, err := routeLinks(msgs[0])
	if err != nil || len(indexes) == 0 {
		return 0, err
	}
	return indexes[0], nil
}

// wireless says whether a link is an IEEE 802.11 station: cfg80211 puts a link
// to its radio beside it, the older interface a folder.
func wireless(root fs.FS, name string) bool {
	for _, sign := range []string{"phy80211", "wireless"} {
		if _, err := fs.Stat(root, path.Join("sys/class/net", name, sign)); err == nil {
			return true
		}
	}
	return false
}

// clouds are providers that drop frames from addresses which they did not give
// out, by what the firmware says (DMI sys_vendor, and product_name where that is
// not enough). Sources: the providers' documentation on source checks: EC2 "source/
// destination checks", Google "MAC spoofing protection", Azure "promiscuous mode
// is not supported", OpenStack "port security", Hetzner Cloud, DigitalOcean, Oracle "VNIC".
var clouds = []struct{ vendor, product, name string }{
	{"Amazon EC2", "", "Amazon EC2"}, {"Google", "Google Compute Engine", "Google Compute Engine"},
	{"Microsoft Corporation", "Virtual Machine", "Microsoft Azure or Hyper-V"}, {"Hetzner", "vServer", "Hetzner Cloud"},
	{"DigitalOcean", "", "DigitalOcean"}, {"Alibaba Cloud", "", "Alibaba Cloud"}, {"Vultr", "", "Vultr"},
	{"OpenStack Foundation", "", "an OpenStack cloud (port security)"}, {"OpenStack", "", "an OpenStack cloud (port security)"},
	{"OracleCloud.com", "", "Oracle Cloud"}, {"Scaleway", "", "Scaleway"}, {"Akamai", "", "Akamai Connected Cloud"},
}

func cloud(root fs.FS) string {
	read := func(name string) string {
		b, err := fs.ReadFile(root, "sys/class/dmi/id/"+name)
		if err != nil {
			return "" // no firmware that says, as in most containers
		}
		return strings.TrimSpace(string(b))
	}
	vendor, product := read("sys_vendor"), read("product_name")
	for _, c := range clouds {
		if vendor != "" && vendor == c.vendor && strings.HasPrefix(product, c.product) {
			return c.name
		}
	}
	// The chassis of EC2's older instances says no more than this.
	if read("chassis_asset_tag") == "Amazon EC2" {
		return "Amazon EC2"
	}
	return ""
}

// networkRoot says in words how the root filesystem comes over the network, and
// from where if that is known; "" if it does not.
func networkRoot(root fs.FS) (how string, server netip.Addr) {
	b, err := fs.ReadFile(root, "proc/self/mountinfo")
	if err != nil {
		return "", server
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	var device string
	for lines.Scan() {
		// ID parent major:minor root mountpoint options … - type source super-options
		left, right, ok := strings.Cut(lines.Text(), " - ")
		fields, more := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(more) < 3 || fields[4] != "/" {
			continue
		}
		device, how, server = fields[2], "", netip.Addr{}
		switch more[0] {
		case "nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "fuse.glusterfs":
			server = addressIn(more[2], more[1])
			how = strings.TrimRight(strings.ToUpper(strings.TrimPrefix(more[0], "fuse.")), "4") + " from " + more[1]
		}
	}
	if how == "" && device != "" {
		return networkDisk(root, device, 0)
	}
	return how, server
}

// addressIn finds the server's address in mount options (addr=…) or source.
func addressIn(options, source string) netip.Addr {
	for option := range strings.SplitSeq(options, ",") {
		if value, ok := strings.CutPrefix(option, "addr="); ok {
			a, _ := netip.ParseAddr(value)
			return a
		}
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(source, "//"), ":")
	a, _ := netip.ParseAddr(name)
	return a
}

// networkDisk says how a block device (major:minor), or one that it is made of (LVM,
// RAID, encryption), comes over the network: iSCSI, NVMe over TCP or RDMA, NBD, RBD.
func networkDisk(root fs.FS, device string, depth int) (how string, server netip.Addr) {
	const deepest = 8 // of devices on top of each other
	dir := path.Join("sys/dev/block", device)
	if link, err := fs.ReadLink(root, dir); err == nil {
		switch name := path.Base(link); {
		case strings.Contains(link, "/session"):
			return "iSCSI", portal(root)
		case strings.Contains(link, "/nvme"):
			if how, server = overFabrics(root, name); how != "" {
				return how, server
			}
		case strings.HasPrefix(name, "nbd"):
			return "a network block device", netip.Addr{}
		case strings.Contains(link, "devices/rbd/"):
			return "Ceph", netip.Addr{}
		}
		dir = path.Join("sys/dev/block", link)
	}
	slaves, err := fs.ReadDir(root, path.Join(dir, "slaves"))
	if err != nil || depth == deepest {
		return "", netip.Addr{}
	}
	for _, s := range slaves {
		number, err := fs.ReadFile(root, path.Join(dir, "slaves", s.Name(), "dev"))
		if err != nil {
			continue
		}
		if how, server := networkDisk(root, strings.TrimSpace(string(number)), depth+1); how != "" {
			return how, server
		}
	}
	return "", netip.Addr{}
}

// overFabrics looks at the controllers of an NVMe disk (nvme0n1p2: those of
// subsystem 0): transport and address, "traddr=192.168.99.7,trsvcid=4420,…"
// (Documentation/ABI and drivers/nvme/host/sysfs.c).
func overFabrics(root fs.FS, disk string) (how string, server netip.Addr) {
	subsystem, _, _ := strings.Cut(strings.TrimPrefix(disk, "nvme"), "n")
	controllers, _ := fs.Glob(root, "sys/class/nvme-subsystem/nvme-subsys"+subsystem+"/nvme*/transport")
	if len(controllers) == 0 {
		controllers, _ = fs.Glob(root, "sys/class/nvme/nvme"+subsystem+"/transport")
	}
	for _, c := range controllers {
		transport, err := fs.ReadFile(root, c)
		if kind := strings.TrimSpace(string(transport)); err == nil && (kind == "tcp" || kind == "rdma") {
			how = "NVMe over " + strings.ToUpper(kind)
			address, _ := fs.ReadFile(root, path.Join(path.Dir(c), "address"))
			for part := range strings.SplitSeq(strings.TrimSpace(string(address)), ",") {
				if value, ok := strings.CutPrefix(part, "traddr="); ok && len(controllers) == 1 {
					server, _ = netip.ParseAddr(value)
				}
			}
		}
	}
	return how, server
}

// portal is the address of the only iSCSI target; invalid if there are several.
func portal(root fs.FS) netip.Addr {
	files, _ := fs.Glob(root, "sys/class/iscsi_connection/*/persistent_address")
	if len(files) != 1 {
		return netip.Addr{}
	}
	b, err := fs.ReadFile(root, files[0])
	if err != nil {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(strings.TrimSpace(string(b)))
	return a
}
