package services

import (
	"drawbridge/internal/dhcp"
	"drawbridge/internal/dns"
)

// Counts are what the guest services counted since their process began.
type Counts struct {
	DHCP []dhcp.Stats `json:"dhcp"`
	// DNS by bridge.
	DNS map[string]dns.Stats `json:"dns"`
}

// Counts asks the process what it counted; a process of an older version says
// nothing.
func (a *Adapter) Counts() (Counts, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	reply, err := a.ask(message{Count: true}, nil)
	if err != nil || reply.Counted == nil {
		return Counts{}, err
	}
	return *reply.Counted, nil
}
