package dnsload

import (
	"testing"
	"time"
)

// What dnsperf 2.10 prints.
const report = `Statistics:

  Queries sent:         493215
  Queries completed:    493210 (100.00%)
  Queries lost:         5 (0.00%)

  Response codes:       NOERROR 493000 (99.96%), NXDOMAIN 210 (0.04%)
  Average packet size:  request 40, response 56
  Run time (s):         3.000512
  Queries per second:   164375.279992

  Average Latency (s):  0.001135 (min 0.000024, max 0.012345)
  Latency StdDev (s):   0.000412
`

func TestParse(t *testing.T) {
	r, err := parse(report)
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent != 493215 || r.Lost != 5 || int(r.PerSecond) != 164375 || r.Latency != 1135*time.Microsecond ||
		len(r.Codes) != 2 || r.Codes["NOERROR"] != 493000 || r.Codes["NXDOMAIN"] != 210 {
		t.Errorf("read as %+v", r)
	}
	if _, err := parse("Error: nothing to ask\n"); err == nil {
		t.Error("a report without figures is taken for one")
	}
}
