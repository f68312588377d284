package login

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// How long things are good for.
const (
	// linkLife is enough to copy a link over to a browser.
	linkLife = 10 * time.Minute
	// idleLife ends the session of a browser that was not used; longestLife ends
	// any.
	idleLife    = 24 * time.Hour
	longestLife = 7 * 24 * time.Hour
	// wallLife is the idle time of a session that a token opened: a wall screen
	// may be off for a summer, and ends with its token.
	wallLife = 90 * 24 * time.Hour
	// usedEvery is how exactly the last use of a session is kept on disk.
	usedEvery = 10 * time.Minute
)

// link is good for one login.
type link struct {
	By       string    `json:"by"`
	ReadOnly bool      `json:"read_only,omitempty"`
	Until    time.Time `json:"until"`
	// Used links are kept until then, to say so.
	Used bool `json:"used,omitempty"`
}

// Session is a browser that is logged in.
type Session struct {
	ID string `json:"id"`
	// By is who asked for the link, or "token NAME".
	By       string    `json:"by"`
	ReadOnly bool      `json:"read_only,omitempty"`
	Made     time.Time `json:"made"`
	Used     time.Time `json:"used"`
	// From says what the browser calls itself.
	From string `json:"from,omitempty"`
	// Token is the ID of the token that opened it, "" for a link.
	Token string `json:"token,omitempty"`
	// Key is the hash of the second secret, which a browser keeps where only the
	// page's own origin can read it.
	Key string `json:"key"`
}

// Until is when the session ends if it is not used any more.
func (s Session) Until() time.Time {
	if s.Token != "" {
		return s.Used.Add(wallLife)
	}
	idle, last := s.Used.Add(idleLife), s.Made.Add(longestLife)
	if last.Before(idle) {
		return last
	}
	return idle
}

func (s Session) ended(now time.Time) bool { return !now.Before(s.Until()) }

// Holds says whether key is the session's second secret.
func (s Session) Holds(key string) bool { return sameHash(key, s.Key) }

// Link makes a secret that is good for one Enter, until the time returned.
func (k *Keys) Link(by string, readOnly bool) (secret string, until time.Time, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.sweep(); err != nil {
		return "", time.Time{}, err
	}
	if len(k.links) >= maxLinks {
		return "", time.Time{}, fmt.Errorf("login links: %w, or wait: they end after %s", ErrFull, linkLife)
	}
	secret, until = newSecret(), k.now().Add(linkLife).UTC()
	return secret, until, k.save(map[string][]byte{
		linkPrefix + hashOf(secret): record(link{By: by, ReadOnly: readOnly, Until: until}),
	})
}

// Enter opens a session by the secret of a link, which then is used up, or of a
// token. It returns the two secrets of the session: one to be sent with every
// request, one with those that change something. from is what the browser calls
// itself. The error is ErrUnknown or ErrUsed, or the store's.
func (k *Keys) Enter(secret, from string) (s Session, cookie, key string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	cookie, key = newSecret(), newSecret()
	s = Session{ID: newID(), Made: now.UTC(), Used: now.UTC(), From: short(from), Key: hashOf(key)}
	records := map[string][]byte{}
	hash := hashOf(secret)
	if l, ok := k.links[hash]; ok && now.Before(l.Until) {
		if l.Used {
			return Session{}, "", "", ErrUsed
		}
		s.By, s.ReadOnly = l.By, l.ReadOnly
		l.Used = true
		records[linkPrefix+hash] = record(l)
	} else if t, ok := k.tokens[hash]; ok && !t.ended(now) {
		s.By, s.ReadOnly, s.Token = "token "+t.Name, t.ReadOnly, t.ID
	} else {
		return Session{}, "", "", ErrUnknown
	}
	for _, old := range k.overflowing() {
		records[sessPrefix+old] = nil
	}
	records[sessPrefix+hashOf(cookie)] = record(s)
	if err := k.save(records); err != nil {
		return Session{}, "", "", err
	}
	return s, cookie, key, nil
}

// overflowing are the hashes of the sessions that make place for one more.
func (k *Keys) overflowing() []string {
	if len(k.sessions) < maxSessions {
		return nil
	}
	var oldest string
	for hash, s := range k.sessions {
		if oldest == "" || s.Used.Before(k.sessions[oldest].Used) {
			oldest = hash
		}
	}
	return []string{oldest}
}

// Session finds the session of a cookie and notes that it was used. The error
// is ErrUnknown, or the store's.
func (k *Keys) Session(cookie string) (Session, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	hash, now := hashOf(cookie), k.now()
	s, ok := k.sessions[hash]
	if !ok || s.ended(now) || s.Token != "" && !k.tokenLives(s.Token, now) {
		return Session{}, ErrUnknown
	}
	if now.Sub(s.Used) >= usedEvery {
		s.Used = now.UTC()
		if err := k.save(map[string][]byte{sessPrefix + hash: record(s)}); err != nil {
			return Session{}, err
		}
	}
	return s, nil
}

// Sessions lists those that are good, the oldest first.
func (k *Keys) Sessions() []Session {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	var all []Session
	for _, s := range k.sessions {
		if !s.ended(now) && (s.Token == "" || k.tokenLives(s.Token, now)) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b Session) int { return cmp.Or(a.Made.Compare(b.Made), cmp.Compare(a.ID, b.ID)) })
	return all
}

// EndSession logs a browser out.
func (k *Keys) EndSession(id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for hash, s := range k.sessions {
		if s.ID == id {
			return k.save(map[string][]byte{sessPrefix + hash: nil})
		}
	}
	return fmt.Errorf("session %q: %w", id, ErrNotFound)
}

// short bounds what a browser says of itself.
func short(from string) string {
	const most = 200
	if len(from) > most {
		return from[:most]
	}
	return from
}
