package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Document is all that is wanted of one host, as it is exported and applied.
// What is left out is left open: it keeps what it is, or is settled once.
type Document struct {
	Networks []DocumentNetwork `json:"networks" nullable:"false"`
}

// DocumentNetwork is one network in a Document.
type DocumentNetwork struct {
	Name         string        `json:"name"`
	Mode         string        `json:"mode,omitempty" doc:"What the network does with its traffic; see GET /v1/modes"`
	Bridge       string        `json:"bridge,omitempty"`
	MTU          int           `json:"mtu,omitempty" doc:"Bytes; left out: 1500"`
	Subnets      []Subnet      `json:"subnets,omitempty" nullable:"false"`
	IPv6         string        `json:"ipv6,omitempty" doc:"auto, off, or a prefix that is added to the subnets"`
	Domain       string        `json:"domain,omitempty"`
	Uplinks      []string      `json:"uplinks,omitempty" nullable:"false" doc:"Mode bridged: links of the host that become ports of the bridge; the first gives it hardware address, MTU, addresses and routes"`
	Adopt        bool          `json:"adopt,omitempty" doc:"Mode bridged: the bridge is the host's own and is used as it is"`
	STP          bool          `json:"stp,omitempty" doc:"Mode bridged: the bridge speaks the spanning tree protocol"`
	VLAN         int           `json:"vlan,omitempty" doc:"Mode bridged: VLAN of the LAN (1 to 4094) that guests are in without knowing of it"`
	VLANTrunk    string        `json:"vlan_trunk,omitempty" doc:"Mode bridged: VLANs that guests get with their tags, as 30,40-49; what has no tag is dropped unless vlan is given too"`
	AllowUsers   []string      `json:"allow_users,omitempty" nullable:"false"`
	Autostart    *bool         `json:"autostart,omitempty" doc:"Left out: true"`
	Started      *bool         `json:"started,omitempty" doc:"Left out: true"`
	Reservations []Reservation `json:"reservations,omitempty" nullable:"false"`
	Forwards     []Forward     `json:"forwards,omitempty" nullable:"false"`
	UUID         string        `json:"uuid,omitempty"`
	MAC          string        `json:"mac,omitempty" doc:"Hardware address of the bridge"`
}

// Subnet is one prefix of a network. In a document it may also be written as
// a plain string, the prefix alone.
type Subnet struct {
	CIDR      string    `json:"cidr" doc:"The prefix; host bits, if there are any, name the gateway"`
	Gateway   string    `json:"gateway,omitempty" doc:"The host's own address in it"`
	DHCPRange string    `json:"dhcp_range,omitempty" doc:"A-B, or off to give away reserved addresses only; IPv4"`
	LeaseTime LeaseTime `json:"lease_time,omitempty" doc:"Seconds, or a duration such as 1h; IPv4"`
}

// LeaseTime is a lease time in seconds. It is written as a number; a duration
// such as "1h30m" is read too.
type LeaseTime string

// MarshalJSON writes a number where it is one.
func (t LeaseTime) MarshalJSON() ([]byte, error) {
	if t == "" || strings.Trim(string(t), "0123456789") != "" || len(t) > 9 || t[0] == '0' {
		return json.Marshal(string(t))
	}
	return []byte(t), nil
}

// UnmarshalJSON reads a number or a string.
func (t *LeaseTime) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err == nil {
		*t = LeaseTime(s)
		return nil
	}
	var n json.Number
	if err := json.Unmarshal(b, &n); err != nil {
		return fmt.Errorf("lease time %s: %w", b, err)
	}
	*t = LeaseTime(n)
	return nil
}

// Reservation ties an address, and if wanted a name, to a hardware address.
type Reservation struct {
	Network  string `json:"network,omitempty" doc:"In lists"`
	MAC      string `json:"mac"`
	IP       string `json:"ip"`
	Hostname string `json:"hostname,omitempty"`
}

// Settings changes attributes of a network by the names that users type.
type Settings struct {
	Settings map[string]string `json:"settings"`
}

// Extension is by how much the deadline of a change moves.
type Extension struct {
	Seconds int `json:"seconds" minimum:"1" maximum:"3600"`
}

// PortRequest asks for a port.
type PortRequest struct {
	Network   string `json:"network,omitempty" doc:"This or bridge"`
	Bridge    string `json:"bridge,omitempty"`
	Guest     string `json:"guest,omitempty" doc:"Name of the guest; left out: the tap's"`
	MAC       string `json:"mac,omitempty" doc:"Left out: made up, stable for the guest's name and the network"`
	NoMAC     bool   `json:"no_mac,omitempty" doc:"The hardware address is the guest's choice and shall be learnt"`
	Queues    int    `json:"queues,omitempty" minimum:"0" maximum:"256"`
	User      string `json:"user,omitempty" doc:"User that may open the persistent tap; only for attaching"`
	VLAN      int    `json:"vlan,omitempty" minimum:"0" maximum:"4094" doc:"VLAN of the LAN that the guest is in without knowing of it; left out, with vlan_trunk: the network's"`
	VLANTrunk string `json:"vlan_trunk,omitempty" doc:"VLANs that the guest gets with their tags, as 30,40-49"`
	Made      string `json:"made,omitempty" enum:"qemu,attach,bridge-helper"`
}

// Opened is the line that comes with the descriptors of an opened port: first
// Taps of them, one a queue, then Vhosts, one a queue or none.
type Opened struct {
	Port   Port `json:"port"`
	Taps   int  `json:"taps"`
	Vhosts int  `json:"vhosts"`
}

// JSON writes a value as indented JSON. What a terminal would obey although
// encoding/json leaves it as it is (DEL, C1, marks of direction) is escaped.
func JSON(v any) ([]byte, error) {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	return append(escape(raw), '\n'), nil
}

// YAML writes a value of this package as YAML, with its JSON names and in the
// order of its fields, as careful about terminals as JSON.
func YAML(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode YAML: %w", err)
	}
	// Every JSON text is YAML, once it has no characters that YAML forbids:
	// reading it as nodes keeps the order of fields.
	var doc yaml.Node
	if err := yaml.Unmarshal(escape(raw), &doc); err != nil {
		return nil, fmt.Errorf("encode YAML: %w", err)
	}
	plain(&doc)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, fmt.Errorf("encode YAML: %w", err)
	}
	return escape(b.Bytes()), nil
}

// escape writes characters of the basic plane that are not for display as \u,
// which means the same in a JSON string and in a double-quoted YAML scalar, the
// only places where they can stand.
func escape(text []byte) []byte {
	var b bytes.Buffer
	for _, r := range string(text) {
		if r != ' ' && r != '\n' && r <= 0xffff && !unicode.IsPrint(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.Bytes()
}

// quoted are strings that YAML 1.1 takes for booleans or base-60 numbers; other
// programs may still read our files so. It is compiled when it is first needed,
// since most commands write no YAML.
var quoted = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(?i:y|n|yes|no|on|off)$|^[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?$`)
})

func plain(n *yaml.Node) {
	switch n.Kind {
	case yaml.ScalarNode:
		odd := strings.ContainsFunc(n.Value, func(r rune) bool { return !unicode.IsPrint(r) })
		if !quoted().MatchString(n.Value) && !odd {
			n.Style = 0
		}
	case yaml.MappingNode, yaml.SequenceNode:
		if len(n.Content) > 0 {
			n.Style = 0
		}
	}
	for _, c := range n.Content {
		plain(c)
	}
}
