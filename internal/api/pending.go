package api

import (
	"encoding/json"
	"net/http"
)

// PendingHeader comes with every answer while a change waits for a person, is
// taken back, or is stuck. It holds a Pending as JSON.
const PendingHeader = "Drawbridge-Pending"

// Pending is the change that everybody should know of.
type Pending struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Phase string `json:"phase"`
	// DeadlineSecs is how long there is to decide, nil if nobody is waited for.
	DeadlineSecs *int `json:"deadline_s,omitempty"`
}

// Pending is what the last answer said of a change that is pending; nil if
// nothing.
func (c *Client) Pending() *Pending { return c.pending.Load() }

func (c *Client) notePending(h http.Header) {
	var p Pending
	raw := h.Get(PendingHeader)
	if raw == "" || json.Unmarshal([]byte(raw), &p) != nil {
		c.pending.Store(nil)
		return
	}
	c.pending.Store(&p)
}
