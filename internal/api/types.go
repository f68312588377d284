// Package api holds what goes over the wire between the daemon and its
// clients, version 1, and the Go client.
//
// It owns the names and the meaning of JSON fields, the form of errors and the
// way in which descriptors are handed over. It does not know the engine or how
// answers are found (that is rest), nor how they are shown (that is cli).
// Field names are snake_case, addresses are strings, lists are never null.
// Within a version, fields are only ever added.
//
// Start reading at Change and Status below; the document is in document.go,
// the client in client.go, descriptors in descriptors.go.
package api

import "time"

// Version is the version of the wire; it is the first part of every path.
const Version = "v1"

// DefaultSocket is where the daemon listens unless told otherwise.
const DefaultSocket = "/run/drawbridge/drawbridge.sock"

// Change is what became, or for a dry run would become, of a command.
type Change struct {
	ID           string      `json:"id" doc:"Name of the change; empty for a dry run and when there was nothing to do"`
	Title        string      `json:"title" doc:"What was asked, in a few words"`
	Phase        string      `json:"phase" doc:"One of applying, verifying, waiting, confirmed, rolling-back, rolled-back, stuck; empty for a dry run"`
	DryRun       bool        `json:"dry_run"`
	NothingToDo  bool        `json:"nothing_to_do" doc:"Everything was as asked already"`
	Risk         string      `json:"risk" doc:"The worst that the steps can do while they are carried out: none, guest or host"`
	Steps        []Step      `json:"steps" nullable:"false"`
	Cuts         []string    `json:"cuts" nullable:"false" doc:"Guests (or taps, where no guest is known) that lose their network"`
	Notes        []string    `json:"notes" nullable:"false" doc:"Remarks for the person who asked, one line each"`
	Problem      string      `json:"problem,omitempty" doc:"Why the change was taken back or is stuck"`
	Proof        string      `json:"proof,omitempty" doc:"What was seen of a change that confirmed itself"`
	Seen         []Fact      `json:"seen,omitempty" nullable:"false" doc:"What is so before a change that puts the host's own connections at risk: links, addresses, routes, DNS, who manages them, and whoever asks"`
	Conditions   []Condition `json:"conditions,omitempty" nullable:"false" doc:"What has to be seen for a change to confirm itself, where that was asked for"`
	Who          string      `json:"who,omitempty" doc:"Who asked for a change that a person has to decide on"`
	Files        []string    `json:"files" nullable:"false" doc:"Files of the host's own network configuration that change with the confirmation"`
	Left         []Step      `json:"left,omitempty" nullable:"false" doc:"What of a stuck change could not be taken back: these steps are to be done by hand"`
	DeadlineSecs *int        `json:"deadline_s,omitempty" doc:"Seconds until the change is taken back unless it is confirmed"`
	DurationMS   float64     `json:"duration_ms" doc:"How long the daemon worked on it"`
	Picture      *Topology   `json:"picture,omitempty" doc:"What the change brings and takes away, if a dry run was asked to draw it"`
}

// Fact is something that is so before a change.
type Fact struct {
	Name   string   `json:"name"`
	Values []string `json:"values" nullable:"false"`
}

// Condition is one thing that has to be seen for a change to confirm itself.
type Condition struct {
	What   string `json:"what"`
	Met    bool   `json:"met"`
	Detail string `json:"detail" doc:"What is seen instead while it is not met"`
}

// Step is one thing that is made, changed or taken away.
type Step struct {
	Verb   string `json:"verb" enum:"create,change,delete"`
	Kind   string `json:"kind" doc:"Sort of the thing: link, address, sysctl, element, dhcp-pool and so on"`
	Name   string `json:"name"`
	Detail string `json:"detail" doc:"The attributes that it gets, or those that change, as old -> new"`
}

// Network is one network: what is wanted of it, and how it really is.
type Network struct {
	Name         string        `json:"name"`
	UUID         string        `json:"uuid"`
	Mode         string        `json:"mode"`
	Bridge       string        `json:"bridge"`
	MAC          string        `json:"mac"`
	MTU          int           `json:"mtu" doc:"Bytes"`
	Subnets      []Subnet      `json:"subnets" nullable:"false"`
	IPv6         string        `json:"ipv6" doc:"auto or off; looked at only while there is no IPv6 subnet"`
	Domain       string        `json:"domain"`
	Uplinks      []string      `json:"uplinks" nullable:"false" doc:"Links of the host that are ports of the bridge"`
	Adopt        bool          `json:"adopt" doc:"The bridge is the host's own"`
	STP          bool          `json:"stp"`
	VLAN         int           `json:"vlan" doc:"VLAN of the LAN that guests are in without knowing of it; 0 for none"`
	VLANTrunk    string        `json:"vlan_trunk" doc:"VLANs that guests get with their tags"`
	AllowUsers   []string      `json:"allow_users" nullable:"false"`
	Reservations []Reservation `json:"reservations" nullable:"false"`
	Autostart    bool          `json:"autostart"`
	Started      bool          `json:"started" doc:"The network shall run"`
	Running      bool          `json:"running" doc:"All that the network needs is there as wanted"`
	State        string        `json:"state" enum:"running,stopped,degraded" doc:"degraded: it shall run, and something is not as wanted"`
	Problems     []string      `json:"problems" nullable:"false"`
	Remarks      []string      `json:"remarks" nullable:"false" doc:"What is to be known of a network of this mode, one line each"`
	Guests       int           `json:"guests" doc:"Ports in use"`
	Leases       int           `json:"leases"`
	PoolSize     int           `json:"pool_size" doc:"Addresses that DHCP may give away"`
}

// Mode is a word for what a network does with its traffic.
type Mode struct {
	Name    string `json:"name"`
	Summary string `json:"summary"`
	Default bool   `json:"default"`
	// Forwards: networks of this mode can have some.
	Forwards bool `json:"forwards" doc:"Whether forwards can lead to its guests"`
}

// Lease is an address given to a guest.
type Lease struct {
	Network  string     `json:"network"`
	MAC      string     `json:"mac"`
	Address  string     `json:"address"`
	Hostname string     `json:"hostname" doc:"What the guest calls itself"`
	Guest    string     `json:"guest" doc:"The name that DNS answers with"`
	Expires  *time.Time `json:"expires,omitempty" doc:"Missing: never"`
}

// Guest is a machine with NICs on networks.
type Guest struct {
	Name string     `json:"name"`
	NICs []GuestNIC `json:"nics" nullable:"false"`
}

// GuestNIC is one NIC of a guest.
type GuestNIC struct {
	Network   string     `json:"network"`
	Bridge    string     `json:"bridge"`
	Tap       string     `json:"tap"`
	MAC       string     `json:"mac"`
	Addresses []string   `json:"addresses" nullable:"false"`
	Since     *time.Time `json:"since,omitempty" doc:"When the NIC was plugged in, where that is known"`
}

// Port is a guest's NIC on a network, seen from the host.
type Port struct {
	Network   string   `json:"network"`
	Bridge    string   `json:"bridge"`
	Tap       string   `json:"tap"`
	Guest     string   `json:"guest"`
	MAC       string   `json:"mac" doc:"Empty until known"`
	Addresses []string `json:"addresses" nullable:"false"`
	VLAN      int      `json:"vlan" doc:"VLAN that the bridge has the guest in without its knowing of it; 0 for none"`
	VLANTrunk string   `json:"vlan_trunk" doc:"VLANs that the guest gets with their tags"`
	Made      string   `json:"made" doc:"qemu, attach, bridge-helper, or other for a tap that another program plugged in"`
	Owner     *int     `json:"owner,omitempty" doc:"User id that the port belongs to; missing for none"`
	PID       int      `json:"pid,omitempty"`
	Process   string   `json:"process,omitempty"`
	RxBytes   uint64   `json:"rx_bytes" doc:"Received by the guest"`
	TxBytes   uint64   `json:"tx_bytes" doc:"Sent by the guest"`
	RxPackets uint64   `json:"rx_packets"`
	TxPackets uint64   `json:"tx_packets"`
}

// Status says in one answer what runs, what is wrong and what is pending.
type Status struct {
	Version     string    `json:"version"`
	PID         int       `json:"pid"`
	Started     time.Time `json:"started"`
	UptimeSecs  int64     `json:"uptime_s"`
	ServicesPID int       `json:"services_pid" doc:"Process of the guest services (DHCP, DNS, router advertisements); 0 if none runs"`
	Revision    uint64    `json:"revision" doc:"Counts the committed changes of the document"`
	Repairs     int       `json:"repairs" doc:"What was put back since the daemon started"`
	Networks    []Network `json:"networks" nullable:"false"`
	Ports       int       `json:"ports"`
	Leases      int       `json:"leases"`
	Problems    []string  `json:"problems" nullable:"false" doc:"Of the host and of networks, one line each, worst first"`
	Changes     []Change  `json:"changes" nullable:"false" doc:"Changes that are not finished"`
}
