package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Symptom is something that is wrong, or worth knowing, with its evidence.
type Symptom struct {
	ID       string `json:"id" doc:"code:name of what it is about; it stays the same from one look to the next"`
	Code     string `json:"code" doc:"Name of the check; it keeps its meaning"`
	Severity string `json:"severity" enum:"fault,warning,note" doc:"Notes are no fault"`
	Network  string `json:"network,omitempty"`
	Guest    string `json:"guest,omitempty"`
	Link     string `json:"link,omitempty" doc:"Interface of the host"`
	Seen     string `json:"seen" doc:"The evidence"`
	Means    string `json:"means" doc:"What follows from it"`
	Fix      Fix    `json:"fix"`
}

// Fix is how a finding is mended.
type Fix struct {
	Command   string `json:"command,omitempty" doc:"What a person types"`
	Advice    string `json:"advice,omitempty" doc:"What no one command does"`
	Undo      string `json:"undo,omitempty" doc:"The command that takes it back"`
	Automatic bool   `json:"automatic" doc:"Whether doctor --fix does it"`
}

// Diagnosis is what doctor found.
type Diagnosis struct {
	Healthy  bool       `json:"healthy" doc:"Nothing but notes was found"`
	Findings []Symptom  `json:"findings" nullable:"false"`
	Checks   int        `json:"checks" doc:"How many checks there are"`
	Seen     *time.Time `json:"seen,omitempty" doc:"When it was looked; missing before the first look"`
}

// Treatment is what became of the fix of one finding.
type Treatment struct {
	Finding Symptom `json:"finding"`
	Change  Change  `json:"change"`
	Undo    string  `json:"undo,omitempty" doc:"The command that takes it back"`
}

// FixRequest asks for fixes of one kind of finding, or of all.
type FixRequest struct {
	Code  string `json:"code,omitempty" doc:"Left out: every finding that can be mended by itself"`
	About string `json:"about,omitempty" doc:"Guest or network"`
}

// Doctor looks for what is wrong with a guest or network, or with everything.
func (c *Client) Doctor(ctx context.Context, about string) (Diagnosis, error) {
	path := "/doctor"
	if about != "" {
		path += "?about=" + url.QueryEscape(about)
	}
	return get[Diagnosis](ctx, c, path)
}

// Treat mends what can be mended.
func (c *Client) Treat(ctx context.Context, r FixRequest, o Options) ([]Treatment, error) {
	return send[[]Treatment](ctx, c, http.MethodPost, "/doctor/fix"+o.query(), r)
}
