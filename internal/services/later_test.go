package services

import (
	"testing"
	"time"
)

type slowCloser struct {
	closes  chan<- *slowCloser
	proceed <-chan struct{}
}

func (c *slowCloser) Close() error {
	c.closes <- c
	<-c.proceed
	return nil
}

// Nobody waits for what is closed later, it is closed in turn, and all of it.
func TestLaterClosesOneAfterTheOther(t *testing.T) {
	closes, proceed := make(chan *slowCloser), make(chan struct{})
	var l later
	for range 2 { // the row was empty in between
		var row []*slowCloser
		for range 5 {
			c := &slowCloser{closes, proceed}
			row = append(row, c)
			l.close(c)
		}
		for i, want := range row {
			select {
			case got := <-closes:
				if got != want {
					t.Fatalf("closed as number %d was another", i)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("number %d is not closed", i)
			}
			select {
			case <-closes:
				t.Fatal("the next is closed before this one is")
			default:
			}
			proceed <- struct{}{}
		}
	}
}
