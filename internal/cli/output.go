package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"drawbridge/internal/api"
)

// show prints v in the form that was asked for; table writes it for people.
func (a *app) show(v any, table func(*writer)) error {
	switch a.format {
	case "json":
		raw, err := api.JSON(v)
		if err != nil {
			return err
		}
		_, err = a.stdout.Write(raw)
		return err
	case "yaml":
		raw, err := api.YAML(v)
		if err != nil {
			return err
		}
		_, err = a.stdout.Write(raw)
		return err
	}
	w := &writer{color: a.colored()}
	table(w)
	_, err := a.stdout.Write(w.buf.Bytes())
	return err
}

// writer collects text for people. What comes from elsewhere goes through
// clean; colours do not.
type writer struct {
	buf   bytes.Buffer
	color bool
}

func (w *writer) line(s string) { w.buf.WriteString(clean(s) + "\n") }

func (w *writer) linef(format string, args ...any) { w.line(fmt.Sprintf(format, args...)) }

func (w *writer) painted(p paint, s string) { w.buf.WriteString(w.paint(p, clean(s)) + "\n") }

// paint is a colour (ECMA-48, SGR).
type paint string

// What colours are for: they repeat what the words say.
const (
	bad     paint = "31"
	good    paint = "32"
	warning paint = "33"
	heading paint = "1"
	faint   paint = "2"
)

func (w *writer) paint(p paint, s string) string {
	if !w.color || s == "" || p == "" {
		return s
	}
	return "\x1b[" + string(p) + "m" + s + "\x1b[0m"
}

func (a *app) colored() bool {
	return !a.noColor && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(a.stdout)
}

func (a *app) terminalIn() bool {
	in, ok := a.stdin.(*os.File)
	return ok && isTerminal(in)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// clean keeps names that guests chose from steering the terminal: control
// characters, and those that turn the direction of writing, become '?'.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}

// progress shows on a terminal that work goes on, once it has gone on for a
// second. Call the returned function when it is over.
func (a *app) progress(what string) func() {
	if !isTerminal(a.stderr) || a.format != "table" {
		return func() {}
	}
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		began := time.Now()
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for shown := false; ; shown = true {
			select {
			case <-done:
				if shown {
					fmt.Fprint(a.stderr, "\r\x1b[K")
				}
				return
			case <-tick.C:
				fmt.Fprintf(a.stderr, "\r%s … %ds", clean(what), int(time.Since(began).Seconds()))
			}
		}
	}()
	return func() { close(done); <-gone }
}
