package rest

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"drawbridge/internal/latency"
)

// promText writes metrics in Prometheus' text format, version 0.0.4
// (https://prometheus.io/docs/instrumenting/exposition_formats). Every value is
// read from elsewhere when it is asked for, so that a library's registry would
// only hold copies; Prometheus' own parser and linter check it in the tests.
type promText struct {
	buf  bytes.Buffer
	kind string
	name string
}

// family begins a metric; its samples follow.
func (p *promText) family(d metricDesc) {
	p.name, p.kind = d.name, d.kind
	p.buf.WriteString("# HELP " + d.name + " " + strings.NewReplacer("\\", `\\`, "\n", `\n`).Replace(d.help) + "\n")
	p.buf.WriteString("# TYPE " + d.name + " " + d.kind + "\n")
}

func (p *promText) value(suffix string, labels []string, v float64) {
	p.buf.WriteString(p.name + suffix)
	for i := 0; i+1 < len(labels); i += 2 {
		p.buf.WriteByte("{,"[min(i, 1)])
		p.buf.WriteString(labels[i] + `="` + strings.NewReplacer("\\", `\\`, "\n", `\n`, `"`, `\"`).Replace(strings.ToValidUTF8(labels[i+1], "?")) + `"`)
	}
	if len(labels) > 0 {
		p.buf.WriteByte('}')
	}
	p.buf.WriteString(" " + strconv.FormatFloat(v, 'g', -1, 64) + "\n")
}

// histogram writes a snapshot; buckets count all that is below their end.
func (p *promText) histogram(labels []string, s latency.Snapshot) {
	var below uint64
	bounds := latency.Bounds()
	for i, n := range s.Counts {
		below += n
		end := "+Inf"
		if i < len(bounds) {
			end = strconv.FormatFloat(bounds[i].Seconds(), 'g', -1, 64)
		}
		p.value("_bucket", slices.Concat(labels, []string{"le", end}), float64(below))
	}
	p.value("_sum", labels, s.Sum.Seconds())
	p.value("_count", labels, float64(below))
}
