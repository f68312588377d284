package linux

import (
	"io/fs"
	"net/netip"
	"testing"
	"testing/fstest"

	"drawbridge/internal/host"
)

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
func link2(to string) *fstest.MapFile  { return &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink} }

// The files are as machines have them: mountinfo(5), Documentation/ABI/stable/
// sysfs-class-net, sysfs-firmware-dmi; the providers' as cloud-init's ds-identify
// lists them.
func TestRootOverTheNetwork(t *testing.T) {
	const ext4 = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
	for name, c := range map[string]struct {
		root   fstest.MapFS
		how    string
		server string
	}{
		"disk": {fstest.MapFS{
			"proc/self/mountinfo": file(ext4),
			"sys/dev/block/8:1":   link2("../../devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1"),
		}, "", ""},
		"NFS": {fstest.MapFS{"proc/self/mountinfo": file(
			"22 1 0:21 / / rw,relatime shared:1 - nfs4 192.168.99.5:/srv/root rw,vers=4.2,clientaddr=192.168.99.66,addr=192.168.99.5\n" +
				"30 22 8:1 / /data rw - ext4 /dev/sda1 rw\n")}, "NFS from 192.168.99.5:/srv/root", "192.168.99.5"},
		"NFS over IPv6": {fstest.MapFS{"proc/self/mountinfo": file(
			"22 1 0:21 / / rw - nfs [2001:db8::5]:/srv rw,vers=3,addr=2001:db8::5\n")}, "NFS from [2001:db8::5]:/srv", "2001:db8::5"},
		"iSCSI": {fstest.MapFS{
			"proc/self/mountinfo": file(ext4),
			"sys/dev/block/8:1":   link2("../../devices/platform/host2/session1/target2:0:0/2:0:0:1/block/sda/sda1"),
			"sys/class/iscsi_connection/connection1:0/persistent_address": file("192.168.99.7\n"),
		}, "iSCSI", "192.168.99.7"},
		"LVM on iSCSI": {fstest.MapFS{
			"proc/self/mountinfo":                                         file("22 1 254:0 / / rw - xfs /dev/mapper/vg-root rw\n"),
			"sys/dev/block/254:0":                                         link2("../../devices/virtual/block/dm-0"),
			"sys/devices/virtual/block/dm-0/slaves/sda/dev":               file("8:0\n"),
			"sys/dev/block/8:0":                                           link2("../../devices/platform/host2/session1/target2:0:0/2:0:0:1/block/sda"),
			"sys/class/iscsi_connection/connection1:0/persistent_address": file("192.168.99.7"),
			"sys/class/iscsi_connection/connection2:0/persistent_address": file("192.168.99.8"),
		}, "iSCSI", ""},
		"NVMe over TCP": {fstest.MapFS{
			"proc/self/mountinfo": file("22 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n"),
			"sys/dev/block/259:2": link2("../../devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/nvme0n1p2"),
			"sys/class/nvme-subsystem/nvme-subsys0/nvme0/transport": file("tcp\n"),
			"sys/class/nvme-subsystem/nvme-subsys0/nvme0/address":   file("traddr=192.168.99.7,trsvcid=4420,src_addr=192.168.99.66\n"),
		}, "NVMe over TCP", "192.168.99.7"},
		"NVMe in a slot": {fstest.MapFS{
			"proc/self/mountinfo": file("22 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n"),
			"sys/dev/block/259:2": link2("../../devices/pci0000:00/0000:00:06.0/0000:01:00.0/nvme/nvme0/nvme0n1/nvme0n1p2"),
			"sys/class/nvme-subsystem/nvme-subsys0/nvme0/transport": file("pcie\n"),
		}, "", ""},
		"NBD": {fstest.MapFS{
			"proc/self/mountinfo": file("22 1 43:1 / / rw - ext4 /dev/nbd0p1 rw\n"),
			"sys/dev/block/43:1":  link2("../../devices/virtual/block/nbd0/nbd0p1"),
		}, "a network block device", ""},
		"Ceph": {fstest.MapFS{
			"proc/self/mountinfo": file("22 1 252:1 / / rw - ext4 /dev/rbd0p1 rw\n"),
			"sys/dev/block/252:1": link2("../../devices/rbd/0/block/rbd0/rbd0p1"),
		}, "Ceph", ""},
		"a later mount hides": {fstest.MapFS{"proc/self/mountinfo": file(
			"1 1 0:2 / / rw - nfs 10.0.0.1:/ rw,addr=10.0.0.1\n22 1 0:30 / / rw - overlay overlay rw\n")}, "", ""},
		"nothing": {fstest.MapFS{}, "", ""},
	} {
		how, server := networkRoot(c.root)
		want, _ := netip.ParseAddr(c.server)
		if how != c.how || server != want {
			t.Errorf("%s: %q from %v, want %q from %q", name, how, server, c.how, c.server)
		}
	}
}

func TestWirelessAndClouds(t *testing.T) {
	root := fstest.MapFS{
		"sys/class/net/wlan0/phy80211/name":  file("phy0"),
		"sys/class/net/ath0/wireless/status": file("0"),
		"sys/class/net/eth0/mtu":             file("1500"),
	}
	for name, want := range map[string]bool{"wlan0": true, "ath0": true, "eth0": false, "none": false} {
		if wireless(root, name) != want {
			t.Errorf("%s: not %t", name, want)
		}
	}
	for _, c := range []struct{ vendor, product, asset, want string }{
		{"Amazon EC2\n", "c5.large", "", "Amazon EC2"}, {"Xen", "HVM domU", "Amazon EC2", "Amazon EC2"},
		{"Google", "Google Compute Engine", "", "Google Compute Engine"}, {"OpenStack Foundation", "OpenStack Nova", "", "an OpenStack cloud (port security)"}, {"Google", "Bobba", "", ""},
		{"Microsoft Corporation", "Virtual Machine", "", "Microsoft Azure or Hyper-V"}, {"Microsoft Corporation", "Surface Pro", "", ""},
		{"Hetzner", "vServer", "", "Hetzner Cloud"}, {"Dell Inc.", "PowerEdge R640", "", ""}, {"QEMU", "Standard PC", "", ""}, {"", "", "", ""},
	} {
		dmi := fstest.MapFS{
			"sys/class/dmi/id/sys_vendor": file(c.vendor), "sys/class/dmi/id/product_name": file(c.product), "sys/class/dmi/id/chassis_asset_tag": file(c.asset),
		}
		if got := cloud(dmi); got != c.want {
			t.Errorf("%q %q: %q, want %q", c.vendor, c.product, got, c.want)
		}
	}
}

func TestNICsAsTheyAre(t *testing.T) {
	h := newHost(t)
	ipText(t, "link", "add", "nic0", "type", "veth", "peer", "name", "nic1")
	defer ipText(t, "link", "delete", "nic0")
	ipText(t, "link", "set", "nic0", "up")
	look := func() host.Resource {
		seen, err := h.Observe(t.Context(), host.NICKey("nic0"), host.NICKey("nobody0"))
		if err != nil || len(seen) != 1 {
			t.Fatal(seen, err)
		}
		n := seen[host.NICKey("nic0")].(host.NIC)
		n.Cloud, n.Root = "", "" // those of the machine that the test runs on
		return n
	}
	if got := look(); got != (host.NIC{Link: "nic0"}) {
		t.Errorf("without a carrier: %+v", got)
	}
	ipText(t, "link", "set", "nic1", "up")
	if got := look(); got != (host.NIC{Link: "nic0", Carrier: true}) {
		t.Errorf("with a carrier: %+v", got)
	}
}

func TestMetricsThereAndBack(t *testing.T) {
	for _, bad := range []string{"mtu", "mtu lock", "mtu x", "colour 5", "99 5", "mtu 5 window"} {
		if _, err := encodeMetrics(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if attrs, err := encodeMetrics(""); attrs != nil || err != nil {
		t.Error("nothing is something")
	}
	h := newHost(t)
	for _, bad := range []string{"via", "via x dev lo", "colour red", "dev nobody0", "weight 0x"} {
		if _, err := h.encodeHops(bad); err == nil {
			t.Errorf("hops %q were taken", bad)
		}
	}
}
