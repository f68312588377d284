package diagnose

import (
	"fmt"
	"strings"

	"drawbridge/internal/ruleset"
)

// dockersOwn says whether a chain is one of Docker's nftables backend
// (moby, daemon/libnetwork/drivers/bridge/internal/nftabler). That has no
// chain for rules of others as its iptables backend has, and takes its tables for
// its own: what others put there is lost without a word. So no exception is made
// there; Docker's settings are the way.
func dockersOwn(c *ruleset.Chain) bool { return c.Table.Name == "docker-bridges" }

// dockerMark is the mark in the settings that are proposed: any other will do.
const dockerMark = "0x1000"

// dockerSetting is the setting of Docker by which a rule of its nftables backend
// lets in what comes over the link from. The rule is in the chain of a bridge:
// "filter-forward-in__docker0".
func dockerSetting(rule *ruleset.Rule, from string) string {
	if rule == nil {
		return "see the settings of Docker's networks"
	}
	_, bridge, _ := strings.Cut(rule.Chain.Name, "__")
	if strings.HasPrefix(rule.Comment, "INTERNAL NETWORK") {
		return fmt.Sprintf("Docker's network on %s was made with --internal: make it anew without, or on a bridge of its own", bridge)
	}
	// Chains of either family; in "ip6" the options end so.
	family := map[bool]string{true: "6", false: "4"}[rule.Chain.Table.Family == ruleset.IP6]
	return fmt.Sprintf("Docker lets nothing in to %s but published ports: either make its network there anew with -o com.docker.network.bridge.gateway_mode_ipv%s=nat-unprotected, "+
		`or set "bridge-accept-fwmark": "%s" in /etc/docker/daemon.json, restart Docker, and mark what shall pass: `+
		"nft 'table inet to-docker { chain marks { type filter hook prerouting priority mangle; iifname %s meta mark set %s; }; }'", bridge, family, dockerMark, from, dockerMark)
}
