package render

import (
	"errors"
	"net/netip"
	"testing"

	"drawbridge/internal/spec"
)

// What faces are told of a mode is what it takes.
func TestModesWithForwards(t *testing.T) {
	list := spec.Forwards{}.With(spec.Forward{Proto: spec.TCP, Target: "web", TargetPort: 80})
	for _, m := range Modes {
		n := spec.Network{Name: "lab", Mode: m.Name(), Bridge: "virbr7", Forwards: list}
		switch m.Name() {
		case "bridged":
			n.Uplinks = []string{"eth0"}
		case "direct":
			n.Uplinks, n.Bridge = []string{"eth0"}, ""
		default:
			n.Subnets = []spec.Subnet{{Prefix: netip.MustParsePrefix("10.9.0.0/24"), Gateway: netip.MustParseAddr("10.9.0.1")}}
		}
		err := m.Validate(n)
		var bad *spec.InvalidError
		if refused := errors.As(err, &bad) && bad.Field == "forward"; refused == HasForwards(m.Name()) || err != nil && !refused {
			t.Errorf("%s: HasForwards says %v, and Validate %v", m.Name(), HasForwards(m.Name()), err)
		}
	}
}
