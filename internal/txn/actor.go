package txn

import (
	"context"
	"fmt"
	"strings"
)

// ActorKind is how somebody comes to change something.
type ActorKind string

// The kinds of actors. Beside people there is what happens by itself: a repair of
// what others changed, what follows from guests that come and go, the start of the
// daemon, and the clock.
const (
	ByUser   ActorKind = "user"
	ByToken  ActorKind = "token"
	ByPage   ActorKind = "page"
	ByRepair ActorKind = "repair"
	ByFollow ActorKind = "follow"
	ByStart  ActorKind = "start"
	ByClock  ActorKind = "clock"
	ByOther  ActorKind = "other"
)

// Actor is who did something, as far as it is known.
type Actor struct {
	Kind ActorKind `json:"kind,omitempty"`
	// Name of the user, of the token, or of another program as the kernel tells it;
	// for what happens by itself, who made it necessary, if that is known.
	Name string `json:"name,omitempty"`
	// UID is the user's id; it means something for ByUser alone.
	UID uint32 `json:"uid"`
	// PID and Process asked; 0 and "" if that is not known.
	PID     int    `json:"pid,omitempty"`
	Process string `json:"process,omitempty"`
}

// String says who it is, for people: `alice with drawbridge (pid 123)`.
func (a Actor) String() string {
	var who string
	switch a.Kind {
	case ByUser, ByOther:
		who = a.Name
	case ByToken:
		who = "token " + a.Name
	case ByPage:
		who = strings.TrimSpace("page " + a.Name)
	case ByRepair:
		if a.Name != "" {
			return "drift repair after " + a.Name
		}
		return "drift repair"
	case ByFollow:
		if a.Name != "" {
			return "the daemon after " + a.Name
		}
		return "the daemon"
	case ByStart:
		return "start of the daemon"
	case ByClock:
		return "the clock"
	}
	switch {
	case a.PID == 0:
		return who
	case a.Process == "":
		return strings.TrimSpace(fmt.Sprintf("%s (pid %d)", who, a.PID))
	case who == "":
		return fmt.Sprintf("%s (pid %d)", a.Process, a.PID)
	}
	return fmt.Sprintf("%s with %s (pid %d)", who, a.Process, a.PID)
}

type actorKey struct{}

// By says in a context on whose behalf things are done.
func By(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorOf is who things are done for; the zero Actor if nobody said.
func ActorOf(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}
