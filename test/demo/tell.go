package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// telling prints the story: steps with the time since the start, sentences with their result, and
// below each what was seen. Colours only on a terminal.
type telling struct {
	out    io.Writer
	start  time.Time
	colour bool
	passed int
	failed int
}

func newTelling(out *os.File, start time.Time) *telling {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return &telling{out: out, start: start, colour: err == nil && os.Getenv("NO_COLOR") == ""}
}

const (
	green = "32"
	red   = "31;1"
	bold  = "1"
	dim   = "2"
)

func (t *telling) paint(style, text string) string {
	if !t.colour {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// step says what is done now.
func (t *telling) step(format string, args ...any) {
	elapsed := fmt.Sprintf("%5.1f s", time.Since(t.start).Seconds())
	fmt.Fprintf(t.out, "%s  %s\n", t.paint(dim, elapsed), t.paint(bold, fmt.Sprintf(format, args...)))
}

// expect prints a sentence and whether it is true; look returns what was seen and, if the sentence
// is false, an error that says what is wrong.
func (t *telling) expect(sentence string, look func() (evidence string, err error)) bool {
	evidence, err := look()
	mark := t.paint(green, "✔")
	if err != nil {
		mark = t.paint(red, "✘")
		t.failed++
	} else {
		t.passed++
	}
	fmt.Fprintf(t.out, "         %s %s\n", mark, sentence)
	t.show(evidence)
	if err != nil {
		t.show(t.paint(red, err.Error()))
	}
	return err == nil
}

// show prints evidence, indented.
func (t *telling) show(evidence string) {
	evidence = strings.Trim(evidence, "\n")
	if evidence == "" {
		return
	}
	for line := range strings.SplitSeq(evidence, "\n") {
		fmt.Fprintf(t.out, "             %s\n", t.paint(dim, strings.TrimRight(strings.ReplaceAll(line, "\t", "  "), " ")))
	}
}

// end is the last line.
func (t *telling) end(code int) {
	elapsed := time.Since(t.start).Seconds()
	if code == 0 {
		fmt.Fprintf(t.out, "%s\n", t.paint(green, fmt.Sprintf("All of it is true. %.1f s.", elapsed)))
		return
	}
	fmt.Fprintf(t.out, "%s\n", t.paint(red, fmt.Sprintf("Not all of it is true. %.1f s.", elapsed)))
}
