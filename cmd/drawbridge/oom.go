package main

import (
	"fmt"
	"os"
	"strconv"
)

// Who kills processes when memory is short goes by this, from -1000 (never) to 1000.
const (
	likeOthers = 0
	lastOfAll  = -900
)

// killedLast makes this process one that is killed sooner or later than others when
// memory is short (oom_score_adj in proc(5)).
//
// Without CAP_SYS_RESOURCE, which neither daemon nor guard has, it goes no lower than
// what systemd gave the process or its parent. So the daemon's unit says lastOfAll, the
// daemon takes likeOthers, and its guards what the unit said.
func killedLast(score int) error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(score)), 0); err != nil {
		return fmt.Errorf("when memory is short: %w", err)
	}
	return nil
}
