package neighbours

import (
	"path/filepath"
	"testing"
)

// kubernetes has the rules and parameters of a Kubernetes node come, be written
// anew and go. A cluster is not run: the rules are recorded, and loaded for real by
// the program that kube-proxy loads them with.
func kubernetes(t *testing.T) {
	rules, err := filepath.Abs("testdata/kube-proxy.rules")
	if err != nil {
		t.Fatal(err)
	}
	w := begin(t)
	w.begin(usual)
	restore := "iptables-restore --noflush < " + rules
	w.event("a Kubernetes node starts", func() {
		// What kubeadm asks for, and what kube-proxy sets; not every kernel has the first.
		w.on("sysctl -qw net.bridge.bridge-nf-call-iptables=1 || true; sysctl -qw net.ipv4.conf.all.route_localnet=1; " + restore)
	})
	w.event("kube-proxy syncs", func() { w.on("iptables -F KUBE-SERVICES; iptables -t nat -F KUBE-SERVICES; " + restore) })
	// Many nodes come with a policy: what is to be forwarded is what the cluster knows.
	w.event("iptables -P FORWARD DROP", func() { w.on("iptables -P FORWARD DROP") })
	w.event("kube-proxy --cleanup", func() {
		w.on("iptables -F; iptables -t nat -F; iptables -X; iptables -t nat -X; iptables -P FORWARD ACCEPT")
	})
	w.gone()
}
