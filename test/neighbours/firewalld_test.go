package neighbours

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// firewalldThatOwns is about a firewalld that lets nobody else into its table, as
// that of Fedora, RHEL 10 and Debian 13: an exception is a zone then. The files of
// the zone are those that are installed.
func firewalldThatOwns(t *testing.T) {
	w := newWorldOn(t, script(t, "../../scripts/firewalld-root"))
	w.prepare()
	// The bus is the host's.
	w.on("mkdir -p /run/dbus /run/nb/root/run/dbus && mount --bind /run/nb/root/run/dbus /run/dbus")
	w.beside("dbus-daemon --system --fork")
	w.begin(usual)
	stop := func() {}
	run := func() {
		stop = w.start("firewalld --nofork --nopid >/var/log/firewalld.log 2>&1")
		w.until("firewalld runs", func() error {
			_, err := w.host.Run(context.Background(), "chroot", "/run/nb/root", "firewall-cmd", "--state")
			return err
		})
	}
	// Without the zone doctor says what is missing.
	run()
	if rules := w.on("nft list table inet firewalld"); !strings.Contains(rules, "flags owner") {
		t.Fatalf("this firewalld does not own its table:\n%.300s", rules)
	}
	found := w.finding("guests-blocked")
	if found == nil || found.Fix.Command != "firewall-cmd --reload" {
		t.Errorf("without a zone: %+v", found)
	}
	files, err := filepath.Abs("../../packaging/firewalld")
	w.check(err)
	w.on(fmt.Sprintf("cd /run/nb/root/usr/lib/firewalld && cp %[1]s/zone.xml zones/drawbridge.xml && cp %[1]s/policy-out.xml policies/drawbridge-out.xml", files))
	w.beside("firewall-cmd --reload")
	w.event("firewalld was there", func() {})
	if out := w.beside("firewall-cmd --get-zone-of-interface=" + w.bridge); strings.TrimSpace(out) != "drawbridge" {
		t.Errorf("the bridge is in zone %s", out)
	}
	if out := w.beside("firewall-cmd --permanent --zone drawbridge --list-interfaces"); strings.TrimSpace(out) != "" {
		t.Errorf("something is permanent: %s", out)
	}
	// The host's other ports stay shut to guests.
	if _, err := w.guest.Run(context.Background(), "sh", "-c", "echo | busybox nc -w1 "+w.gateway.String()+" 22"); err == nil || strings.Contains(err.Error(), "refused") {
		t.Errorf("a guest reaches other ports of the host: %v", err)
	}
	w.event("firewall-cmd --reload", func() { w.beside("firewall-cmd --reload") })
	w.event("firewalld --add-service", func() { w.beside("firewall-cmd --add-service=http") })
	w.event("firewalld stops", func() { stop() })
	w.event("firewalld starts", run)
	w.on(program + " network stop default --cut-guests")
	if out := w.beside("firewall-cmd --zone drawbridge --list-interfaces"); strings.TrimSpace(out) != "" {
		t.Errorf("the network is stopped, and in our zone is %s", out)
	}
	stop()
}
