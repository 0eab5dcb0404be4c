package agent

import (
	"fmt"
	"os"
	"slices"
	"strconv"
)

// monitorSlack is by how much the kernel may delay the runtime's monitor
// thread, which sleeps for 20 microseconds at a time while anything runs.
const monitorSlack = 1_000_000 // ns

// calmMonitor lets the kernel put the sleeps of the runtime's monitor thread
// together (/proc/PID/timerslack_ns, proc(5)). At a million packets a second it
// would take a tenth of our CPU time, and all it has to find out is that a
// system call blocks, for which a millisecond is soon enough. The kernel asks
// for CAP_SYS_NICE; without it everything works as well, and costs more.
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
