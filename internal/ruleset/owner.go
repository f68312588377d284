package ruleset

import "strings"

// Owner is the program that a table or chain is known to belong to.
type Owner string

// The owners that are known by the names they give. Iptables is a table in the
// layout of iptables whose chains name nobody in particular.
const (
	Drawbridge     Owner = "drawbridge"
	Docker         Owner = "Docker"
	UFW            Owner = "ufw"
	Firewalld      Owner = "firewalld"
	Podman         Owner = "Podman (netavark)"
	Kubernetes     Owner = "Kubernetes"
	NetworkManager Owner = "NetworkManager (shared connection)"
	Libvirt        Owner = "libvirt"
	LXD            Owner = "LXD or Incus"
	Tailscale      Owner = "Tailscale"
	WireGuard      Owner = "wg-quick"
	VPN            Owner = "a VPN client"
	Fail2ban       Owner = "fail2ban"
	CNI            Owner = "a CNI plugin"
	NFTService     Owner = "nftables.service"
	Iptables       Owner = "iptables"
	Unknown        Owner = "unknown"
)

// tableNames and chainNames are prefixes by which owners are known; the longest
// counts.
var (
	tableNames = map[string]Owner{
		"drawbridge": Drawbridge, "firewalld": Firewalld, "docker-bridges": Docker, "libvirt_network": Libvirt,
		"netavark": Podman, "kube-proxy": Kubernetes, "cni": CNI, "nm-shared-": NetworkManager, "nm-": NetworkManager,
		"lxd": LXD, "incus": LXD, "wg-quick": WireGuard, "mullvad": VPN, "nordvpn": VPN, "f2b-table": Fail2ban, "hostport": Kubernetes, "kindnet": Kubernetes,
	}
	chainNames = map[string]Owner{
		"DOCKER": Docker, "ufw-": UFW, "ufw6-": UFW, "KUBE-": Kubernetes, "cali-": Kubernetes, "CILIUM": Kubernetes, "FLANNEL": Kubernetes,
		"NETAVARK": Podman, "CNI-": CNI, "LIBVIRT_": Libvirt, "nm-sh-": NetworkManager, "ts-": Tailscale, "f2b-": Fail2ban,
	}
)

// OwnerOfTable says whose table it is, by its name alone.
func OwnerOfTable(t *Table) Owner {
	if o := longest(tableNames, t.Name); o != "" {
		return o
	}
	switch {
	case isLayout(t):
		return Iptables
	case t.Family == Inet && (t.Name == "filter" || t.Name == "nat"):
		// What Debian's and Ubuntu's /etc/nftables.conf calls its tables.
		return NFTService
	}
	return Unknown
}

// OwnerOfRule says who wrote a rule: by its chain, by the chain that it leads to,
// else by the table. In tables of iptables many programs share chains.
func OwnerOfRule(r *Rule) Owner {
	if o := longest(tableNames, r.Chain.Table.Name); o != "" {
		return o
	}
	if o := longest(chainNames, r.Chain.Name); o != "" {
		return o
	}
	for _, e := range r.Exprs {
		if d, ok := e.(Decide); ok && d.Verdict.Chain != "" {
			if o := longest(chainNames, d.Verdict.Chain); o != "" {
				return o
			}
		}
	}
	return OwnerOfTable(r.Chain.Table)
}

// OwnerOfPolicy says who set the policy of a base chain. ufw and Docker set that
// of iptables' own chains; ufw's chains in the same table give it away, Docker's
// only in FORWARD, since it sets no other.
func OwnerOfPolicy(c *Chain) Owner {
	o := OwnerOfTable(c.Table)
	if o != Iptables {
		return o
	}
	found := map[Owner]bool{}
	for _, other := range c.Table.Chains {
		if by := longest(chainNames, other.Name); by != "" {
			found[by] = true
		}
	}
	switch {
	case found[UFW]:
		return UFW
	case found[Docker] && c.Hook == "forward":
		return Docker
	}
	return o
}

func longest(names map[string]Owner, name string) (best Owner) {
	length := 0
	for prefix, o := range names {
		if strings.HasPrefix(name, prefix) && len(prefix) > length {
			best, length = o, len(prefix)
		}
	}
	return best
}

// isLayout says whether a table is one that iptables-nft would make.
func isLayout(t *Table) bool {
	if t.Family != IP && t.Family != IP6 && t.Family != Bridge && t.Family != ARP {
		return false
	}
	switch t.Name {
	case "filter", "nat", "mangle", "raw", "security":
	default:
		return false
	}
	for _, c := range t.Chains {
		if c.Hook != "" && c.Name == strings.ToUpper(c.Name) {
			return true
		}
	}
	return false
}
