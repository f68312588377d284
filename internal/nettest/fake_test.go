package nettest

import (
	"testing"

	"drawbridge/internal/txn"
)

func TestFakeContract(t *testing.T) {
	Contract(t, func(*testing.T) txn.Host { return NewFake() }, nil)
}
