package scripts

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"drawbridge/internal/nettest"
)

// TestScriptsInGuest runs testdata/guest/*.txtar where a distribution's own kernel
// is: what they are about need not be in the kernel of this machine. Without KVM a change
// takes seconds there, so what waits to be confirmed needs more than the usual minute, and
// limits are long. One script alone: -run '^TestScriptsInGuest$/^vlan$'.
func TestScriptsInGuest(t *testing.T) {
	nettest.InGuest(t, nettest.Inside{
		Modules: []string{"bridge", "8021q", "veth", "tun", "bonding", "macvtap", "nf_tables", "nft_chain_nat", "nft_ct", "nft_masq",
			"nft_nat", "nft_reject_inet", "nft_reject_bridge", "nft_meta_bridge", "nf_conntrack_netlink", "nft_fib_inet", "inet_diag", "tcp_diag", "udp_diag", "cls_bpf", "sch_ingress", "act_mirred"},
		Programs: []string{"bridge", "nft", "jq", "setpriv", "ping", "sleep"},
		Files:    map[string]string{"/drawbridge": program, "/scripts": "testdata/guest"},
		Env:      []string{programEnv + "=/drawbridge"},
	}, func(t *testing.T) {
		p := params
		p.Dir = "/scripts"
		testscript.Run(t, p)
	})
}
