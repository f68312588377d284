package hostconf

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"drawbridge/internal/host"
)

// What netplan says of a link that is about the NIC, the bond or the VLAN and not about
// its addresses; it stays there (netplan-yaml(5)).
var netplanNICKeys = []string{
	"match", "set-name", "wakeonlan", "emit-lldp", "macaddress", "infiniband-mode", "renderer",
	"virtual-function-count", "embedded-switch-mode", "delay-virtual-functions-rebind", "link",
	"receive-checksum-offload", "transmit-checksum-offload", "tcp-segmentation-offload", "tcp6-segmentation-offload",
	"generic-segmentation-offload", "generic-receive-offload", "large-receive-offload", "regulatory-domain", "networkmanager",
	"interfaces", "parameters", "id",
}

// netplanKinds are the kinds of definitions that can become a port.
var netplanKinds = []string{"ethernets", "bonds", "vlans"}

// definition finds what a file says of a link, and of which kind that is; nil if it
// says nothing.
func definition(network *yaml.Node, id string) (kind string, def *yaml.Node) {
	for _, kind := range netplanKinds {
		if def := mapping(mapping(network, kind), id); def != nil {
			return kind, def
		}
	}
	return "", nil
}

// mapping finds the value of a key of a YAML mapping, nil if it is not there.
func mapping(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// put sets a key of a mapping, at the end if it is new.
func put(n *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = value
			return
		}
	}
	n.Content = append(n.Content, scalar(key), value)
}

func scalar(value string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: value} }

func text(value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle, Value: value}
}

func list(values ...string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, v := range values {
		n.Content = append(n.Content, scalar(v))
	}
	return n
}

// child is the mapping below a key, made if it is not there.
func child(n *yaml.Node, key string) *yaml.Node {
	if c := mapping(n, key); c != nil && c.Kind == yaml.MappingNode {
		return c
	}
	c := &yaml.Node{Kind: yaml.MappingNode}
	put(n, key, c)
	return c
}

// parseNetplan reads one file; nil if it has no network.
func parseNetplan(content []byte) (document, network *yaml.Node, err error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(content, &doc); err != nil {
		return nil, nil, err
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, nil, nil
	}
	return &doc, mapping(doc.Content[0], "network"), nil
}

// hasAliases says whether a YAML tree uses anchors: what is moved could come to
// stand behind what refers to it.
func hasAliases(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || slices.ContainsFunc(n.Content, hasAliases)
}

// rewriteNetplan turns one file into what it shall be: what it says of the link is said
// of the bridge, and what is about the NIC stays. whole adds what makes the bridge;
// that is for the first of the files. Comments and keys that nobody here knows go
// where their line goes.
func rewriteNetplan(content []byte, d Description, p host.Profile, whole bool) ([]byte, error) {
	doc, network, err := parseNetplan(content)
	if err != nil {
		return nil, err
	}
	kind, nic := definition(network, d.Definition)
	if nic == nil && !whole {
		return content, nil
	}
	if nic == nil || nic.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("it has no mapping for %s", d.Definition)
	}
	bridge := child(child(network, "bridges"), p.Bridge)
	var stays []*yaml.Node
	for i := 0; i+1 < len(nic.Content); i += 2 {
		key, value := nic.Content[i], nic.Content[i+1]
		if key.Value == "mtu" {
			stays = append(stays, key, value)
			copied := *value
			put(bridge, "mtu", &copied)
		} else if slices.Contains(netplanNICKeys, key.Value) {
			stays = append(stays, key, value)
		} else {
			bridge.Content = append(bridge.Content, key, value)
		}
	}
	nic.Content = stays
	// It may be said of the link alone, or of all links of its kind.
	for _, n := range []*yaml.Node{mapping(mapping(network, kind), "renderer"), mapping(nic, "renderer")} {
		if n != nil {
			put(bridge, "renderer", scalar(n.Value))
		}
	}
	handOver(nic, bridge)
	if whole {
		dress(network, nic, bridge, p, d)
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(indentOf(content))
	if err := enc.Encode(doc); err != nil {
		return nil, err
	}
	return out.Bytes(), enc.Close()
}

// indentOf is how many blanks a file's first level is indented by, so that lines
// that are not changed stay what they are.
func indentOf(content []byte) int {
	for _, line := range lines(content) {
		body := strings.TrimLeft(line, " ")
		if n := len(line) - len(body); n > 0 && strings.TrimSpace(body) != "" && !strings.HasPrefix(body, "#") {
			return n
		}
	}
	return 2
}

// handOver splits what netplan hands through to NetworkManager, as the sections of
// NetworkManager's own files are split: see bridgeKeyfile. It hands through even what it
// does not know itself.
func handOver(nic, bridge *yaml.Node) {
	from := mapping(nic, "networkmanager")
	if from == nil || from.Kind != yaml.MappingNode {
		return
	}
	to := child(bridge, "networkmanager")
	split := func(from, to *yaml.Node, moves, stays func(key string) bool) {
		var kept []*yaml.Node
		for i := 0; i+1 < len(from.Content); i += 2 {
			key, value := from.Content[i], from.Content[i+1]
			if moves(key.Value) {
				to.Content = append(to.Content, key, value)
			}
			if stays(key.Value) {
				kept = append(kept, key, value)
			}
		}
		from.Content = kept
	}
	if through := mapping(from, "passthrough"); through != nil && through.Kind == yaml.MappingNode {
		moves := func(key string) bool {
			section, _, _ := strings.Cut(key, ".")
			return section == "connection" || slices.Contains(bridgeSections, section)
		}
		split(through, child(to, "passthrough"), moves, func(key string) bool { return !moves(key) || aboutStart(strings.TrimPrefix(key, "connection.")) })
	}
	through := func(key string) bool { return key == "passthrough" }
	split(from, to, func(key string) bool { return !through(key) }, through)
}

// dress says what makes the bridge and its ports.
func dress(network, nic, bridge *yaml.Node, p host.Profile, d Description) {
	ports := strings.Fields(p.Uplinks)[1:]
	put(bridge, "interfaces", list(append([]string{d.Definition}, ports...)...))
	put(bridge, "macaddress", text(p.MAC))
	parameters := child(bridge, "parameters")
	delay := "0"
	if p.STP && d.Connection != "" {
		delay = "2" // the least that NetworkManager takes with STP
	}
	put(parameters, "stp", scalar(fmt.Sprint(p.STP)))
	put(parameters, "forward-delay", scalar(delay))
	quiet := func(n *yaml.Node, link string) {
		put(n, "dhcp4", scalar("false"))
		put(n, "dhcp6", scalar("false"))
		put(n, "link-local", list())
		if d.Connection == "" {
			put(n, "accept-ra", scalar("false"))
			return
		}
		put(child(n, "networkmanager"), "uuid", text(portUUID(d, p.Bridge, link)))
	}
	quiet(nic, d.Link)
	for _, port := range ports {
		quiet(child(child(network, "ethernets"), port), port)
	}
	if d.Connection != "" {
		dressForNM(bridge, p, d)
	}
	if strings.TrimSpace(nic.HeadComment) == "" {
		nic.HeadComment = ""
	}
}

// dressForNM names the bridge's connection, and the metric of its routes, which by
// default is another for a bridge.
func dressForNM(bridge *yaml.Node, p host.Profile, d Description) {
	put(bridge, "renderer", scalar("NetworkManager"))
	nm := child(bridge, "networkmanager")
	put(nm, "uuid", text(bridgeUUID(d, p.Bridge)))
	sections := parseSections(d.Generated)
	for _, family := range []struct {
		section string
		Method
	}{{"ipv4", d.IPv4}, {"ipv6", d.IPv6}} {
		if d.RouteMetric != 0 && family.Method != (Method{}) && !has(sections, family.section, "route-metric") {
			put(child(nm, "passthrough"), family.section+".route-metric", text(fmt.Sprint(d.RouteMetric)))
		}
	}
}

// readNetplan fills in what one file says that matters here.
func readNetplan(d *Description, file string, content []byte) (mine bool, err error) {
	doc, network, err := parseNetplan(content)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", file, err)
	}
	if network == nil {
		return false, nil
	}
	for _, kind := range []string{"bridges", "bonds", "vlans", "vrfs", "tunnels", "virtual-ethernets"} {
		readNetplanStack(d, file, kind, mapping(network, kind))
	}
	kind, nic := definition(network, d.Definition)
	if nic == nil {
		if mapping(mapping(network, "wifis"), d.Definition) != nil {
			d.cannot("%s: %s is a Wi-Fi station, which cannot be a port of a bridge", file, d.Definition)
			return true, nil
		}
		return false, nil
	}
	if hasAliases(doc) {
		d.cannot("%s uses YAML anchors, which cannot be rewritten safely", file)
	}
	for _, key := range []string{"auth", "openvswitch", "link"} {
		if mapping(nic, key) != nil && (kind != "vlans" || key != "link") {
			d.cannot("%s: %s, %s has %q, which a bridge cannot have", file, kind, d.Definition, key)
		}
	}
	if name := mapping(mapping(nic, "match"), "name"); name != nil && (name.Kind != yaml.ScalarNode || strings.ContainsAny(name.Value, "*?[")) {
		d.cannot("%s: ethernets, %s is for all interfaces that match %q, and not for %s alone", file, d.Definition, name.Value, d.Link)
	}
	if mtu := mapping(nic, "mtu"); mtu != nil {
		_, _ = fmt.Sscan(mtu.Value, &d.MTU)
	}
	return true, nil
}

// readNetplanStack looks for what stands on the link already.
func readNetplanStack(d *Description, file, kind string, all *yaml.Node) {
	if all == nil || all.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(all.Content); i += 2 {
		name, def := all.Content[i].Value, all.Content[i+1]
		on := false
		if ports := mapping(def, "interfaces"); ports != nil {
			on = slices.ContainsFunc(ports.Content, func(n *yaml.Node) bool { return n.Value == d.Definition })
		}
		if link := mapping(def, "link"); link != nil {
			on = on || link.Value == d.Definition
		}
		switch {
		case !on:
		case kind == "bridges":
			d.Bridge = name
		default:
			d.cannot("%s: %s, %s stands on it", file, kind, name)
		}
	}
}
