package ra

import (
	"testing"

	"drawbridge/internal/nettest"
)

func TestMain(m *testing.M) { nettest.Main(m) }
