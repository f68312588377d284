package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"drawbridge/internal/api"
)

const (
	// redrawPause keeps a burst of events from being drawn one by one.
	redrawPause = 100 * time.Millisecond
	// redrawAnyway is for what no event tells, such as a cable that was pulled.
	redrawAnyway = 3 * time.Second
)

// ask is how the picture is asked for.
type ask func(context.Context) (api.Topology, error)

// watchTopology draws the picture again whenever something happens. On a terminal
// it takes the whole screen and gives it back at the end; elsewhere each picture
// that differs from the one before is printed under its time. It lives through
// restarts of the daemon.
func (a *app) watchTopology(ctx context.Context, ask ask) error {
	if _, err := ask(ctx); err != nil {
		return err // what is wrong from the start is told, not watched
	}
	news := make(chan error, 1) // nil: look again; else the daemon is away
	tell := func(err error) {
		select {
		case news <- err:
		default: // it will be looked at anyway
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- a.client.Follow(ctx, api.WatchOptions{}, func(api.Event) error { tell(nil); return nil }, tell)
	}()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	s := &stage{app: a, full: a.format == "table" && isTerminal(a.stdout)}
	s.open()
	defer s.close()
	tick := time.NewTicker(redrawAnyway)
	defer tick.Stop()
	for {
		t, err := ask(ctx)
		if ctx.Err() != nil {
			return nil // the person had enough
		}
		if err := s.show(t, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case <-resized:
		case <-tick.C:
		case <-news:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(redrawPause):
			}
		}
	}
}

// stage is where the picture is shown.
type stage struct {
	app *app
	// full: it is a terminal, and ours alone while we draw.
	full bool
	last string
	away bool
}

// The private modes of DEC and xterm: another screen, no cursor, and all of a
// picture at once.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	beginFrame  = "\x1b[?2026h\x1b[H"
	endFrame    = "\x1b[J\x1b[?2026l"
)

func (s *stage) open() {
	if s.full {
		fmt.Fprint(s.app.stdout, enterScreen)
	}
}

func (s *stage) close() {
	if s.full {
		fmt.Fprint(s.app.stdout, leaveScreen)
	}
}

// show draws; an err that is not the daemon's absence ends the watching.
func (s *stage) show(t api.Topology, err error) error {
	away := errors.Is(err, api.ErrUnreachable)
	if err != nil && !away {
		return err
	}
	if !away {
		text, err := s.app.rendered(t)
		if err != nil {
			return err
		}
		if !s.full && text == s.last {
			return nil
		}
		s.last = text
	}
	now := s.app.now().Local().Format("15:04:05")
	if !s.full {
		return s.print(now, away)
	}
	status := now + "  watching; Ctrl-C ends"
	if away {
		status = now + "  the daemon does not answer; this is how it was. Waiting for it…"
	}
	columns, rows := screen(s.app.stdout)
	picture := crop(s.last, rows-2)
	w := &writer{color: s.app.colored()}
	w.buf.WriteString(beginFrame)
	w.buf.WriteString(strings.ReplaceAll(picture, "\n", "\x1b[K\r\n"))
	w.buf.WriteString("\x1b[K\r\n" + w.paint(faint, clip(status, columns)) + "\x1b[K" + endFrame)
	_, err = s.app.stdout.Write(w.buf.Bytes())
	return err
}

// print is for what is no terminal.
func (s *stage) print(now string, away bool) error {
	if away && s.away {
		return nil
	}
	s.away = away
	var err error
	switch {
	case away:
		fmt.Fprintln(s.app.stderr, "drawbridge: the daemon does not answer; waiting for it")
	case s.app.format == "table":
		_, err = fmt.Fprintf(s.app.stdout, "--- %s\n%s", now, s.last)
	case s.app.format == "yaml":
		_, err = fmt.Fprintf(s.app.stdout, "---\n%s", s.last)
	default:
		_, err = fmt.Fprint(s.app.stdout, s.last)
	}
	return err
}

// clip cuts a text of ours, without wide characters, to a number of cells.
func clip(s string, most int) string {
	if r := []rune(s); most > 0 && len(r) > most {
		return string(r[:most])
	}
	return s
}
