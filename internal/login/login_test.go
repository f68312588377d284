package login

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// memory keeps records; it fails when told to.
type memory struct {
	records map[string][]byte
	fail    error
}

func (m *memory) LoadKeys() (map[string][]byte, error) { return m.records, nil }

func (m *memory) SaveKeys(records map[string][]byte) error {
	if m.fail != nil {
		return m.fail
	}
	for k, v := range records {
		if m.records[k] = v; v == nil {
			delete(m.records, k)
		}
	}
	return nil
}

type clock struct{ at time.Time }

func (c *clock) now() time.Time       { return c.at }
func (c *clock) pass(d time.Duration) { c.at = c.at.Add(d) }
func open(t *testing.T, m *memory, c *clock) *Keys {
	t.Helper()
	k, err := Open(m, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func fresh(t *testing.T) (*Keys, *memory, *clock) {
	t.Helper()
	m, c := &memory{records: map[string][]byte{}}, &clock{time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}
	return open(t, m, c), m, c
}

func TestLinkIsGoodOnce(t *testing.T) {
	k, m, c := fresh(t)
	secret, until, err := k.Link("root", false)
	if err != nil || !until.Equal(c.at.Add(linkLife)) || len(secret) != 43 {
		t.Fatalf("link: %q %v %v", secret, until, err)
	}
	k = open(t, m, c) // the daemon was restarted
	s, cookie, key, err := k.Enter(secret, "Mozilla")
	if err != nil || s.By != "root" || s.ReadOnly || !s.Holds(key) || s.Holds(cookie) || s.Holds("") {
		t.Fatalf("enter: %+v %v", s, err)
	}
	if _, _, _, err := k.Enter(secret, ""); !errors.Is(err, ErrUsed) {
		t.Errorf("the second time: %v", err)
	}
	if _, _, _, err := open(t, m, c).Enter(secret, ""); !errors.Is(err, ErrUsed) {
		t.Errorf("after a restart: %v", err)
	}
	c.pass(linkLife)
	if _, _, _, err := k.Enter(secret, ""); !errors.Is(err, ErrUnknown) {
		t.Errorf("after its time: %v", err)
	}
	if got, err := open(t, m, c).Session(cookie); err != nil || got.ID != s.ID || got.From != "Mozilla" {
		t.Errorf("the session after a restart: %+v %v", got, err)
	}
}

func TestSecretsAreNotKept(t *testing.T) {
	k, m, _ := fresh(t)
	link, _, _ := k.Link("root", false)
	_, token, err := k.AddToken("wall", true, 0, "root")
	if err != nil {
		t.Fatal(err)
	}
	_, cookie, key, err := k.Enter(link, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range m.records {
		for _, secret := range []string{link, token, strings.TrimPrefix(token, tokenMark), cookie, key} {
			if strings.Contains(name+string(raw), secret) {
				t.Errorf("record %s holds a secret: %s", name, raw)
			}
		}
	}
}

func TestWrongSecretsOpenNothing(t *testing.T) {
	k, m, c := fresh(t)
	link, _, _ := k.Link("root", true)
	_, cookie, _, err := k.Enter(link, "")
	if err != nil {
		t.Fatal(err)
	}
	for hash := range k.sessions {
		// Whoever reads the file has hashes, which are no secrets.
		if _, err := k.Session(hash); !errors.Is(err, ErrUnknown) {
			t.Errorf("by the hash: %v", err)
		}
	}
	for _, wrong := range []string{"", "x", link, cookie + "A", cookie[:len(cookie)-1]} {
		if _, err := k.Session(wrong); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v", wrong, err)
		}
		if _, err := k.Token(wrong); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q as a token: %v", wrong, err)
		}
	}
	if _, _, _, err := k.Enter(cookie, ""); !errors.Is(err, ErrUnknown) {
		t.Errorf("a cookie as a link: %v", err)
	}
	m.fail = errors.New("disk full")
	if _, _, err := k.Link("root", false); err == nil {
		t.Error("a link that is not on disk was given out")
	}
	m.fail = nil
	_ = c
}

func TestSessionsEnd(t *testing.T) {
	k, m, c := fresh(t)
	enter := func() string {
		link, _, _ := k.Link("root", false)
		_, cookie, _, err := k.Enter(link, "")
		if err != nil {
			t.Fatal(err)
		}
		return cookie
	}
	idle, used := enter(), enter()
	for range 6 {
		c.pass(idleLife - time.Hour)
		if _, err := k.Session(used); err != nil {
			t.Fatalf("a session in use ended: %v", err)
		}
	}
	if _, err := k.Session(idle); !errors.Is(err, ErrUnknown) {
		t.Errorf("an idle session: %v", err)
	}
	c.pass(longestLife)
	if _, err := k.Session(used); !errors.Is(err, ErrUnknown) {
		t.Errorf("a session of a week: %v", err)
	}
	if k = open(t, m, c); len(m.records) != 1 || len(k.Sessions()) != 0 {
		t.Errorf("what ended is still there: %v", m.records)
	}
	third := enter()
	ended := make(chan struct{})
	leave := k.Follow(k.Sessions()[0].ID, func() { close(ended) })
	defer leave()
	if err := k.EndSession(k.Sessions()[0].ID); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("nobody was told that the session ended")
	}
	if _, err := k.Session(third); !errors.Is(err, ErrUnknown) {
		t.Errorf("a session that was ended: %v", err)
	}
	if err := k.EndSession("nope"); !errors.Is(err, ErrNotFound) {
		t.Errorf("ending nothing: %v", err)
	}
}

func TestTokens(t *testing.T) {
	k, m, c := fresh(t)
	_, wall, err := k.AddToken("wall", true, 0, "root")
	if err != nil {
		t.Fatal(err)
	}
	_, short, err := k.AddToken("backup", false, time.Hour, "alice")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.AddToken("wall", false, 0, "root"); !errors.Is(err, ErrExists) {
		t.Errorf("a second of that name: %v", err)
	}
	s, cookie, _, err := k.Enter(wall, "")
	if err != nil || !s.ReadOnly || s.By != "token wall" {
		t.Fatalf("a wall screen enters: %+v %v", s, err)
	}
	c.pass(30 * 24 * time.Hour)
	k = open(t, m, c)
	if got, err := k.Token(wall); err != nil || got.Name != "wall" || !got.ReadOnly {
		t.Errorf("token: %+v %v", got, err)
	}
	if _, err := k.Session(cookie); err != nil {
		t.Errorf("the wall screen's session after a month: %v", err)
	}
	if _, err := k.Token(short); !errors.Is(err, ErrUnknown) {
		t.Errorf("a token after its time: %v", err)
	}
	if list := k.Tokens(); len(list) != 1 || list[0].Name != "wall" {
		t.Errorf("tokens are %+v", list)
	}
	if err := k.RemoveToken("wall"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Session(cookie); !errors.Is(err, ErrUnknown) {
		t.Errorf("the session of a removed token: %v", err)
	}
	if _, err := k.Token(wall); !errors.Is(err, ErrUnknown) {
		t.Errorf("a removed token: %v", err)
	}
	if err := k.RemoveToken("wall"); !errors.Is(err, ErrNotFound) {
		t.Errorf("again: %v", err)
	}
}

func TestNumbersAreBounded(t *testing.T) {
	k, _, c := fresh(t)
	for range maxLinks {
		if _, _, err := k.Link("root", false); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := k.Link("root", false); !errors.Is(err, ErrFull) {
		t.Errorf("one link more: %v", err)
	}
	c.pass(linkLife)
	_, token, err := k.AddToken("wall", true, 0, "root")
	if err != nil {
		t.Fatal(err)
	}
	var first string
	for i := range maxSessions + 1 {
		_, cookie, _, err := k.Enter(token, strings.Repeat("x", 1000))
		if err != nil {
			t.Fatal(err)
		}
		if c.pass(time.Second); i == 0 {
			first = cookie
		}
	}
	if n := len(k.Sessions()); n != maxSessions || len(k.Sessions()[0].From) != 200 {
		t.Errorf("%d sessions", n)
	}
	if _, err := k.Session(first); !errors.Is(err, ErrUnknown) {
		t.Errorf("the oldest session stayed: %v", err)
	}
}
