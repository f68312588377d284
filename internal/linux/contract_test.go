package linux

import (
	"testing"

	"drawbridge/internal/nettest"
	"drawbridge/internal/txn"
)

func TestContract(t *testing.T) {
	nettest.Need(t, nettest.Namespace, nettest.Tun, "ip", "nft")
	nettest.Contract(t, func(t *testing.T) txn.Host { return newHost(t) }, opinion)
}
