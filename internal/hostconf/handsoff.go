package hostconf

import (
	"context"
	"fmt"
	"strings"
)

// reservation is the files that keep managers' hands off a bridge that is about
// to be made. A file for the bridge itself, once written, comes before them.
func reservation(t tree, bridge string) []file {
	var files []file
	if t.exists(networkdState) {
		files = append(files, file{
			Path:  "/run/systemd/network/06-drawbridge-" + bridge + ".network",
			After: fmt.Appendf(nil, "# Drawbridge: this bridge is being made, and is none of networkd's.\n[Match]\nName=%s\n\n[Link]\nUnmanaged=yes\n", bridge),
		})
	}
	return files
}

// reserve makes running managers read such files.
func reserve(ctx context.Context, t tree) error {
	if t.running("systemd-network") {
		return networkdReload(ctx)
	}
	return nil
}

// handsOffFiles are where the managers are told that links of these names (with
// * as in a shell) are none of theirs, and how.
func handsOffFiles(names []string) []file {
	return []file{
		{
			Path: "/run/systemd/network/06-drawbridge.network",
			After: []byte("# Drawbridge: guests' ports and their bridges are none of networkd's.\n[Match]\nName=" +
				strings.Join(names, " ") + "\n\n[Link]\nUnmanaged=yes\n"),
		},
	}
}
