package agent

import (
	"strings"
	"testing"
)

func TestCPU(t *testing.T) {
	// user nice system idle iowait irq softirq steal guest guest_nice
	before, err := parseCPU([]byte("cpu  100 10 50 1000 40 5 5 0 90 0"))
	if err != nil || before != (cpuTime{busy: 170, idle: 1040}) {
		t.Fatalf("%+v, %v", before, err)
	}
	for _, tt := range []struct {
		line string
		want uint32 // ticks per CPU and second
	}{
		{"cpu  100 10 50 1200 40 5 5 0 90 0", 0},     // two idle CPUs
		{"cpu  300 10 50 1000 40 5 5 0 290 0", 100},  // two busy ones, with guests
		{"cpu  150 10 100 1000 140 5 5 0 90 0", 50},  // one of them waits for the disk
		{"cpu  103 10 50 1197 40 5 5 0 90 0", 2},     // 1.5 %, rounded
		{"cpu  100 10 50 1000 40 5 5 0 90 0", 0},     // no time at all
		{"cpu  200 10 50 900 40 5 5 0 90 0", 100},    // idle time stepped back
		{"cpu  1100 10 50 2000 40 5 5 0 90 0", 50},   // ten seconds later
		{"cpu  100 10 50 1000 40 5 5 200 90 0", 100}, // stolen by the hypervisor
	} {
		now, err := parseCPU([]byte(tt.line))
		if got := now.since(before); err != nil || got != tt.want {
			t.Errorf("%s: %d, %v, want %d", tt.line, got, err, tt.want)
		}
	}
	for _, line := range []string{"", "intr 1 2 3 4 5", "cpu 1 2 3", "cpu a b c d e"} {
		if _, err := parseCPU([]byte(line)); err == nil {
			t.Errorf("%q is taken", line)
		}
	}
	if now, err := readCPU(); err != nil || now.busy == 0 || now.idle == 0 {
		t.Errorf("this host: %+v, %v", now, err)
	}
}

func TestMemory(t *testing.T) {
	const info = `MemTotal:       24576000 kB
MemFree:          100000 kB
MemAvailable:   20000000 kB
Buffers:           50000 kB
Cached:         19000000 kB
`
	if used, err := parseMemory([]byte(info)); err != nil || used != 4576000 {
		t.Errorf("%d kB, %v: want 4576000, caches not counted", used, err)
	}
	for _, bad := range []string{"", strings.Replace(info, "MemAvailable", "x", 1), strings.Replace(info, "24576000", "lots", 1)} {
		if _, err := parseMemory([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if used, err := readMemory(); err != nil || used == 0 {
		t.Errorf("this host: %d kB, %v", used, err)
	}
}
