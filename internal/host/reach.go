package host

import (
	"fmt"
	"net/netip"
)

// Reach is by what a change that puts the host's own connections at risk can
// tell by itself that these still work: whoever asked is reached, and what the
// host depends on answers.
type Reach struct {
	// Connections are those over which whoever asked is reached; none if none was
	// found. New data over one of them is enough.
	Connections []Connection `json:",omitempty"`
	// Peers are the gateways and resolvers that answered before the change. All of
	// them have to answer again.
	Peers []Peer `json:",omitempty"`
}

// Connection is one TCP connection of this host with another machine.
type Connection struct {
	Local, Remote netip.AddrPort
	// Cookie is the kernel's own number of the socket, never used again before the
	// next boot (sock_diag(7), idiag_cookie).
	Cookie uint64
}

// String names the other end.
func (c Connection) String() string {
	return fmt.Sprintf("%s to port %d", c.Remote, c.Local.Port())
}

// Traffic is what went over a connection since it began, in bytes.
type Traffic struct {
	// Written is what was given to the connection to be sent, Acked what of it the
	// other end said it has.
	Written, Acked uint64
}

// Role is what the host needs another machine for.
type Role string

// The roles.
const (
	RoleGateway  Role = "gateway"
	RoleResolver Role = "resolver"
)

// Peer is a machine that the host depends on.
type Peer struct {
	Role Role
	Addr netip.Addr
}

// String is its role and its address.
func (p Peer) String() string { return string(p.Role) + " " + p.Addr.String() }
