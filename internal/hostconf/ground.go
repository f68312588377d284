package hostconf

import (
	"strings"
)

// Battery says whether the host has a battery of its own (power_supply(5) of
// sysfs: type Battery, scope not Device as a mouse's is).
func Battery() bool { return batteryIn(tree{}) }

func batteryIn(t tree) bool {
	for _, dir := range t.glob("/sys/class/power_supply/*") {
		if t.text(dir+"/type") == "Battery" && t.text(dir+"/scope") != "Device" {
			return true
		}
	}
	return false
}

// hypervisors by what the firmware says (DMI sys_vendor and product_name), as
// systemd-detect-virt(1) knows them.
var hypervisors = []struct{ field, begins, name string }{
	{"sys_vendor", "QEMU", "QEMU/KVM"}, {"product_name", "KVM", "KVM"}, {"product_name", "Standard PC", "QEMU/KVM"}, {"sys_vendor", "VMware", "VMware"},
	{"product_name", "VMware", "VMware"}, {"sys_vendor", "innotek", "VirtualBox"}, {"product_name", "VirtualBox", "VirtualBox"}, {"sys_vendor", "Xen", "Xen"},
	{"product_name", "HVM domU", "Xen"}, {"product_name", "Virtual Machine", "Hyper-V"}, {"sys_vendor", "Parallels", "Parallels"}, {"product_name", "BHYVE", "bhyve"},
	{"sys_vendor", "Amazon EC2", "Amazon EC2"}, {"product_name", "Google Compute Engine", "Google Compute Engine"}, {"sys_vendor", "Hetzner", "Hetzner Cloud"},
	{"sys_vendor", "DigitalOcean", "DigitalOcean"},
}

// Hypervisor is what this host runs on, "" for a machine of its own.
func Hypervisor() string { return hypervisorIn(tree{}) }

func hypervisorIn(t tree) string {
	for _, h := range hypervisors {
		if strings.HasPrefix(t.text("/sys/class/dmi/id/"+h.field), h.begins) {
			return h.name
		}
	}
	return ""
}

// Port8021X says whether a link logs in at its switch (IEEE 802.1X), by the files
// of those who do that: wpa_supplicant's unit for wires, NetworkManager.
func Port8021X(link string) bool { return port8021X(tree{}, link) }

func port8021X(t tree, link string) bool {
	if t.exists("/etc/wpa_supplicant/wpa_supplicant-wired-" + link + ".conf") {
		return true
	}
	for _, file := range t.glob("/etc/NetworkManager/system-connections/*") {
		text := t.text(file)
		if strings.Contains(text, "\n[802-1x]") && strings.Contains(text, "type=ethernet") && (strings.Contains(text, "interface-name="+link+"\n") || !strings.Contains(text, "interface-name=")) {
			return true
		}
	}
	return false
}
