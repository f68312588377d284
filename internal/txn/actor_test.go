package txn

import "testing"

func TestActorsInWords(t *testing.T) {
	for want, a := range map[string]Actor{
		"":                               {},
		"alice with drawbridge (pid 42)": {Kind: ByUser, Name: "alice", UID: 1000, PID: 42, Process: "drawbridge"},
		"alice (pid 42)":                 {Kind: ByUser, Name: "alice", PID: 42},
		"alice":                          {Kind: ByUser, Name: "alice"},
		"nft (pid 7)":                    {Kind: ByOther, PID: 7, Process: "nft"},
		"(pid 7)":                        {Kind: ByOther, PID: 7},
		"token wall":                     {Kind: ByToken, Name: "wall"},
		"page login 7 (root)":            {Kind: ByPage, Name: "login 7 (root)"},
		"drift repair":                   {Kind: ByRepair},
		"drift repair after nft (pid 7)": {Kind: ByRepair, Name: "nft (pid 7)"},
		"the daemon":                     {Kind: ByFollow},
		"the daemon after nft (pid 7)":   {Kind: ByFollow, Name: "nft (pid 7)"},
		"start of the daemon":            {Kind: ByStart},
		"the clock":                      {Kind: ByClock},
	} {
		if got := a.String(); got != want {
			t.Errorf("%+v is %q, want %q", a, got, want)
		}
	}
}
