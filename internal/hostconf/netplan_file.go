package hostconf

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"drawbridge/internal/host"
)

// What netplan says of an Ethernet that is about the NIC and not about its
// addresses; it stays there (netplan-yaml(5)).
var netplanNICKeys = []string{
	"match", "set-name", "wakeonlan", "emit-lldp", "macaddress", "infiniband-mode", "renderer",
	"virtual-function-count", "embedded-switch-mode", "delay-virtual-functions-rebind", "link",
	"receive-checksum-offload", "transmit-checksum-offload", "tcp-segmentation-offload", "tcp6-segmentation-offload",
	"generic-segmentation-offload", "generic-receive-offload", "large-receive-offload", "regulatory-domain", "networkmanager",
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

// rewriteNetplan turns one file into what it shall be: what it says of the Ethernet
// id is said of the bridge, and what is about the NIC stays. whole adds what makes
// the bridge; that is for the first of the files. Comments and keys that nobody
// here knows go where their line goes.
func rewriteNetplan(content []byte, id string, p host.Profile, ports []string, whole bool) ([]byte, error) {
	doc, network, err := parseNetplan(content)
	if err != nil {
		return nil, err
	}
	nic := mapping(mapping(network, "ethernets"), id)
	if nic == nil && !whole {
		return content, nil
	}
	if nic == nil || nic.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("it has no mapping for ethernets, %s", id)
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
	if whole {
		dress(network, nic, bridge, id, p, ports)
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

// dress says what makes the bridge and its ports.
func dress(network, nic, bridge *yaml.Node, id string, p host.Profile, ports []string) {
	put(bridge, "interfaces", list(append([]string{id}, ports...)...))
	put(bridge, "macaddress", text(p.MAC))
	parameters := child(bridge, "parameters")
	put(parameters, "stp", scalar(fmt.Sprint(p.STP)))
	put(parameters, "forward-delay", scalar("0"))
	quiet := func(n *yaml.Node) {
		put(n, "dhcp4", scalar("false"))
		put(n, "dhcp6", scalar("false"))
		put(n, "accept-ra", scalar("false"))
		put(n, "link-local", list())
	}
	quiet(nic)
	for _, port := range ports {
		quiet(child(child(network, "ethernets"), port))
	}
	if strings.TrimSpace(nic.HeadComment) == "" {
		nic.HeadComment = ""
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
	nic := mapping(mapping(network, "ethernets"), d.Definition)
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
		if mapping(nic, key) != nil {
			d.cannot("%s: ethernets, %s has %q, which a bridge cannot have", file, d.Definition, key)
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
