package api

import (
	"cmp"
	"context"
	"net/url"
)

// AdviceRequest says what guests are for.
type AdviceRequest struct {
	// For is production, development, laptop or ci; "" for nothing in particular.
	For string
	// Need is what guests shall be able to: inbound, lan-peer, live-migration,
	// discovery, hidden, no-internet.
	Need []string
	// Guest is a name for the commands.
	Guest   string
	Picture *View
}

// Advice is how to connect guests on this host, and why.
type Advice struct {
	Mode     string      `json:"mode" doc:"nat, bridged or isolated"`
	Why      []string    `json:"why" nullable:"false"`
	Costs    []string    `json:"costs" nullable:"false"`
	Against  []string    `json:"against" nullable:"false"`
	Commands []string    `json:"commands" nullable:"false" doc:"What to type"`
	Others   []OtherMode `json:"others" nullable:"false"`
	Evidence []string    `json:"evidence" nullable:"false" doc:"What was seen on the host"`
	Text     []string    `json:"text" nullable:"false" doc:"All of it as lines for people"`
	Picture  *Topology   `json:"picture,omitempty" doc:"What the first command would bring (added) and take away (removed); missing if nothing has to be made, or it was not asked for"`
	NoDraw   string      `json:"picture_missing,omitempty" doc:"Why there is no picture, if it was asked for"`
}

// OtherMode is a way that was not advised.
type OtherMode struct {
	Mode    string   `json:"mode" doc:"Also direct (macvtap) and routed"`
	Blocked []string `json:"blocked" nullable:"false" doc:"Why it cannot be here; empty if it can"`
	For     []string `json:"for" nullable:"false"`
	Against []string `json:"against" nullable:"false"`
}

// Advise answers "bridge or NAT?" for this host.
func (c *Client) Advise(ctx context.Context, r AdviceRequest) (Advice, error) {
	q := url.Values{}
	if r.Picture != nil {
		v := *r.Picture
		v.Draw = cmp.Or(v.Draw, "graph")
		v.query(q)
	}
	if r.For != "" {
		q.Set("for", r.For)
	}
	if r.Guest != "" {
		q.Set("guest", r.Guest)
	}
	for _, n := range r.Need {
		q.Add("need", n)
	}
	return get[Advice](ctx, c, "/advise?"+q.Encode())
}
