package api

import (
	"context"
	"os"
)

// CaptureRequest asks for a socket on which packets can be read.
type CaptureRequest struct {
	Target string `json:"target" minLength:"1" maxLength:"64" doc:"A guest, a port (the tap's name) or a network"`
}

// CapturePoint is where packets are read.
type CapturePoint struct {
	Kind      string   `json:"kind" enum:"port,network" doc:"A port carries one guest's packets; on a network's bridge all are seen that cross it"`
	Link      string   `json:"link" doc:"Name of the interface"`
	Index     int      `json:"index" doc:"Index of the interface: bind to it after a filter is attached"`
	Host      string   `json:"host" doc:"Name of this host"`
	Network   string   `json:"network,omitempty"`
	Bridge    string   `json:"bridge,omitempty" doc:"What the port stands on"`
	Shared    bool     `json:"shared" doc:"That is a NIC which guests share, and no bridge"`
	Guest     string   `json:"guest,omitempty"`
	MAC       string   `json:"mac,omitempty" doc:"Of the guest's NIC, or of the bridge"`
	Addresses []string `json:"addresses" nullable:"false"`
}

// OpenCapture asks for a packet socket (packet(7)) that the caller owns. It is not
// bound: nothing is received until the caller binds it to Index, after it attached
// a filter.
func (c *Client) OpenCapture(ctx context.Context, r CaptureRequest) (CapturePoint, *os.File, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return CapturePoint{}, nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	fc := &descriptorConn{UnixConn: conn}
	var point CapturePoint
	err = exchange(ctx, fc, "/captures/open", r, &point, func() (int, error) { return 1, nil })
	if err != nil {
		fc.closeAll()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return CapturePoint{}, nil, err
	}
	return point, fc.files("capture on " + point.Link)[0], nil
}
