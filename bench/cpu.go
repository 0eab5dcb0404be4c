package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pinThread binds the calling thread, and what it will start, to a processor.
func pinThread(cpu int) error { return pin(0, cpu) }

func pin(tid, cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(tid, &set); err != nil {
		return fmt.Errorf("bind to processor %d: %w", cpu, err)
	}
	return nil
}

// keepBusy runs a process of the taps' priority that does nothing but use a
// processor, until stop.
func keepBusy(cpu int) (stop func(), err error) {
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	onCPU(cpu, func(pinned error) {
		if err = pinned; err == nil {
			err = cmd.Start()
		}
	})
	if err != nil {
		return nil, fmt.Errorf("busy process: %w", err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}, nil
}

// threadCPU is the time that the calling thread has run for, the kernel's work
// in its place (soft interrupts) included.
func threadCPU() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano())
}

// processCPU is the time that all threads of a process have run for, also those
// that have ended, user and system, in nanoseconds: the clock that
// clock_getcpuclockid(3) names.
func processCPU(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	const schedClock = 2 // CPUCLOCK_SCHED
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &ts); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// tick is the unit of /proc/stat: USER_HZ, 100 on all of Linux.
const tick = 10 * time.Millisecond

// clock is a moment, and how long all processors together have been idle until
// then.
type clock struct {
	wall time.Time
	idle time.Duration
	cpus int
}

// readClock takes idle time, which kernels that stop the tick when idle measure
// exactly, and not busy time, which they sample.
func readClock() (clock, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return clock{}, err
	}
	c := clock{wall: time.Now()}
	c.idle, c.cpus, err = parseStat(string(stat))
	return c, err
}

// busySince is how long processors were busy, their times added up.
func (c clock) busySince(o clock) time.Duration {
	return time.Duration(c.cpus)*c.wall.Sub(o.wall) - (c.idle - o.idle)
}

// parseStat reads /proc/stat (proc_stat(5)): idle and iowait of the first line,
// and how many lines there are for single processors.
func parseStat(stat string) (idle time.Duration, cpus int, err error) {
	line, rest, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var ticks int64
	for _, i := range []int{4, 5} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	for line := range strings.Lines(rest) {
		if strings.HasPrefix(line, "cpu") {
			cpus++
		}
	}
	return time.Duration(ticks) * tick, cpus, nil
}

// resetPeak begins peakRSS anew: see clear_refs in proc(5).
func resetPeak(pid int) error {
	if pid == 0 {
		return nil
	}
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// peakRSS is the most memory that the process has had since resetPeak, in bytes: VmHWM.
func peakRSS(pid int) (uint64, error) {
	if pid == 0 {
		return 0, nil
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return parseHWM(string(status))
}

func parseHWM(status string) (uint64, error) {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kB, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kB << 10, err
		}
	}
	return 0, fmt.Errorf("no VmHWM in the process's status")
}
