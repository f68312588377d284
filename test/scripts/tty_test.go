package scripts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// openTerminal makes a pseudo terminal (pty(7)): what a person sees and types on, and what
// a program has for its standard input and output.
func openTerminal() (person, program *os.File, err error) {
	person, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	number, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(person.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 100})
	}
	if err == nil {
		program, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		person.Close()
	}
	return person, program, err
}

// screen is all that a program wrote to its terminal.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) follow(f *os.File) {
	b := make([]byte, 4096)
	for {
		n, err := f.Read(b)
		s.mu.Lock()
		s.text.Write(b[:n])
		s.mu.Unlock()
		if err != nil {
			return // EIO: nobody has the other end open any more
		}
	}
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.ReplaceAll(s.text.String(), "\r", "")
}

// cmdTTY runs the client on a terminal and follows a file of lines: "? REGEXP" waits until
// what came since the last line matches, "> TEXT" types a line, "^C" and "^D" those keys. What
// was on the screen is its standard output then.
func cmdTTY(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: tty FILE ARGS")
	}
	person, inside, err := openTerminal()
	ts.Check(err)
	defer person.Close()
	cmd := client(ts, args[1:])
	cmd.Env = append(environment(ts), "TERM=xterm", "NO_COLOR=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inside, inside, inside
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, true, 0
	ts.Check(cmd.Start())
	inside.Close()
	var seen screen
	followed := make(chan struct{})
	go func() { defer close(followed); seen.follow(person) }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	said := dialogue(ctx, person, &seen, ts.ReadFile(args[0]))
	if said != nil {
		_ = cmd.Process.Kill()
	}
	err = cmd.Wait()
	<-followed
	fmt.Fprint(ts.Stdout(), seen.String())
	if said != nil {
		ts.Fatalf("%v; the screen:\n%s", said, seen.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	if exit != nil {
		ts.Logf("[exit status %d]", exit.ExitCode())
	}
	if (err != nil) != neg {
		ts.Fatalf("unexpected result of %q: %v", args, err)
	}
}

func dialogue(ctx context.Context, person *os.File, seen *screen, text string) error {
	at := 0
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for line := range strings.Lines(text) {
		kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		var err error
		switch kind {
		case "?":
			want, bad := regexp.Compile("(?m)" + rest)
			if bad != nil {
				return bad
			}
			for {
				all := seen.String()
				if found := want.FindStringIndex(all[at:]); found != nil {
					at += found[1]
					break
				}
				select {
				case <-ctx.Done():
					return fmt.Errorf("%q does not come", rest)
				case <-tick.C:
				}
			}
		case ">":
			_, err = person.WriteString(rest + "\n")
		case "^C":
			_, err = person.Write([]byte{3})
		case "^D":
			_, err = person.Write([]byte{4})
		default:
			return fmt.Errorf("%q: a line begins with ?, >, ^C or ^D", line)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
