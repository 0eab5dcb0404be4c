package agent

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// hostStats reports CPU and memory once a second while a collector is attached: those
// of the host or, for a node with its own PID namespace such as those of CORE and
// containers, those of the node's processes.
type hostStats struct {
	publish   func(...wire.Record)
	processes *processes // of the node; nil for the host
	wanted    atomic.Bool
	sent      atomic.Uint64
}

func newHostStats(publish func(...wire.Record)) *hostStats {
	h := &hostStats{publish: publish}
	if inNode() && ownProc() {
		h.processes = &processes{proc: "/proc"}
	}
	return h
}

// String returns whose statistics they are.
func (h *hostStats) String() string {
	switch {
	case h.processes != nil:
		return "those of the processes in this PID namespace"
	case inNode():
		return "this host's, as /proc is not that of this PID namespace (mount -t proc proc /proc)"
	}
	return "this host's"
}

func (h *hostStats) cpu() (cpuTime, error) {
	c, err := readCPU()
	if err == nil && h.processes != nil {
		return h.processes.cpu(c)
	}
	return c, err
}

func (h *hostStats) memory() (uint64, error) {
	if h.processes != nil {
		return h.processes.memory()
	}
	return readMemory()
}

func (h *hostStats) attached(yes bool) { h.wanted.Store(yes) }

func (h *hostStats) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, err := h.cpu()
	if err != nil {
		return fmt.Errorf("-stats: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := h.cpu()
		if err != nil {
			return fmt.Errorf("-stats: %w", err)
		}
		if h.wanted.Load() {
			used, err := h.memory()
			if err != nil {
				return fmt.Errorf("-stats: %w", err)
			}
			t := time.Now().UnixNano()
			h.publish(wire.CPUStat(t, now.since(last)), wire.MemoryStat(t, used))
			h.sent.Add(2)
		}
		last = now
	}
}

// cpuTime is the accumulated time of all processors since boot, in ticks.
type cpuTime struct{ busy, idle uint64 }

// since returns the busy ticks (1/100 s) per processor and second between the two: 0 to
// 100, regardless of the time between them.
func (c cpuTime) since(last cpuTime) uint32 {
	// Idle time may decrease slightly when a processor goes offline.
	busy, idle := c.busy-min(last.busy, c.busy), c.idle-min(last.idle, c.idle)
	if busy+idle == 0 {
		return 0
	}
	return uint32((busy*100 + (busy+idle)/2) / (busy + idle))
}

// readCPU reads the first line of /proc/stat (proc_stat(5)): user nice system idle
// iowait irq softirq steal guest guest_nice. The guest times are included in user and
// nice.
func readCPU() (cpuTime, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cpuTime{}, err
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return parseCPU(line)
}

func parseCPU(line []byte) (c cpuTime, err error) {
	fields := bytes.Fields(line)
	if len(fields) < 5 || string(fields[0]) != "cpu" {
		return c, fmt.Errorf("/proc/stat begins with %q", line)
	}
	for i, f := range fields[1:min(len(fields), 9)] {
		ticks, err := strconv.ParseUint(string(f), 10, 64)
		if err != nil {
			return c, fmt.Errorf("/proc/stat: %w", err)
		}
		if i == 3 || i == 4 { // idle, iowait
			c.idle += ticks
		} else {
			c.busy += ticks
		}
	}
	return c, nil
}

// readMemory returns the memory in use in kB: what is not available to programs without
// swapping (proc_meminfo(5)). Caches do not count.
func readMemory() (uint64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return parseMemory(data)
}

func parseMemory(data []byte) (uint64, error) {
	var total, available uint64
	for scan := bufio.NewScanner(bytes.NewReader(data)); scan.Scan(); {
		var to *uint64
		f := bytes.Fields(scan.Bytes())
		switch {
		case len(f) < 2:
			continue
		case string(f[0]) == "MemTotal:":
			to = &total
		case string(f[0]) == "MemAvailable:":
			to = &available
		default:
			continue
		}
		v, err := strconv.ParseUint(string(f[1]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/meminfo: %w", err)
		}
		*to = v
	}
	if total == 0 || available == 0 || available > total {
		return 0, fmt.Errorf("/proc/meminfo: no MemTotal and MemAvailable")
	}
	return total - available, nil
}
