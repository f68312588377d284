package rest

import (
	"context"
	"fmt"
	"net/http"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"drawbridge/internal/api"
	"drawbridge/internal/spec"
)

// adminGroup is the group whose members may do everything.
const adminGroup = "drawbridge"

// caller is who asks, and what he may.
type caller struct {
	peer  Peer
	admin bool
	// name of the user, for those who are no admin; "uid N" if it has none.
	name string
	// networks on which a user that is no admin may have ports.
	networks []spec.NetworkName
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// admit lets root and the group do everything, a user that some network's
// allow-users names read everything and plug and unplug ports, and nobody else
// in. What exactly such a user may plug is checked where the network is known.
func (s *Server) admit(r *http.Request) (caller, error) {
	peer, known := r.Context().Value(peerKey{}).(Peer)
	if !known {
		return caller{}, &api.Problem{Status: http.StatusForbidden, Code: api.CodeForbidden, Detail: "the kernel does not say who you are"}
	}
	c := caller{peer: peer, admin: peer.UID == 0 || peer.In(s.adminGID)}
	if c.admin {
		return c, nil
	}
	c.name = userName(peer.UID)
	doc := s.Engine.Document()
	for _, name := range doc.Names() {
		if slices.Contains(doc.Networks[name].AllowUsers, c.name) {
			c.networks = append(c.networks, name)
		}
	}
	switch {
	case len(c.networks) == 0:
		return c, forbidden("%s may not use drawbridge here: use sudo%s, or be named in a network's allow-users", c.name, s.joinGroup(c.name))
	case r.Method == http.MethodGet || r.Method == http.MethodHead || strings.HasPrefix(r.URL.Path, "/"+api.Version+"/ports"):
		return c, nil
	}
	return c, forbidden("%s may read, and plug and unplug ports of his own on %s, but not change networks: use sudo", c.name, spell(c.networks))
}

// joinGroup says how to become a member of the group, where there is one.
func (s *Server) joinGroup(user string) string {
	if s.adminGID < 0 {
		return ""
	}
	return fmt.Sprintf(", have root run \"usermod -aG %s %s\" and log in again", s.AdminGroup, user)
}

// mayPlug checks whether the caller may have ports on a network.
func (c caller) mayPlug(n spec.NetworkName) error {
	if c.admin || slices.Contains(c.networks, n) {
		return nil
	}
	return forbidden("%s may not plug into network %q: it is not among its allow-users; root can run \"drawbridge network set %s allow-users=%s\"", c.name, n, n, c.name)
}

// owns checks whether the caller may unplug a port that belongs to a user id.
func (c caller) owns(tap string, n spec.NetworkName, owner int) error {
	if c.admin {
		return nil
	}
	if int64(owner) != int64(c.peer.UID) {
		return forbidden("port %s does not belong to %s", tap, c.name)
	}
	return c.mayPlug(n)
}

func forbidden(format string, args ...any) error {
	return &api.Problem{Status: http.StatusForbidden, Code: api.CodeForbidden, Detail: fmt.Sprintf(format, args...)}
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid " + id // no user name has a space: it never matches
}

func spell(names []spec.NetworkName) string {
	var out []string
	for _, n := range names {
		out = append(out, string(n))
	}
	return strings.Join(out, ", ")
}
