package linux

import (
	"fmt"
	"testing"

	"drawbridge/internal/host"
	"drawbridge/internal/plan"
)

// BenchmarkNFTRuleset makes and deletes both tables with all chains, sets and
// two networks, as the first network's start and the last one's stop do.
func BenchmarkNFTRuleset(b *testing.B) {
	a := freshNFT(b)
	s := twoNetworks()
	up, down := making(s), unmaking(s)
	b.Run("make", func(b *testing.B) {
		for b.Loop() {
			mustApply(b, a, up)
			b.StopTimer()
			mustApply(b, a, down)
			b.StartTimer()
		}
	})
	b.Run("delete", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			mustApply(b, a, up)
			b.StartTimer()
			mustApply(b, a, down)
		}
	})
	b.Run("nothing to do", func(b *testing.B) {
		mustApply(b, a, up)
		for b.Loop() {
			mustObserve(b, a, nil)
		}
	})
}

// BenchmarkNFTNetwork adds and removes the elements of one more network.
func BenchmarkNFTNetwork(b *testing.B) {
	a := freshNFT(b)
	mustApply(b, a, making(twoNetworks()))
	s := host.NewState(
		element("bridges", "virbr9", ""), element("within", "virbr9 . virbr9", ""),
		element("from_guests", "virbr9", "jump from_nat"), element("to_guests", "virbr9", "jump to_nat"),
		element("sources4", "virbr9 . 10.9.0.0/24", ""), element("hidden4", "10.9.0.0/24", ""),
		element("sources6", "virbr9 . fd09::/64", ""), element("hidden6", "fd09::/64", ""))
	up, down, keys := making(s), unmaking(s), s.Keys()
	b.Run("add", func(b *testing.B) {
		for b.Loop() {
			mustApply(b, a, up)
			b.StopTimer()
			mustApply(b, a, down)
			b.StartTimer()
		}
	})
	b.Run("remove", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			mustApply(b, a, up)
			b.StartTimer()
			mustApply(b, a, down)
		}
	})
	b.Run("remove what is gone", func(b *testing.B) {
		for b.Loop() {
			mustApply(b, a, down)
		}
	})
	b.Run("observe", func(b *testing.B) {
		mustApply(b, a, up)
		for b.Loop() {
			mustObserve(b, a, keys)
		}
	})
}

func BenchmarkNFTForwards(b *testing.B) {
	for _, n := range []int{10, 30000} {
		a := freshNFT(b)
		s := forwards(n)
		up := making(s)
		b.Run(fmt.Sprintf("load %d", n), func(b *testing.B) {
			for b.Loop() {
				mustApply(b, a, up)
				b.StopTimer()
				nftOutput(b, "flush", "ruleset")
				b.StartTimer()
			}
		})
		mustApply(b, a, up)
		one := element("exact", "10.99.0.1 . tcp . 1", "10.0.0.1 . 80")
		wide := element("ranges", "10.99.0.1 . tcp . 1-10000", "10.0.0.1")
		for name, e := range map[string]host.Element{"one": one, "range": wide} {
			b.Run(fmt.Sprintf("add and remove %s of %d", name, n), func(b *testing.B) {
				for b.Loop() {
					mustApply(b, a, []plan.Step{{After: e}})
					mustApply(b, a, []plan.Step{{Before: e}})
				}
			})
			b.Run(fmt.Sprintf("observe %s of %d", name, n), func(b *testing.B) {
				for b.Loop() {
					mustObserve(b, a, []host.Key{e.Key()})
				}
			})
		}
		b.Run(fmt.Sprintf("observe all %d", n), func(b *testing.B) {
			for b.Loop() {
				mustObserve(b, a, nil)
			}
		})
	}
}
