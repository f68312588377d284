package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// WhyRequest asks for the path between two ends.
type WhyRequest struct {
	// From and To: a guest, host, lan, internet or an address.
	From, To string
	// Proto is tcp, udp, sctp or icmp; "" is tcp with a port, else icmp. Port 0 asks
	// with a ping.
	Proto string
	Port  uint16
	// Probe sends a packet, and follows it.
	Probe bool
	// Draw asks for the path as SVG too, Width pixels wide; 0 leaves that to the daemon.
	Draw  bool
	Width int
}

// Path is what becomes of a packet, and of its answer.
type Path struct {
	From     string     `json:"from"`
	To       string     `json:"to"`
	Proto    string     `json:"proto"`
	Port     uint16     `json:"port,omitempty"`
	Verdict  string     `json:"verdict" enum:"accepted,dropped,rejected,unknown" doc:"accepted: it arrives, and the answer comes back"`
	Sentence string     `json:"sentence" doc:"Where it ends, in one sentence"`
	Mend     string     `json:"mend" doc:"What would mend it; empty if nothing is known"`
	Steps    []PathStep `json:"steps" nullable:"false"`
	Drawing  string     `json:"drawing,omitempty" doc:"The path as SVG, if that was asked for"`
	Flow     *PathFlow  `json:"flow,omitempty" doc:"A connection between the same ends that is there already; left out if there is none"`
	MTU      int        `json:"mtu,omitempty" doc:"The largest packet, in bytes, that passes everywhere on the way there; left out if it does not arrive"`
	Notes    []string   `json:"notes,omitempty" nullable:"false" doc:"What else is to be said"`
	Probe    *Probe     `json:"probe,omitempty" doc:"What happened to a packet that was sent; left out if none was"`
}

// PathStep is one place on a path.
type PathStep struct {
	Back    bool   `json:"back" doc:"On the way of the answer"`
	Place   string `json:"place" enum:"port,bridge,chain,nat,route,link,end" doc:"The sort of place; end: one of the ends, or the machine next to the host on the way"`
	Where   string `json:"where" doc:"Port, link, chain, route"`
	What    string `json:"what" doc:"What happened there; for a chain the rule that decides"`
	Verdict string `json:"verdict" enum:"accepted,dropped,rejected,unknown"`
	Handle  uint64 `json:"handle,omitempty" doc:"Of the rule"`
	Owner   string `json:"owner,omitempty" doc:"Whose rule it is"`
}

// PathFlow is a tracked connection between the same ends: rules may treat it
// otherwise than a new one, and it is translated as when it began.
type PathFlow struct {
	Verdict     string `json:"verdict" enum:"accepted,dropped,rejected,unknown"`
	Sentence    string `json:"sentence" doc:"How it fares, beside a new one"`
	Established bool   `json:"established" doc:"Somebody has answered"`
	From        string `json:"from" doc:"Address and port"`
	To          string `json:"to" doc:"Address and port before translation"`
	Reaches     string `json:"reaches,omitempty" doc:"Address and port that it goes to; left out if it does not get there"`
	More        int    `json:"more,omitempty" doc:"How many others there are"`
}

// Probe is what happened to a packet that was really sent.
type Probe struct {
	Sent    string      `json:"sent" doc:"What was sent, and how"`
	Verdict string      `json:"verdict" enum:"accepted,dropped,rejected,unknown" doc:"What the kernel's trace shows; unknown if the packet was not seen"`
	Agrees  bool        `json:"agrees" doc:"Whether the trace shows what was said"`
	Trace   []TraceStep `json:"trace" nullable:"false"`
}

// TraceStep is one thing that the kernel told about the packet.
type TraceStep struct {
	Chain   string `json:"chain" doc:"Family, table and chain"`
	Verdict string `json:"verdict"`
	Handle  uint64 `json:"handle,omitempty" doc:"Of the rule; none for a policy"`
	Packet  string `json:"packet,omitempty" doc:"The packet as it was there"`
}

// Why says what becomes of a packet between two ends.
func (c *Client) Why(ctx context.Context, r WhyRequest) (Path, error) {
	q := url.Values{"from": {r.From}, "to": {r.To}}
	if r.Proto != "" {
		q.Set("proto", r.Proto)
	}
	if r.Port != 0 {
		q.Set("port", strconv.Itoa(int(r.Port)))
	}
	if r.Draw {
		q.Set("draw", "svg")
		q.Set("width", strconv.Itoa(r.Width))
	}
	if r.Probe {
		return send[Path](ctx, c, http.MethodPost, "/why/probe?"+q.Encode(), struct{}{})
	}
	return get[Path](ctx, c, "/why?"+q.Encode())
}
