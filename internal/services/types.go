package services

import "net/netip"

// Neighbour is an address that the kernel saw a guest use.
type Neighbour struct {
	MAC  string     `json:"mac"`
	Addr netip.Addr `json:"addr"`
}

// Report is what the process tells about itself.
type Report struct {
	PID int `json:"pid"`
	// Upstreams are the DNS servers that guests' questions go to, and From where
	// they come from, or why there are none.
	Upstreams []string `json:"upstreams"`
	From      string   `json:"from"`
	// Problems are lines for a person: a damaged lease file, a full pool.
	Problems []string `json:"problems"`
}
