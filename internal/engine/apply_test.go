package engine_test

import (
	"net/netip"
	"testing"

	"drawbridge/internal/engine"
	"drawbridge/internal/plan"
	"drawbridge/internal/spec"
)

// TestApplyOfForwardsAsPeopleWriteThem applies a document that differs from what is there in
// its forwards at most, which leave open what people leave open, as an exported one does.
func TestApplyOfForwardsAsPeopleWriteThem(t *testing.T) {
	e, _, _ := newHost(t)
	web := spec.Forward{Proto: spec.TCP, First: 8080, Last: 8080, Target: "192.168.122.9", TargetPort: 80}
	ssh := spec.Forward{Proto: spec.TCP, First: 22, Last: 22, Target: "192.168.122.9"}
	// With this one the network needs the same of the host whatever becomes of the others.
	own := spec.Forward{Proto: spec.TCP, Listen: netip.MustParseAddr("127.0.0.1"), First: 7000, Last: 7000, Target: "192.168.122.9", TargetPort: 70}
	done(t, e, network("default"))
	done(t, e, engine.AddForward{Network: "default", Forwards: []spec.Forward{web, own}})
	apply := func(doors ...spec.Forward) engine.Result {
		t.Helper()
		doc := e.Store.Document().Clone()
		doc = doc.With(doc.Networks["default"].WithForwards(append(doors, own)))
		res, err := e.Do(t.Context(), engine.ApplyDocument{Document: doc}, engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := apply(web); res.ID != "" || len(res.Steps) != 0 {
		t.Errorf("what is there already: %+v", res.Steps)
	}
	if res := apply(web, ssh); len(res.Steps) != 1 || res.Risk != plan.RiskNone {
		t.Errorf("one more: %+v", res.Steps)
	}
	if res := apply(ssh, web); res.ID != "" || len(res.Steps) != 0 {
		t.Errorf("in another order: %+v", res.Steps)
	}
	if res := apply(); len(res.Steps) != 2 {
		t.Errorf("none: %+v", res.Steps)
	}
}
