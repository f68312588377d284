package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"drawbridge/internal/api"
)

// eventStream answers with events, the first time with the first of them and so
// on, and ends the connection after each; when there are no more it waits.
func eventStream(asked chan<- string, streams ...[]api.Event) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, ": watching\nretry: 1000\nid: run1-0\n\n")
		_ = http.NewResponseController(w).Flush()
		asked <- r.URL.RawQuery
		if len(streams) == 0 {
			<-r.Context().Done()
			return
		}
		for _, e := range streams[0] {
			raw, _ := json.Marshal(e)
			fmt.Fprintf(w, "id: %s\nevent: %s\ndata: %s\n\n", e.ID, e.Kind, raw)
		}
		streams = streams[1:]
	}
}

// monitor runs the command until it has asked so many times.
func monitor(t *testing.T, asks int, streams [][]api.Event, args ...string) (stdout, stderr string, asked []string) {
	t.Helper()
	answers := everything()
	ask := make(chan string, 16)
	answers["GET /events"] = eventStream(ask, streams...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d := startDaemon(t, answers)
	var out, errs bytes.Buffer
	a := &app{stdout: &out, stderr: &errs, now: func() time.Time { return now }}
	ended := make(chan int, 1)
	go func() { ended <- a.main(ctx, append([]string{"drawbridge", "--socket", d.socket, "monitor"}, args...)) }()
	for range asks {
		select {
		case q := <-ask:
			asked = append(asked, q)
		case <-time.After(20 * time.Second):
			t.Fatalf("asked %q and not again", asked)
		}
	}
	cancel()
	if code := <-ended; code != ExitDone {
		t.Errorf("code %d, %q", code, errs.String())
	}
	return out.String(), errs.String(), asked
}

func TestMonitorPrintsEventsAndWaitsForTheDaemon(t *testing.T) {
	out, errs, asked := monitor(t, 3, [][]api.Event{
		{{ID: "run1-1", Time: now, Kind: "port", Text: "web plugged in\x1b[2J", Who: "qemu"}, {ID: "run1-2", Time: now, Kind: "repair", Text: "put back"}},
		{{ID: "run2-7", Time: now, Kind: "gap", Text: "lost"}},
	}, "--network", "default", "--kind", "port,repair")
	clock := now.Local().Format("15:04:05.000")
	want := clock + "  port         web plugged in?[2J  (qemu)\n" + clock + "  repair       put back\n" + clock + "  gap          lost\n"
	if out != want || strings.Count(errs, "drawbridge: the daemon went away; waiting for it\n") != 2 {
		t.Errorf("printed %q, %q", out, errs)
	}
	const filter = "kind=port%2Crepair&network=default"
	for i, want := range []string{filter, filter + "&since=run1-2", filter + "&since=run2-7"} {
		if asked[i] != want {
			t.Errorf("question %d is %q, want %q", i, asked[i], want)
		}
	}
}

func TestMonitorInJSONIsOneEventALine(t *testing.T) {
	out, _, asked := monitor(t, 2, [][]api.Event{{{ID: "r-1", Time: now, Kind: "port", Text: "a"}, {ID: "r-2", Time: now, Kind: "port", Text: "b"}}}, "-o", "json", "--since", "10m")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 {
		t.Fatalf("printed %q", out)
	}
	for i, line := range lines {
		var e api.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Text != string(rune('a'+i)) {
			t.Errorf("line %q: %v", line, err)
		}
	}
	if want := "since=" + strings.ReplaceAll(now.Add(-10*time.Minute).UTC().Format(time.RFC3339Nano), ":", "%3A"); asked[0] != want {
		t.Errorf("asked %q, want %q", asked[0], want)
	}
}

func TestInterruptedMonitorIsNoFailure(t *testing.T) {
	if _, errs, _ := monitor(t, 1, nil); errs != "" {
		t.Errorf("said %q", errs)
	}
}

func TestMonitorWithoutADaemonFails(t *testing.T) {
	var out, errs bytes.Buffer
	a := &app{stdout: &out, stderr: &errs, now: time.Now}
	if code := a.main(t.Context(), []string{"drawbridge", "--socket", t.TempDir() + "/none", "monitor"}); code != ExitUnreachable {
		t.Errorf("code %d, %q", code, errs.String())
	}
}
