package spec

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// byHand is the list as a plain slice.
func byHand(list []Forward, f Forward, put bool) []Forward {
	list = slices.DeleteFunc(slices.Clone(list), func(o Forward) bool { return o.Compare(f) == 0 })
	if put {
		list = append(list, f)
	}
	slices.SortFunc(list, Forward.Compare)
	return list
}

func TestForwardsAreAList(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	listens := []netip.Addr{netip.IPv4Unspecified(), netip.MustParseAddr("192.0.2.1"), netip.IPv6Unspecified()}
	for _, many := range []int{3, 3000} { // few collide, many split runs
		var list Forwards
		var plain []Forward
		var earlier Forwards
		var earlierPlain []Forward
		for i := range 3000 {
			f := Forward{Proto: []Proto{TCP, UDP}[r.IntN(2)], Listen: listens[r.IntN(3)], First: uint16(1 + r.IntN(many)), TargetPort: uint16(r.IntN(2)), Target: "g"}
			f.Last = f.First
			put := r.IntN(3) > 0
			if i > 2500 {
				put = r.IntN(4) == 0
			}
			before, beforePlain := list, list.List()
			if plain = byHand(plain, f, put); put {
				list = list.With(f)
			} else {
				list = list.Without(f)
			}
			if !slices.EqualFunc(before.List(), beforePlain, Forward.Equal) {
				t.Fatal("an edit changed the list that it was made of")
			}
			got, found := list.Find(f)
			if found != put || put && !got.Equal(f) {
				t.Fatalf("%s: found %v, %+v", f.Key(), found, got)
			}
			if i%50 != 0 {
				continue
			}
			if list.Len() != len(plain) || !slices.EqualFunc(list.List(), plain, Forward.Equal) || !slices.EqualFunc(slices.Collect(list.All()), plain, Forward.Equal) {
				t.Fatalf("after %d edits it is not the list made by hand", i)
			}
			if again := MakeForwards(plain...); !again.Equal(list) || list.Len() > 0 && list.Equal(list.Without(plain[0])) {
				t.Fatal("equal lists differ, or others do not")
			}
			edited := earlierPlain
			for old, now := range earlier.Changes(list) {
				switch {
				case now == nil:
					edited = byHand(edited, *old, false)
				case old != nil && old.Compare(*now) != 0 || old != nil && old.Equal(*now):
					t.Fatalf("%+v became %+v", old, now)
				default:
					edited = byHand(edited, *now, true)
				}
			}
			if !slices.EqualFunc(edited, plain, Forward.Equal) {
				t.Fatal("the changes do not lead from one list to the other")
			}
			earlier, earlierPlain = list, plain
			b, err := json.Marshal(list)
			var back Forwards
			if err == nil {
				err = json.Unmarshal(b, &back)
			}
			if err != nil || !back.Equal(list) {
				t.Fatalf("JSON: %v", err)
			}
		}
	}
}

// TestOneForwardOfManyIsChangedAlone looks at how much of a large list is new
// after an edit.
func TestOneForwardOfManyIsChangedAlone(t *testing.T) {
	var all []Forward
	for i := range 30000 {
		all = append(all, Forward{Proto: TCP, Listen: netip.IPv4Unspecified(), First: uint16(1 + i), Last: uint16(1 + i)})
	}
	list := MakeForwards(all...)
	f := Forward{Proto: TCP, Listen: netip.IPv4Unspecified(), First: 40000, Last: 40000}
	for name, later := range map[string]Forwards{
		"added": list.With(f), "replaced": list.With(Forward{Proto: TCP, Listen: f.Listen, First: 9, Last: 9, Target: "g"}), "removed": list.Without(all[15000]),
	} {
		a, b := &cursor{runs: list.runs}, &cursor{runs: later.runs}
		walked := 0
		for {
			skipShared(a, b)
			if a.next() == nil && b.next() == nil {
				break
			}
			walked++
			if b.next() == nil || a.next() != nil && a.next().Compare(*b.next()) < 0 {
				a.step()
			} else if a.next() == nil || a.next().Compare(*b.next()) > 0 {
				b.step()
			} else {
				a.step()
				b.step()
			}
		}
		if walked > 2*longestRun {
			t.Errorf("%s: %d forwards are looked at to find the one that changed", name, walked)
		}
	}
}
