package services

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// Loops that end together must not wait for one another: here none returns
// before all that end at one time were told.
func TestLoopsEndTogether(t *testing.T) {
	var told sync.WaitGroup
	told.Add(endTogether)
	var loops []running
	for range endTogether {
		loops = append(loops, run(t.Context(), func(ctx context.Context) error {
			<-ctx.Done()
			told.Done()
			told.Wait()
			return errors.New("use of closed socket")
		}, func(err error) { t.Errorf("an end that was asked for was told as a failure: %v", err) }))
	}
	end(loops) // go test's own limit if it hangs
	for i, l := range loops {
		select {
		case <-l.ended:
		default:
			t.Errorf("end returned before loop %d had", i)
		}
	}
}

func TestAnyNumberOfLoopsEnds(t *testing.T) {
	for _, n := range []int{0, 1, endTogether + 1, 3 * endTogether} {
		var loops []running
		for range n {
			loops = append(loops, run(t.Context(), func(ctx context.Context) error { <-ctx.Done(); return nil }, nil))
		}
		end(loops)
		for i, l := range loops {
			select {
			case <-l.ended:
			default:
				t.Errorf("of %d loops, %d goes on", n, i)
			}
		}
	}
}

func TestALoopThatFailsIsTold(t *testing.T) {
	broken := errors.New("the socket broke")
	told := make(chan error, 1)
	l := run(t.Context(), func(context.Context) error { return broken }, func(err error) { told <- err })
	if err := <-told; !errors.Is(err, broken) {
		t.Errorf("told %v", err)
	}
	end([]running{l})
}
