package api

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Strings that YAML readers of any age may take for something else, or that a
// terminal would obey, must come back as they were.
var difficult = []string{
	"", "no", "y", "off", "010", "1.10", "0x10", "1e3", "~", "null", "true", "10:20:30:40:50:59", "52:54:00:aa:bb:cc", "2026-11-23",
	"a: b", "# c", "- d", " e ", "\x1b[31m", "\u009b2J", "\x7f", "\u202e", "\u2028", "\ufeff", "a\nb", "日本", "🐧", "\ufffd", "'", `"`, "\\", "*a", "&a", "!a", "<<", "=",
}

func TestYAMLAndJSONKeepStrings(t *testing.T) {
	for _, s := range difficult {
		for name, write := range map[string]func(any) ([]byte, error){"YAML": YAML, "JSON": JSON} {
			text, err := write(map[string]any{"v": s, "w": []string{s}})
			if err != nil {
				t.Errorf("%s of %q: %v", name, s, err)
				continue
			}
			var got struct {
				V any
				W []any
			}
			if err := yaml.Unmarshal(text, &got); err != nil || got.V != s || !reflect.DeepEqual(got.W, []any{s}) {
				t.Errorf("%s of %q is read as %#v, %v:\n%s", name, s, got, err, text)
			}
			if strings.ContainsAny(string(text), "\x1b\u009b\x7f\u202e\r") {
				t.Errorf("%s of %q would steer a terminal: %q", name, s, text)
			}
		}
	}
}

func TestYAMLKeepsOrderAndIsBlockStyle(t *testing.T) {
	yes := true
	text, err := YAML(Document{Networks: []DocumentNetwork{{Name: "b", Mode: "nat", Subnets: []Subnet{{CIDR: "10.0.0.0/24", LeaseTime: "60"}}, Started: &yes, UUID: "u"}, {Name: "a"}}})
	want := "networks:\n  - name: b\n    mode: nat\n    subnets:\n      - cidr: 10.0.0.0/24\n        lease_time: 60\n    started: true\n    uuid: u\n  - name: a\n"
	if err != nil || string(text) != want {
		t.Errorf("%v\n%s", err, text)
	}
	if text, err = YAML(Document{Networks: []DocumentNetwork{}}); err != nil || string(text) != "networks: []\n" {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestLeaseTimeIsANumberOrADuration(t *testing.T) {
	for in, want := range map[string]LeaseTime{"3600": "3600", `"1h"`: "1h", `"60"`: "60"} {
		var got LeaseTime
		if err := json.Unmarshal([]byte(in), &got); err != nil || got != want {
			t.Errorf("%s is read as %q, %v", in, got, err)
		}
	}
	for in, want := range map[LeaseTime]string{"3600": "3600", "1h": `"1h"`, "": `""`, "99999999999": `"99999999999"`, "007": `"007"`} {
		if got, err := json.Marshal(in); err != nil || string(got) != want {
			t.Errorf("%s is written as %s, %v", in, got, err)
		}
	}
	var bad LeaseTime
	if err := json.Unmarshal([]byte("{}"), &bad); err == nil {
		t.Error("an object was taken for a lease time")
	}
}
