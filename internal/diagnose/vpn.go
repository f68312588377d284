package diagnose

import (
	"fmt"

	"drawbridge/internal/host"
	"drawbridge/internal/ruleset"
)

// keepsInTunnel says whether a chain is a VPN's that lets nothing through the host
// but by its tunnel (its "kill switch"), and the way one that leads out. An
// exception there would send guests' packets past the tunnel as soon as it is down,
// which is what the switch is for. What guests ask the host itself stays on the
// bridge, and is opened as in any firewall.
func keepsInTunnel(way host.Way, c *ruleset.Chain) bool {
	if ruleset.OwnerOfTable(c.Table) != ruleset.VPN {
		return false
	}
	return way == host.WayOut || way == host.WayBack || way == host.WayDoors
}

// tunnelAdvice is what a person can do about it.
func tunnelAdvice(o Obstacle) string {
	return fmt.Sprintf("this is a VPN's switch that lets nothing past its tunnel, and drawbridge does not open it: connect the VPN (guests go through its tunnel), "+
		"turn the switch off in the VPN's own settings, or let guests past the tunnel by hand, which shows their traffic to the LAN: nft insert rule %s iifname %s accept", o.Verdict.Chain, o.Bridge)
}
