package agent

import (
	"fmt"
	"os"
	"slices"
	"strconv"
)

// monitorSlack is how far the kernel may delay the runtime's monitor thread, which
// sleeps for 20 microseconds at a time while any goroutine runs.
const monitorSlack = 1_000_000 // ns

// calmMonitor lets the kernel coalesce the sleeps of the runtime's monitor thread
// (/proc/PID/timerslack_ns, proc(5)). At a million packets per second that thread would
// take a tenth of our CPU time, although all it has to detect is a blocking system
// call, for which a millisecond is soon enough. Setting the slack takes CAP_SYS_NICE;
// without it everything works, at a higher cost.
func calmMonitor() error {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	var tids []int
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil && tid != os.Getpid() {
			tids = append(tids, tid)
		}
	}
	if len(tids) == 0 {
		return nil
	}
	// The runtime starts the monitor before any other thread.
	path := fmt.Sprintf("/proc/%d/timerslack_ns", slices.Min(tids))
	return os.WriteFile(path, []byte(strconv.Itoa(monitorSlack)), 0)
}
