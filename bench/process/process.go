// Package process is what other processes cost: their processor time and memory.
package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// RaiseFiles lets this process and those that it starts open so many files: as far
// as the limit goes, or, with privilege (CAP_SYS_RESOURCE), beyond.
func RaiseFiles(want uint64) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if limit.Max < want {
		more := unix.Rlimit{Cur: want, Max: want}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &more) == nil {
			return nil
		}
	}
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}

// CPU is the time that a process has run for so far, all threads.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("process %d has ended: %w", pid, err)
	}
	// The name in parentheses may contain anything (proc_pid_stat(5)).
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	ticks := 0
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// RunDelay is how long a process's threads could run and did not, all together
// (schedstats, second field of /proc/PID/task/TID/schedstat).
func RunDelay(pid int) (sum time.Duration) {
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, name := range names {
		b, _ := os.ReadFile(name) // a thread may be gone
		var ran, waited int64
		if n, _ := fmt.Sscan(string(b), &ran, &waited); n == 2 {
			sum += time.Duration(waited)
		}
	}
	return sum
}

// PeakMemory is the most resident memory that a process ever had, in bytes.
func PeakMemory(pid int) (int64, error) { return memory(pid, "status", "VmHWM:") }

// Memory is a process's resident memory, in bytes.
func Memory(pid int) (int64, error) { return memory(pid, "status", "VmRSS:") }

// Proportional is the same, but of pages that several processes share only this
// one's part (proc_pid_smaps_rollup(5)): the sum over processes is what they take.
func Proportional(pid int) (int64, error) { return memory(pid, "smaps_rollup", "Pss:") }

func memory(pid int, file, field string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, fmt.Errorf("process %d has ended: %w", pid, err)
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, field); ok {
			kB, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 10, 64)
			return kB << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc/%d/%s", field, pid, file)
}
