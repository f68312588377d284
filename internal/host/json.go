package host

import (
	"encoding/json"
	"fmt"
)

// tagged is the form of a resource on disk and on the wire between our own
// processes: the kind, so that it can be read back, and the value.
type tagged struct {
	Kind  Kind            `json:"kind"`
	Value json.RawMessage `json:"value"`
}

// MarshalResource writes a resource with its kind; nil becomes null.
func MarshalResource(r Resource) ([]byte, error) {
	if r == nil {
		return []byte("null"), nil
	}
	value, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", r.Key(), err)
	}
	// As json.Marshal would write tagged, without reading the value once more: a
	// change of many things writes each of them several times.
	b := make([]byte, 0, len(value)+len(`{"kind":"router-advertisement","value":}`))
	b = append(append(b, `{"kind":"`...), r.Key().Kind...)
	b = append(append(b, `","value":`...), value...)
	return append(b, '}'), nil
}

// UnmarshalResource reads what MarshalResource wrote.
func UnmarshalResource(b []byte) (Resource, error) {
	if string(b) == "null" {
		return nil, nil
	}
	var t tagged
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("decode resource: %w", err)
	}
	decode, ok := decoders[t.Kind]
	if !ok {
		return nil, fmt.Errorf("decode resource: unknown kind %q", t.Kind)
	}
	return decode(t.Value)
}

var decoders = map[Kind]func([]byte) (Resource, error){
	KindLink: decode[Link], KindAddress: decode[Address], KindRoute: decode[Route], KindRule: decode[Rule], KindNIC: decode[NIC], KindSysctl: decode[Sysctl],
	KindTable: decode[Table], KindSet: decode[Set], KindChain: decode[Chain], KindElement: decode[Element],
	KindPool: decode[Pool], KindReservation: decode[Reservation], KindRouter: decode[Router], KindZone: decode[Zone],
	KindGuest: decode[Guest], KindResolver: decode[Resolver], KindSnoop: decode[Snoop],
	KindProfile: decode[Profile], KindAccept: decode[Accept], KindInZone: decode[InZone], KindUnmanaged: decode[Unmanaged],
	KindFeature: decode[Feature],
}

func decode[R Resource](b []byte) (Resource, error) {
	var r R
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("decode resource: %w", err)
	}
	return r, nil
}

// MarshalJSON writes a state as a list of tagged resources in a stable order.
func (s State) MarshalJSON() ([]byte, error) {
	list := []byte{'['}
	for i, k := range s.Keys() {
		b, err := MarshalResource(s[k])
		if err != nil {
			return nil, err
		}
		if i > 0 {
			list = append(list, ',')
		}
		list = append(list, b...)
	}
	return append(list, ']'), nil
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *State) UnmarshalJSON(b []byte) error {
	var list []json.RawMessage
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("decode state: %w", err)
	}
	*s = make(State, len(list))
	for _, raw := range list {
		r, err := UnmarshalResource(raw)
		if err != nil {
			return err
		}
		if r == nil {
			return fmt.Errorf("decode state: null resource")
		}
		s.Add(r)
	}
	return nil
}

type claimJSON struct {
	Kind     ClaimKind       `json:"kind"`
	Original json.RawMessage `json:"original,omitempty"`
}

// MarshalJSON writes the claim with its original tagged.
func (c Claim) MarshalJSON() ([]byte, error) {
	out := claimJSON{Kind: c.Kind}
	if c.Original != nil {
		b, err := MarshalResource(c.Original)
		if err != nil {
			return nil, err
		}
		out.Original = b
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *Claim) UnmarshalJSON(b []byte) error {
	var in claimJSON
	if err := json.Unmarshal(b, &in); err != nil {
		return fmt.Errorf("decode claim: %w", err)
	}
	*c = Claim{Kind: in.Kind}
	if in.Original == nil {
		return nil
	}
	r, err := UnmarshalResource(in.Original)
	c.Original = r
	return err
}

// MarshalText writes a key so that it can be the key of a JSON object.
func (k Key) MarshalText() ([]byte, error) { return []byte(string(k.Kind) + " " + k.Name), nil }

// UnmarshalText reads what MarshalText wrote.
func (k *Key) UnmarshalText(b []byte) error {
	for i, c := range b {
		if c == ' ' {
			*k = Key{Kind(b[:i]), string(b[i+1:])}
			return nil
		}
	}
	return fmt.Errorf("decode key %q: no space", b)
}
