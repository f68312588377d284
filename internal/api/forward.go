package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Forward is an open door: what arrives at Listen goes to a guest.
type Forward struct {
	Network string     `json:"network,omitempty" doc:"Left out: found by the guest; in documents not used"`
	Listen  string     `json:"listen" doc:"[LISTEN_IP:]PORT[-PORT], an IPv6 address in brackets; no address: every address of the host. With proto all: the address alone"`
	Guest   string     `json:"guest" doc:"GUEST[:PORT]: name, hardware address or address; left out, the port is the same"`
	Proto   string     `json:"proto,omitempty" doc:"tcp, udp, sctp, both, or all for 1:1 NAT of one address; left out: tcp"`
	From    []string   `json:"from,omitempty" nullable:"false" doc:"Prefixes that may use it; left out: everybody"`
	Until   *time.Time `json:"until,omitempty" doc:"It closes by itself then"`
	Comment string     `json:"comment,omitempty"`
}

// ForwardRequest asks for a forward.
type ForwardRequest struct {
	Forward
	Force        bool `json:"force,omitempty" doc:"Go on although a program of the host listens there, a firewall rule takes or drops what comes, or you might not come back"`
	ListenAnyway bool `json:"listen_anyway,omitempty" doc:"Go on although the address is not the host's"`
}

// ForwardStatus is a forward and how it is.
type ForwardStatus struct {
	ID string `json:"id" doc:"PROTO/[LISTEN_IP:]PORT[-PORT], as forward rm takes it"`
	Forward
	Address     string `json:"address" doc:"Where it leads just now; empty while it waits"`
	Waiting     string `json:"waiting" doc:"Why it leads nowhere; empty if it leads somewhere"`
	Connections uint64 `json:"connections" doc:"Since it was made"`
	Packets     uint64 `json:"packets" doc:"Both directions"`
	Bytes       uint64 `json:"bytes" doc:"Both directions"`
	// Reached is left out where it was not looked at: while the forward waits, and
	// where there are more than 256.
	Reached []ReachedFrom `json:"reached,omitempty" nullable:"false" doc:"From where it can be used just now, by the rules of all firewalls; left out while it waits, and for more than 256 forwards"`
}

// ReachedFrom is whether a forward can be used from somewhere.
type ReachedFrom struct {
	From    string `json:"from" doc:"lan, internet, host or guests"`
	Link    string `json:"link" doc:"Where packets come in; empty for the host itself"`
	Verdict string `json:"verdict" enum:"accepted,dropped,rejected,unknown" doc:"unknown: it could not be told"`
	Why     string `json:"why" doc:"What is in the way, and how to let it through; empty if it is reached"`
	Owner   string `json:"owner" doc:"Whose rule it is"`
}

// Forwards lists the forwards of all networks.
func (c *Client) Forwards(ctx context.Context) ([]ForwardStatus, error) {
	return get[[]ForwardStatus](ctx, c, "/forwards")
}

// ShowForwards lists those that a selector names, [PROTO/][LISTEN_IP:]PORT.
func (c *Client) ShowForwards(ctx context.Context, selector string) ([]ForwardStatus, error) {
	return get[[]ForwardStatus](ctx, c, "/forwards/"+url.PathEscape(selector))
}

// AddForward opens doors.
func (c *Client) AddForward(ctx context.Context, r ForwardRequest, o Options) (Change, error) {
	return send[Change](ctx, c, http.MethodPost, "/forwards"+o.query(), r)
}

// RemoveForward closes the doors that a selector names.
func (c *Client) RemoveForward(ctx context.Context, selector string, o Options) (Change, error) {
	return send[Change](ctx, c, http.MethodDelete, "/forwards/"+url.PathEscape(selector)+o.query(), nil)
}
