package agent

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// One thread, and not the first, is allowed to be late.
func TestCalmMonitor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("reading another thread's timer slack needs CAP_SYS_NICE")
	}
	if err := calmMonitor(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	var calm []string
	for _, e := range entries {
		slack, err := os.ReadFile(fmt.Sprintf("/proc/%s/timerslack_ns", e.Name()))
		if err != nil {
			continue // it has ended
		}
		if strings.TrimSpace(string(slack)) == strconv.Itoa(monitorSlack) {
			calm = append(calm, e.Name())
		}
	}
	if len(calm) != 1 || calm[0] == strconv.Itoa(os.Getpid()) {
		t.Errorf("threads %v have the slack, want one that is not %d", calm, os.Getpid())
	}
}
