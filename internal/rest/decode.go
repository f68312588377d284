package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"drawbridge/internal/api"
	"drawbridge/internal/spec"
)

// decodeDocument reads a document, YAML or JSON, strictly: unknown and repeated
// keys, wrong types, aliases and a second document are refused, with the line.
// All errors are *spec.InvalidError.
func decodeDocument(raw []byte) (spec.Document, error) {
	root, err := parseYAML(raw)
	if err != nil {
		return spec.Document{}, err
	}
	var nets []*yaml.Node
	if err := fields(root, "document", map[string]reader{"networks": sequence(&nets)}); err != nil {
		return spec.Document{}, err
	}
	if !hasKey(root, "networks") {
		// An empty file would remove everything; say so on purpose.
		return spec.Document{}, at(root, "document", "it has no networks; write \"networks: []\" to remove all of them")
	}
	out := spec.Document{Networks: map[spec.NetworkName]spec.Network{}}
	for _, node := range nets {
		n, err := decodeNetwork(node)
		if err != nil {
			return spec.Document{}, err
		}
		if _, twice := out.Networks[n.Name]; twice {
			return spec.Document{}, at(node, "networks", fmt.Sprintf("network %q is there twice", n.Name))
		}
		out.Networks[n.Name] = n
	}
	return out, nil
}

func parseYAML(raw []byte) (*yaml.Node, error) {
	if json.Valid(raw) {
		// JSON may be indented with tabs, which YAML forbids. Valid JSON has no
		// tab within a string, so each is space between tokens.
		raw = bytes.ReplaceAll(raw, []byte{'\t'}, []byte{' '})
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, &spec.InvalidError{Field: "document", Reason: "it is empty; write \"networks: []\" to remove all networks"}
	} else if err != nil {
		return nil, &spec.InvalidError{Field: "document", Reason: strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, &spec.InvalidError{Field: "document", Reason: "there is more than one document in it"}
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, &spec.InvalidError{Field: "document", Reason: "it is not a mapping with the key networks"}
	}
	return doc.Content[0], nil
}

// at is an error with its place.
func at(n *yaml.Node, path, reason string) error {
	return &spec.InvalidError{Field: "line " + strconv.Itoa(n.Line) + ", " + path, Reason: reason}
}

// located adds the place to an error about a value.
func located(n *yaml.Node, path string, err error) error {
	if invalid, ok := errors.AsType[*spec.InvalidError](err); ok {
		return at(n, path+"."+invalid.Field, invalid.Reason)
	}
	return err
}

// reader takes one value; path is for errors.
type reader func(n *yaml.Node, path string) error

// fields reads a mapping whose keys are all known.
func fields(n *yaml.Node, path string, known map[string]reader) error {
	if n.Kind != yaml.MappingNode {
		return at(n, path, "here must be a mapping (key: value), not "+kindOf(n))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, ok := known[key.Value]
		if key.Kind != yaml.ScalarNode || !ok {
			return at(key, path, fmt.Sprintf("unknown key %q%s; there are %s", key.Value, spec.Meant(key.Value, slices.Collect(maps.Keys(known))), sortedKeys(known)))
		}
		if seen[key.Value] {
			return at(key, path, fmt.Sprintf("key %q is there twice", key.Value))
		}
		seen[key.Value] = true
		if isNull(value) {
			continue // left open
		}
		if err := read(value, path+"."+key.Value); err != nil {
			return err
		}
	}
	return nil
}

func hasKey(n *yaml.Node, key string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key && !isNull(n.Content[i+1]) {
			return true
		}
	}
	return false
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias (write it out)"
	}
	return strconv.Quote(n.Value)
}

func text(to *string) reader {
	return func(n *yaml.Node, path string) error {
		if n.Kind != yaml.ScalarNode {
			return at(n, path, "here must be a single value, not "+kindOf(n))
		}
		*to = n.Value
		return nil
	}
}

func number(to *int) reader {
	return func(n *yaml.Node, path string) error {
		v, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			return at(n, path, "here must be a number, not "+kindOf(n))
		}
		*to = v
		return nil
	}
}

func boolean(to **bool) reader {
	return func(n *yaml.Node, path string) error {
		var v bool
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || n.Decode(&v) != nil {
			return at(n, path, "here must be true or false, not "+kindOf(n))
		}
		*to = &v
		return nil
	}
}

// boolOf reads a boolean that is false if it is left out.
func boolOf(to *bool) reader {
	return func(n *yaml.Node, path string) error {
		var v *bool
		err := boolean(&v)(n, path)
		if err == nil {
			*to = *v
		}
		return err
	}
}

func sequence(to *[]*yaml.Node) reader {
	return func(n *yaml.Node, path string) error {
		if n.Kind != yaml.SequenceNode {
			return at(n, path, "here must be a list, not "+kindOf(n))
		}
		*to = n.Content
		return nil
	}
}

func words(to *[]string) reader {
	return func(n *yaml.Node, path string) error {
		var nodes []*yaml.Node
		if err := sequence(&nodes)(n, path); err != nil {
			return err
		}
		for _, w := range nodes {
			var s string
			if err := text(&s)(w, path); err != nil {
				return err
			}
			*to = append(*to, s)
		}
		return nil
	}
}

func decodeNetwork(node *yaml.Node) (spec.Network, error) {
	var in api.DocumentNetwork
	var subnets, reservations, forwards []*yaml.Node
	path := "networks"
	if err := fields(node, path, map[string]reader{
		"name": text(&in.Name), "mode": text(&in.Mode), "bridge": text(&in.Bridge), "mtu": number(&in.MTU),
		"subnets": sequence(&subnets), "ipv6": text(&in.IPv6), "domain": text(&in.Domain),
		"uplinks": words(&in.Uplinks), "adopt": boolOf(&in.Adopt), "stp": boolOf(&in.STP), "vlan": number(&in.VLAN), "vlan_trunk": text(&in.VLANTrunk), "allow_users": words(&in.AllowUsers), "autostart": boolean(&in.Autostart), "started": boolean(&in.Started),
		"reservations": sequence(&reservations), "forwards": sequence(&forwards), "uuid": text(&in.UUID), "mac": text(&in.MAC),
	}); err != nil {
		return spec.Network{}, err
	}
	// First without what has places of its own, then that.
	n, err := networkFrom(in)
	if err != nil {
		return n, located(node, path, err)
	}
	path += "." + in.Name
	var own []spec.Subnet
	for _, s := range subnets {
		sub, err := decodeSubnet(s, path+".subnets")
		if err != nil {
			return n, err
		}
		own = append(own, sub)
	}
	n.Subnets = append(own, n.Subnets...)
	for _, r := range reservations {
		res, err := decodeReservation(r, path+".reservations")
		if err != nil {
			return n, err
		}
		if indexOfMAC(n, res.MAC) >= 0 {
			return n, at(r, path+".reservations", res.MAC+" is reserved twice")
		}
		n = n.Reserve(res)
	}
	return decodeForwards(forwards, n, path+".forwards")
}

func decodeSubnet(node *yaml.Node, path string) (spec.Subnet, error) {
	var in api.Subnet
	if node.Kind == yaml.ScalarNode {
		in.CIDR = node.Value
	} else if err := fields(node, path, map[string]reader{
		"cidr": text(&in.CIDR), "gateway": text(&in.Gateway), "dhcp_range": text(&in.DHCPRange),
		"lease_time": text((*string)(&in.LeaseTime)),
	}); err != nil {
		return spec.Subnet{}, err
	}
	s, err := subnetFrom(in)
	return s, located(node, path, err)
}

func decodeReservation(node *yaml.Node, path string) (spec.Reservation, error) {
	var in api.Reservation
	if err := fields(node, path, map[string]reader{
		"mac": text(&in.MAC), "ip": text(&in.IP), "hostname": text(&in.Hostname),
	}); err != nil {
		return spec.Reservation{}, err
	}
	r, err := reservationFrom(in)
	return r, located(node, path, err)
}

func sortedKeys(known map[string]reader) string {
	return strings.Join(slices.Sorted(maps.Keys(known)), ", ")
}
