package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// maxAnswer bounds what the client reads of one answer: ten thousand leases
// are 2 MB.
const maxAnswer = 256 << 20

// Client speaks to a daemon over its unix socket. It is safe for use by
// several goroutines. Errors are *Problem where the daemon refused, and wrap
// ErrUnreachable where none answers.
type Client struct {
	socket string
	http   *http.Client
	// pending is what the last answer said of a change that is pending.
	pending atomic.Pointer[Pending]
}

// Dial returns a client for the socket at that path. Nothing is sent yet.
func Dial(socketPath string) *Client {
	c := &Client{socket: socketPath}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.connect(ctx) },
	}}
	return c
}

// Close gives back connections that wait for reuse.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) connect(ctx context.Context) (*net.UnixConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, c.socket, err)
	}
	return conn.(*net.UnixConn), nil
}

// Options of a changing call.
type Options struct {
	// DryRun plans and changes nothing.
	DryRun bool
	// CutGuests allows a change that takes guests' network away.
	CutGuests bool
	// Within is how long, in whole seconds, a person has to confirm a change that
	// puts the host's own connections at risk; 0 takes a minute.
	Within time.Duration
	// WhenReachable lets such a change confirm itself once the connection of whoever
	// asked carries new data and gateway and resolver answer again.
	WhenReachable bool
	// Picture asks, with DryRun, for a picture of what would come and go.
	Picture *View
}

func (o Options) query() string {
	q := url.Values{}
	if o.DryRun {
		q.Set("dry_run", "true")
	}
	if o.CutGuests {
		q.Set("cut_guests", "true")
	}
	if o.Picture != nil {
		v := *o.Picture
		v.Draw = cmp.Or(v.Draw, "graph")
		v.query(q)
	}
	if o.Within != 0 {
		q.Set("confirm_within", strconv.Itoa(int(o.Within/time.Second)))
	}
	if o.WhenReachable {
		q.Set("confirm_when_reachable", "true")
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// Status asks for all that matters at a glance.
func (c *Client) Status(ctx context.Context) (Status, error) { return get[Status](ctx, c, "/status") }

// Modes lists the words for what a network can do with its traffic.
func (c *Client) Modes(ctx context.Context) ([]Mode, error) { return get[[]Mode](ctx, c, "/modes") }

// Networks lists all networks by name.
func (c *Client) Networks(ctx context.Context) ([]Network, error) {
	return get[[]Network](ctx, c, "/networks")
}

// Network asks for one network.
func (c *Client) Network(ctx context.Context, name string) (Network, error) {
	return get[Network](ctx, c, "/networks/"+url.PathEscape(name))
}

// CreateNetwork defines a network and, unless Started says no, starts it.
func (c *Client) CreateNetwork(ctx context.Context, n DocumentNetwork, o Options) (Change, error) {
	return send[Change](ctx, c, http.MethodPost, "/networks"+o.query(), n)
}

// SetNetwork changes attributes of a network.
func (c *Client) SetNetwork(ctx context.Context, name string, settings map[string]string, o Options) (Change, error) {
	return send[Change](ctx, c, http.MethodPatch, "/networks/"+url.PathEscape(name)+o.query(), Settings{settings})
}

// RemoveNetwork stops and forgets a network.
func (c *Client) RemoveNetwork(ctx context.Context, name string, o Options) (Change, error) {
	return send[Change](ctx, c, http.MethodDelete, "/networks/"+url.PathEscape(name)+o.query(), nil)
}

// StartNetwork makes a network run.
func (c *Client) StartNetwork(ctx context.Context, name string, o Options) (Change, error) {
	return send[Change](ctx, c, http.MethodPost, "/networks/"+url.PathEscape(name)+"/start"+o.query(), nil)
}

// StopNetwork takes a network's switch, rules and services away.
func (c *Client) StopNetwork(ctx context.Context, name string, o Options) (Change, error) {
	return send[Change](ctx, c, http.MethodPost, "/networks/"+url.PathEscape(name)+"/stop"+o.query(), nil)
}

// Up starts all networks in one change.
func (c *Client) Up(ctx context.Context, o Options) (Change, error) {
	return send[Change](ctx, c, http.MethodPost, "/up"+o.query(), nil)
}

// Down stops all networks in one change.
func (c *Client) Down(ctx context.Context, o Options) (Change, error) {
	return send[Change](ctx, c, http.MethodPost, "/down"+o.query(), nil)
}

// Reservations lists those of one network, or of all if network is "".
func (c *Client) Reservations(ctx context.Context, network string) ([]Reservation, error) {
	if network == "" {
		return get[[]Reservation](ctx, c, "/reservations")
	}
	return get[[]Reservation](ctx, c, "/networks/"+url.PathEscape(network)+"/reservations")
}

// Reserve ties an address to a hardware address.
func (c *Client) Reserve(ctx context.Context, network string, r Reservation, o Options) (Change, error) {
	return send[Change](ctx, c, http.MethodPost, "/networks/"+url.PathEscape(network)+"/reservations"+o.query(), r)
}

// Unreserve takes a reservation back.
func (c *Client) Unreserve(ctx context.Context, network, mac string, o Options) (Change, error) {
	path := "/networks/" + url.PathEscape(network) + "/reservations/" + url.PathEscape(mac) + o.query()
	return send[Change](ctx, c, http.MethodDelete, path, nil)
}

// Leases lists the addresses given away.
func (c *Client) Leases(ctx context.Context) ([]Lease, error) { return get[[]Lease](ctx, c, "/leases") }

// Guests lists the machines on the networks.
func (c *Client) Guests(ctx context.Context) ([]Guest, error) { return get[[]Guest](ctx, c, "/guests") }

// Ports lists the guests' NICs.
func (c *Client) Ports(ctx context.Context) ([]Port, error) { return get[[]Port](ctx, c, "/ports") }

// AttachPort makes a persistent tap for a guest.
func (c *Client) AttachPort(ctx context.Context, r PortRequest) (Port, error) {
	return send[Port](ctx, c, http.MethodPost, "/ports", r)
}

// DetachPort deletes a tap that AttachPort made.
func (c *Client) DetachPort(ctx context.Context, tap string) error {
	_, err := send[struct{}](ctx, c, http.MethodDelete, "/ports/"+url.PathEscape(tap), nil)
	return err
}

// Document asks for all that is wanted.
func (c *Client) Document(ctx context.Context) (Document, error) {
	return get[Document](ctx, c, "/document")
}

// Apply makes a document, in YAML or JSON, all that there is.
func (c *Client) Apply(ctx context.Context, document []byte, o Options) (Change, error) {
	return send[Change](ctx, c, http.MethodPost, "/apply"+o.query(), document)
}

// Plan says what Apply would do.
func (c *Client) Plan(ctx context.Context, document []byte, o Options) (Change, error) {
	return send[Change](ctx, c, http.MethodPost, "/plan"+o.query(), document)
}

// Changes lists the changes that are not finished.
func (c *Client) Changes(ctx context.Context) ([]Change, error) {
	return get[[]Change](ctx, c, "/changes")
}

// Change asks for one change that is not finished.
func (c *Client) Change(ctx context.Context, id string) (Change, error) {
	return get[Change](ctx, c, "/changes/"+url.PathEscape(id))
}

// Confirm keeps a pending change.
func (c *Client) Confirm(ctx context.Context, id string) error {
	return c.decide(ctx, id, "confirm", nil)
}

// Cancel takes a pending change back.
func (c *Client) Cancel(ctx context.Context, id string) error {
	return c.decide(ctx, id, "cancel", nil)
}

// Extend moves the deadline of a pending change, in whole seconds.
func (c *Client) Extend(ctx context.Context, id string, by time.Duration) error {
	return c.decide(ctx, id, "extend", Extension{Seconds: int(by / time.Second)})
}

func (c *Client) decide(ctx context.Context, id, verb string, body any) error {
	_, err := send[struct{}](ctx, c, http.MethodPost, "/changes/"+url.PathEscape(id)+"/"+verb, body)
	return err
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	return send[T](ctx, c, http.MethodGet, path, nil)
}

// send does one call. body is nil, a document as []byte, or a value for JSON.
func send[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var out T
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return out, nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&out); err != nil {
		return out, fmt.Errorf("%s /%s%s: read answer: %w", method, Version, path, err)
	}
	return out, nil
}

func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	req, err := request(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, transportError(ctx, err)
	}
	c.notePending(resp.Header)
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, problem(resp)
	}
	return resp, nil
}

func request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var reader io.Reader
	contentType := ""
	switch b := body.(type) {
	case nil:
	case []byte:
		reader, contentType = bytes.NewReader(b), "application/yaml"
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		reader, contentType = bytes.NewReader(raw), "application/json"
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://drawbridge/"+Version+path, reader)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return req, nil
}

func transportError(ctx context.Context, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, ErrUnreachable):
		return err
	}
	return fmt.Errorf("%w: the connection broke: %w", ErrUnreachable, err)
}

// problem reads a refusal. An answer that is not a problem comes from something
// else than our daemon.
func problem(resp *http.Response) error {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	p := &Problem{}
	if err := json.Unmarshal(raw, p); err != nil || p.Detail == "" {
		line, _, _ := strings.Cut(strings.TrimSpace(string(raw)), "\n")
		p = &Problem{Title: resp.Status, Detail: "unexpected answer: " + resp.Status + ": " + line, Code: CodeInternal}
	}
	p.Status = resp.StatusCode
	return p
}
