package rest

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"drawbridge/internal/api"
	"drawbridge/internal/engine"
	"drawbridge/internal/host"
	"drawbridge/internal/latency"
	"drawbridge/internal/spec"
)

// metricsServer is a server on whose host everything is there that has a metric.
func metricsServer(t *testing.T) (*fakeEngine, string) {
	t.Helper()
	f := newFake()
	lab := network(t, "lab")
	lab.Bridge = "virbr0"
	f.doc = f.doc.With(lab.WithForwards([]spec.Forward{{Proto: spec.TCP, First: 8080, Last: 8080, Target: "web", TargetPort: 80}}))
	f.view = engine.View{
		Networks: map[spec.NetworkName]engine.NetworkView{"lab": {Running: true, Guests: 1, Leases: 1, PoolSize: 100}}, Repairs: 3,
		State: host.NewState(host.Link{Name: "virbr0", Type: host.TypeBridge}, host.Link{Name: "vnet0", Master: "virbr0"}, host.Link{Name: "vnet1", Master: "virbr0"}),
	}
	f.ports["vnet0"] = engine.Port{Network: "lab", Guest: `a"b\c` + "\n", Tap: "vnet0", RxBytes: 10, TxBytes: 20, RxPackets: 1, TxPackets: 2}
	var h latency.Histogram
	h.Observe(3e6, 2)
	h.Observe(9e10, 1)
	socket, _ := serve(t, f, func(c *Config) {
		c.Sources = Sources{
			Services: func() ([]ServiceCounts, error) {
				return []ServiceCounts{{
					Bridge: "virbr0", Messages: map[string]uint64{"discover": 5, "ack": 4}, Dropped: map[string]uint64{"full": 1},
					PoolSize: 100, PoolUsed: 7, DHCPLatency: h.Snapshot(), Queries: 9, Local: 8, Failed: 1, DNSLatency: h.Snapshot(),
				}, {Bridge: "not-ours"}}, nil
			},
			Conntrack: func() (int, int, error) { return 17, 262144, nil },
		}
	})
	return f, socket
}

// scrapeText asks as Prometheus does.
func scrapeText(t *testing.T, socket string) []byte {
	t.Helper()
	resp, err := unixClient(socket).Get("http://drawbridge/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
		t.Fatalf("%v %s %s: %s", err, resp.Status, resp.Header, text)
	}
	return text
}

// parsed is read by Prometheus' own parser.
func parsed(t *testing.T, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("Prometheus' parser says %v:\n%s", err, text)
	}
	return families
}

func TestPrometheusReadsAndLikesTheMetrics(t *testing.T) {
	f, socket := metricsServer(t)
	f.tell(engine.Event{Kind: engine.ChangeEvent, Action: "applying"})
	f.tell(engine.Event{Kind: engine.ChangeEvent, Action: "confirmed"})
	f.tell(engine.Event{Kind: engine.ChangeEvent, Action: "rolled-back"})
	listening := open(t, socket, "", "")
	listening.message()
	text := scrapeText(t, socket)
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("promlint: %s: %s", p.Metric, p.Text)
	}
	families := parsed(t, text)
	for _, d := range metricDescs() {
		got := families[d.name]
		if got == nil || len(got.Metric) == 0 {
			t.Errorf("%s has no sample", d.name)
			continue
		}
		if strings.ToLower(got.GetType().String()) != d.kind || got.GetHelp() != d.help {
			t.Errorf("%s is a %s: %q", d.name, got.GetType(), got.GetHelp())
		}
		for _, m := range got.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName())
			}
			want := slices.Clone(d.labels)
			slices.Sort(labels)
			slices.Sort(want)
			if !slices.Equal(labels, want) {
				t.Errorf("%s has labels %q, is said to have %q", d.name, labels, want)
			}
		}
	}
	for _, line := range []string{
		`drawbridge_build_info{version="1.2.3",goversion="go`, `drawbridge_network_running{network="lab"} 1`, `drawbridge_bridge_ports{network="lab"} 2`,
		`drawbridge_port_transmit_bytes_total{network="lab",guest="a\"b\\c\n",port="vnet0"} 20`, `drawbridge_dhcp_pool_used{network="lab"} 7`,
		`drawbridge_dhcp_reply_seconds_bucket{network="lab",le="0.0025"} 0`, `drawbridge_dhcp_reply_seconds_bucket{network="lab",le="0.005"} 2`,
		`drawbridge_dhcp_reply_seconds_bucket{network="lab",le="+Inf"} 3`, `drawbridge_dhcp_reply_seconds_sum{network="lab"} 90.006`, `drawbridge_dhcp_reply_seconds_count{network="lab"} 3`,
		`drawbridge_conntrack_entries 17`, `drawbridge_changes_total{result="confirmed"} 1`, `drawbridge_changes_total{result="stuck"} 0`, `drawbridge_events_total{kind="change"} 3`,
		`drawbridge_event_listeners 1`, `drawbridge_repairs_total 3`, `drawbridge_forwards{network="lab",state="open"} 1`,
	} {
		if !bytes.Contains(text, []byte("\n"+line)) && !bytes.HasPrefix(text, []byte(line)) {
			t.Errorf("there is no line %s", line)
		}
	}
	if bytes.Contains(text, []byte("not-ours")) {
		t.Error("a bridge that is not ours has metrics")
	}
	// Whoever goes is not counted any more.
	listening.body.Close()
	for i := 0; !bytes.Contains(scrapeText(t, socket), []byte("\ndrawbridge_event_listeners 0\n")); i++ {
		f.tell(engine.Event{Kind: engine.LeaseEvent})
		if i > 10000 {
			t.Fatal("the listener is still counted")
		}
	}
}

func TestMetricsStayFewOnALargeHost(t *testing.T) {
	f, socket := metricsServer(t)
	f.set(func() {
		for i := range mostNetworks + 50 {
			n := network(t, spec.NetworkName(fmt.Sprintf("n%03d", i)))
			n.Bridge = fmt.Sprintf("br%d", i)
			f.doc = f.doc.With(n)
		}
		for i := range mostPorts + 100 {
			tap := fmt.Sprintf("tap%d", i)
			f.ports[tap] = engine.Port{Network: "n000", Tap: tap, Guest: "g" + tap, RxBytes: uint64(1000 + i)}
		}
		n := f.doc.Networks["lab"]
		var list []spec.Forward
		for i := range 3000 {
			list = append(list, spec.Forward{Proto: spec.TCP, First: uint16(i + 1), Last: uint16(i + 1), Target: "web", TargetPort: 80})
		}
		f.doc = f.doc.With(n.WithForwards(list))
	})
	text := scrapeText(t, socket)
	families := parsed(t, text)
	total := func(name string) (n int, sum float64) {
		for _, m := range families[name].Metric {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
		return len(families[name].Metric), sum
	}
	if n, sum := total("drawbridge_port_receive_bytes_total"); n != mostPorts+1 || sum != float64(600*1000+599*600/2+10) {
		t.Errorf("%d ports with %.0f bytes", n, sum)
	}
	if n, _ := total("drawbridge_forward_bytes_total"); n != mostForwards+1 {
		t.Errorf("%d forwards", n)
	}
	if n, sum := total("drawbridge_network_wanted"); n != mostNetworks+1 || sum != mostNetworks+51 {
		t.Errorf("%d networks, %.0f wanted", n, sum)
	}
	for _, want := range []string{`{network="other",guest="other",port="other"}`, `port="tap599"`, `{network="other",forward="other"}`} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("there is no %s", want)
		}
	}
	if lines := bytes.Count(text, []byte("\n")); lines > 20000 {
		t.Errorf("%d lines", lines)
	}
}

const dashboard = "../../packaging/grafana/drawbridge.json"

// Prometheus on another host has a read-only token, and comes by TCP.
func TestMetricsByTCPNeedAToken(t *testing.T) {
	s := startSite(t, t.TempDir(), func(c *Config) { c.Sources.Conntrack = func() (int, int, error) { return 17, 262144, nil } })
	token, err := s.client.AddToken(t.Context(), api.TokenRequest{Name: "prometheus", ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(key string) request {
		r := request{method: "GET", path: "/metrics", stranger: true}
		if key != "" {
			r.header = map[string]string{"Authorization": "Bearer " + key}
		}
		return r
	}
	s.want(http.StatusUnauthorized, ask(""))
	s.want(http.StatusUnauthorized, ask("wrong"))
	families := parsed(t, s.want(http.StatusOK, ask(token.Secret)))
	if m := families["drawbridge_conntrack_entries"]; m == nil || m.GetMetric()[0].GetGauge().GetValue() != 17 {
		t.Errorf("connections are %v", m)
	}
	elsewhere := ask(token.Secret)
	elsewhere.host = "metrics.example.com"
	s.want(http.StatusMisdirectedRequest, elsewhere)
	if err := s.client.RemoveToken(t.Context(), "prometheus"); err != nil {
		t.Fatal(err)
	}
	s.want(http.StatusUnauthorized, ask(token.Secret))
}

// Every query of the dashboard names metrics that there are, with labels that
// they have.
func TestTheDashboardAsksForRealMetrics(t *testing.T) {
	raw, err := os.ReadFile(dashboard)
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct{ List []struct{ Query any } }
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	_, socket := metricsServer(t)
	families := parsed(t, scrapeText(t, socket))
	name := regexp.MustCompile(`drawbridge_[a-z_]+`)
	label := regexp.MustCompile(`\{\{ *([a-z_]+) *\}\}|by \(([^)]*)\)|\{([^}]*)\}`)
	queries := 0
	check := func(title, expr, legend string) {
		queries++
		allowed := []string{"le", "instance", "job"}
		found := name.FindAllString(expr, -1)
		if len(found) == 0 {
			t.Errorf("panel %q: %q names no metric", title, expr)
		}
		for _, n := range found {
			f := families[n]
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if base, ok := strings.CutSuffix(n, suffix); ok && f == nil {
					f = families[base]
				}
			}
			if f == nil {
				t.Errorf("panel %q asks for %s, which there is not", title, n)
				continue
			}
			for _, l := range f.Metric[0].Label {
				allowed = append(allowed, l.GetName())
			}
		}
		for _, m := range label.FindAllStringSubmatch(expr+" "+legend, -1) {
			for word := range strings.SplitSeq(m[1]+","+m[2]+","+m[3], ",") {
				word, _, _ = strings.Cut(strings.TrimSpace(word), "=")
				if word = strings.TrimRight(word, "!~ "); word != "" && !slices.Contains(allowed, word) {
					t.Errorf("panel %q: %q, legend %q: no label %q", title, expr, legend, word)
				}
			}
		}
	}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			check(p.Title, target.Expr, target.LegendFormat)
		}
	}
	if queries < 15 {
		t.Errorf("only %d queries", queries)
	}
}

const metricsDoc = "../../docs/metrics.md"

// docs/metrics.md lists the metrics that there are.
func TestTheListOfMetricsIsTrue(t *testing.T) {
	var b strings.Builder
	b.WriteString(metricsHead)
	b.WriteString("\n| metric | type | labels | |\n|---|---|---|---|\n")
	for _, d := range metricDescs() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", d.name, d.kind, strings.Join(d.labels, ", "), d.help)
	}
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(metricsDoc, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(metricsDoc)
	if err != nil || string(got) != b.String() {
		t.Errorf("%s is not true (%v); go test ./internal/rest -update writes it anew", metricsDoc, err)
	}
}

var metricsHead = fmt.Sprintf(`# Metrics

Prometheus reads them at `+"`/metrics`"+`: from the page's address (`+"`drawbridge daemon --listen`"+`) with a read-only token, or from the unix socket.

`+"```yaml"+`
scrape_configs:
  - job_name: drawbridge
    authorization: {credentials_file: /etc/prometheus/drawbridge.token}   # sudo drawbridge token add prometheus --read-only
    static_configs: [{targets: ["127.0.0.1:8420"]}]
`+"```"+`

`+"```"+`
sudo curl --unix-socket /run/drawbridge/drawbridge.sock http://drawbridge/metrics
`+"```"+`

A dashboard for Grafana is in [packaging/grafana/drawbridge.json](../packaging/grafana/drawbridge.json).

The number of time series is bounded whatever the host is like: %d networks, %d ports and %d forwards have metrics of their own, those with the most
traffic so far; all others are added up under the name "other". When one of those changes places with another, "other" goes down, which Prometheus takes for a
restart of the counter: with more ports than that, sum over a network rather than reading "other" alone. Counters of guest services begin anew with their process, those of
changes, repairs and events with the daemon.
`, mostNetworks, mostPorts, mostForwards)
