package cli

import (
	"bufio"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drawbridge/internal/api"
)

// deciding adds the flags of commands that may put the host's own connections at
// risk, and then wait for a person.
func (f *changeFlags) deciding(c *cobra.Command) {
	c.Flags().DurationVar(&f.Within, "confirm-within", time.Minute, "`TIME`, 1s to 1h, that it waits to be confirmed if the host's own connections are at risk; then all is taken back")
	c.Flags().BoolVar(&f.WhenReachable, "confirm-when-reachable", false, "it confirms itself once your own TCP connection (ssh) carries new data, and gateway and resolver answer again")
	c.Flags().BoolVar(&f.noWait, "no-wait", false, "do not wait for the decision: print the change and return")
}

// mayMove does a change that may wait for a person: it says what will be done if
// that puts the host's own connections at risk, does it, and asks.
func (a *app) mayMove(c ctx, title string, flags *changeFlags, call func(api.Options) (api.Change, error)) error {
	if flags.Within < time.Second || flags.Within > time.Hour || flags.Within%time.Second != 0 {
		return usage("--confirm-within %s is not a whole number of seconds between 1s and 1h", flags.Within)
	}
	if flags.DryRun {
		return a.change(title, func() (api.Change, error) { return call(flags.Options) })
	}
	announced := a.format == "table" && isTerminal(a.stdout)
	if announced {
		if err := a.announce(flags.Options, call); err != nil {
			return err
		}
	}
	stop := a.progress(title)
	ch, err := call(flags.Options)
	stop()
	if err != nil {
		return err
	}
	a.told = append(a.told, ch.ID)
	if announced && ch.Risk == "host" {
		ch.Notes = nil // said before
	}
	if ch.Phase == "waiting" && !flags.noWait {
		if a.format == "table" && !announced {
			if err := a.show(ch, func(w *writer) { briefing(w, ch, flags.Options) }); err != nil {
				return err
			}
			ch.Notes = nil
		}
		if ch, err = a.decide(c, ch); err != nil {
			return err
		}
	}
	return a.show(ch, func(w *writer) { changeText(w, ch) })
}

// announce says beforehand what a change will do that might cut off whoever asks.
func (a *app) announce(o api.Options, call func(api.Options) (api.Change, error)) error {
	o.DryRun = true
	ch, err := call(o)
	if err != nil || ch.Risk != "host" {
		return err
	}
	return a.show(ch, func(w *writer) { briefing(w, ch, o) })
}

// pollPause is how often the daemon is asked what became of a change.
const pollPause = 250 * time.Millisecond

// decide waits until a change is confirmed or taken back, by the person at this
// terminal or by another. Being able to answer here is what shows that the
// connection holds.
func (a *app) decide(c ctx, ch api.Change) (api.Change, error) {
	asks := isTerminal(a.stderr) && a.terminalIn()
	until := a.now().Add(seconds(ch))
	if !asks {
		w := &writer{}
		w.linef("change %s waits %s to be confirmed", ch.ID, until.Sub(a.now()).Round(time.Second))
		conditionLines(w, ch.Conditions)
		a.stderr.Write(w.buf.Bytes()) // over the connection in question it is new data
	}
	var answers <-chan string
	if asks {
		answers = a.lines()
	}
	ticker := time.NewTicker(pollPause)
	defer ticker.Stop()
	for {
		if asks {
			fmt.Fprintf(a.stderr, "\r\x1b[Kkeep it? %d s [y/n] ", max(0, int(until.Sub(a.now()).Round(time.Second)/time.Second)))
		}
		select {
		case <-c.Done():
			return ch, fmt.Errorf("change %s still waits and is taken back unless: drawbridge change confirm %s", ch.ID, ch.ID)
		case answer, open := <-answers:
			if !open {
				answers, asks = nil, false // the terminal is gone; the change goes on without it
			}
			if err := a.answer(c, ch.ID, answer); err != nil {
				return ch, err
			}
		case <-ticker.C:
		}
		now, err := a.client.Change(c, ch.ID)
		if errors.Is(err, api.ErrUnreachable) && a.now().Before(until.Add(guardPatience)) {
			continue // it may be restarting; else its guard takes the change back
		}
		if err != nil {
			return ch, err
		}
		if now.Phase == "waiting" || now.Phase == "rolling-back" {
			until = a.now().Add(seconds(now))
			continue
		}
		if asks {
			fmt.Fprintln(a.stderr)
		}
		if now.Proof != "" {
			a.complain("confirmed, as " + now.Proof)
		}
		if now.Phase != "confirmed" {
			return ch, fmt.Errorf("change %s is %s: %s", ch.ID, now.Phase, now.Problem)
		}
		ch.Phase, ch.Problem, ch.Proof, ch.DeadlineSecs, ch.Conditions = now.Phase, now.Problem, now.Proof, nil, nil
		return ch, nil
	}
}

// guardPatience is how long after its deadline a change may take to be taken
// back by its guard and told by the daemon that systemd starts again.
const guardPatience = 30 * time.Second

func seconds(ch api.Change) time.Duration {
	if ch.DeadlineSecs == nil {
		return 0
	}
	return time.Duration(*ch.DeadlineSecs) * time.Second
}

// answer does what the person typed. Anything but yes and no asks again.
func (a *app) answer(c ctx, id, text string) error {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "y", "yes":
		return a.client.Confirm(c, id)
	case "n", "no":
		return a.client.Cancel(c, id)
	}
	return nil
}

func (a *app) lines() <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		in := bufio.NewScanner(a.stdin)
		for in.Scan() {
			lines <- in.Text()
		}
	}()
	return lines
}

// tell remembers that the output shows these changes.
func (a *app) tell(changes []api.Change) {
	for _, ch := range changes {
		a.told = append(a.told, ch.ID)
	}
}

// sayPending ends every command with what it should not be forgotten.
func (a *app) sayPending() {
	if a.client == nil {
		return
	}
	p := a.client.Pending()
	if p == nil || slices.Contains(a.told, p.ID) {
		return
	}
	line := fmt.Sprintf("change %s (%s) is %s", p.ID, p.Title, p.Phase)
	if p.DeadlineSecs != nil {
		line += fmt.Sprintf(": taken back in %d s unless: drawbridge change confirm %s", *p.DeadlineSecs, p.ID)
	} else {
		line += ": see drawbridge change show " + p.ID
	}
	a.complain(line)
}
