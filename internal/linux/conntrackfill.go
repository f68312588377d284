package linux

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ConntrackFill reads how many connections the kernel tracks in this network
// namespace, and how many it can (nf_conntrack-sysctl.rst). The error is
// fs.ErrNotExist while the kernel has no connection tracking.
func ConntrackFill() (entries, limit int, err error) {
	read := func(name string) (int, error) {
		b, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(string(b)))
	}
	entries, err1 := read("nf_conntrack_count")
	limit, err2 := read("nf_conntrack_max")
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, fmt.Errorf("read how many connections are tracked: %w", err)
	}
	return entries, limit, nil
}
