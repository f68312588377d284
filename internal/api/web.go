package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// KeyHeader carries the second secret of a browser's session with every request
// that is not GET or HEAD. The cookie alone may only read: cookies go to every
// port of a host name, what a page stores does not.
const KeyHeader = "Drawbridge-Key"

// DefaultListen is where the page is unless told otherwise.
const DefaultListen = "127.0.0.1:8420"

// WebRequest turns the page on and asks for a login link.
type WebRequest struct {
	Listen   string `json:"listen,omitempty" doc:"Address and port on this host, loopback only; left out: where it is already, else 127.0.0.1:8420"`
	ReadOnly bool   `json:"read_only,omitempty" doc:"Who logs in by the link may only look"`
}

// Web says where the page is.
type Web struct {
	Address string `json:"address" doc:"Where it listens; empty while it is off"`
	URL     string `json:"url,omitempty" doc:"The page, to be opened on this host"`
	// Link is a secret.
	Link      string     `json:"link,omitempty" doc:"Opens the page and logs in, once"`
	LinkUntil *time.Time `json:"link_until,omitempty" doc:"When the link is no longer good"`
}

// Entry is the secret of a login link or a token.
type Entry struct {
	Secret string `json:"secret" maxLength:"256"`
}

// Entered is what a browser gets for it, beside the cookie.
type Entered struct {
	Key string `json:"key" doc:"To be sent as Drawbridge-Key with every request but GET and HEAD"`
	Self
}

// Self says who asks, and what he may.
type Self struct {
	Who      string     `json:"who" doc:"As it is written beside changes"`
	ReadOnly bool       `json:"read_only"`
	Session  string     `json:"session,omitempty" doc:"ID of the browser's session; empty where no login is needed"`
	Until    *time.Time `json:"until,omitempty" doc:"When the login ends if it is not used any more"`
	Host     string     `json:"host" doc:"Name of the host that the daemon runs on"`
}

// Session is a browser that is logged in.
type Session struct {
	ID       string    `json:"id"`
	By       string    `json:"by" doc:"Who asked for the login link, or which token opened it"`
	ReadOnly bool      `json:"read_only"`
	Made     time.Time `json:"made"`
	Used     time.Time `json:"used" doc:"Last use, exact to ten minutes"`
	Until    time.Time `json:"until" doc:"When it ends if it is not used any more"`
	Browser  string    `json:"browser" doc:"What the browser calls itself"`
}

// TokenRequest asks for a token.
type TokenRequest struct {
	Name        string `json:"name" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$" doc:"Written beside what is done with it"`
	ReadOnly    bool   `json:"read_only,omitempty"`
	LastingSecs int64  `json:"lasting_s,omitempty" minimum:"0" maximum:"3153600000" doc:"Seconds until it ends; 0: never"`
}

// Token lets a script, or the browser of a wall screen, in.
type Token struct {
	Name     string     `json:"name"`
	ReadOnly bool       `json:"read_only"`
	By       string     `json:"by" doc:"Who made it"`
	Made     time.Time  `json:"made"`
	Until    *time.Time `json:"until,omitempty" doc:"Missing: it does not end"`
	// Secret is told once.
	Secret string `json:"secret,omitempty" doc:"To be sent as Authorization: Bearer; told once, when the token is made"`
}

// OpenWeb turns the page on, if it is off, and returns a login link.
func (c *Client) OpenWeb(ctx context.Context, r WebRequest) (Web, error) {
	return send[Web](ctx, c, http.MethodPost, "/web", r)
}

// Web asks where the page is.
func (c *Client) Web(ctx context.Context) (Web, error) { return get[Web](ctx, c, "/web") }

// CloseWeb turns the page off.
func (c *Client) CloseWeb(ctx context.Context) error {
	_, err := send[struct{}](ctx, c, http.MethodDelete, "/web", nil)
	return err
}

// Sessions lists the browsers that are logged in.
func (c *Client) Sessions(ctx context.Context) ([]Session, error) {
	return get[[]Session](ctx, c, "/sessions")
}

// EndSession logs a browser out.
func (c *Client) EndSession(ctx context.Context, id string) error {
	_, err := send[struct{}](ctx, c, http.MethodDelete, "/sessions/"+url.PathEscape(id), nil)
	return err
}

// Tokens lists the tokens, without their secrets.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	return get[[]Token](ctx, c, "/tokens")
}

// AddToken makes a token; only this answer has its secret.
func (c *Client) AddToken(ctx context.Context, r TokenRequest) (Token, error) {
	return send[Token](ctx, c, http.MethodPost, "/tokens", r)
}

// RemoveToken makes a token worthless.
func (c *Client) RemoveToken(ctx context.Context, name string) error {
	_, err := send[struct{}](ctx, c, http.MethodDelete, "/tokens/"+url.PathEscape(name), nil)
	return err
}
