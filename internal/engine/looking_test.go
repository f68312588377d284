package engine

import (
	"testing"
	"time"
)

// While events keep coming a fifth of the time is spent looking, but for what may be
// done in advance; and after quiet times there is no rest between a few looks.
func TestLooksRestInTheLongRun(t *testing.T) {
	for _, took := range []time.Duration{2 * time.Millisecond, 20 * time.Millisecond, 60 * time.Millisecond} {
		now := time.Unix(0, 0)
		l := looking{credit: inAdvance, at: now}
		var spent time.Duration
		for i := 0; now.Before(time.Unix(60, 0)); i++ {
			now, spent = now.Add(took), spent+took
			rest := l.rest(now.Add(-took), now)
			if i == 0 && rest > 0 {
				t.Errorf("rests %s after the first look, which took %s", rest, took)
			}
			now = now.Add(rest)
		}
		if most := inAdvance + 12*time.Second + took; spent > most || spent < 11*time.Second {
			t.Errorf("looks of %s: %s of a minute", took, spent)
		}
		if now = now.Add(time.Second); l.rest(now, now.Add(took)) > 0 {
			t.Errorf("rests after a second of quiet and a look of %s", took)
		}
	}
	// One that takes seconds is rested from no longer than briefRest.
	l, now := looking{credit: inAdvance, at: time.Unix(0, 0)}, time.Unix(5, 0)
	if rest := l.rest(time.Unix(0, 0), now); rest != briefRest {
		t.Errorf("rests %s from a look of 5 s", rest)
	}
}
