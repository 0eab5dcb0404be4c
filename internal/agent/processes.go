package agent

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// initPID is the inode of the first PID namespace (PROC_PID_INIT_INO of
// linux/proc_ns.h).
const initPID = 0xEFFFFFFC

// inNode reports whether the program has a PID namespace that is not the host's
// (pid_namespaces(7)).
func inNode() bool {
	link, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && link != fmt.Sprintf("pid:[%d]", uint32(initPID))
}

// ownProc reports whether /proc shows the program's own PID namespace.
func ownProc() bool {
	self, err := os.Readlink("/proc/self")
	return err == nil && self == strconv.Itoa(os.Getpid())
}

// processes sums up what the processes that /proc shows use.
type processes struct {
	proc string
	last map[process]usage
	busy uint64 // ticks since the first call of cpu
}

// process is one of all times: numbers are used again.
type process struct {
	pid   int
	start uint64 // ticks since boot
}

// usage is CPU time in ticks, a process's own and that of its children that have ended
// and that it has waited for.
type usage struct {
	ticks  uint64
	parent int // 0 if it is in another namespace
}

// cpu returns the CPU time of the processes since the first call as busy, and what is left
// of the host's as idle.
//
// When a process ends, its time becomes its parent's, so that the sum stays. It does not
// if the parent is outside (nsenter(1)); what it used since the last call is lost then.
func (p *processes) cpu(host cpuTime) (cpuTime, error) {
	pids, err := p.list()
	if err != nil {
		return cpuTime{}, err
	}
	now := make(map[process]usage, len(pids))
	var used int64
	for _, pid := range pids {
		data, err := os.ReadFile(filepath.Join(p.proc, pid, "stat"))
		if err != nil {
			continue // it has ended
		}
		id, u, err := parseStat(data)
		if err != nil {
			return cpuTime{}, fmt.Errorf("%s/%s/stat: %w", p.proc, pid, err)
		}
		now[id] = u
		used += int64(u.ticks)
	}
	for id, u := range p.last {
		if _, there := now[id]; there || u.parent != 0 {
			used -= int64(u.ticks)
		}
	}
	if p.last != nil {
		p.busy += uint64(max(used, 0))
	}
	p.last = now
	total := host.busy + host.idle
	return cpuTime{p.busy, total - min(p.busy, total)}, nil
}

// memory returns the memory of the processes in kB, without mapped files, which are cache.
// Pages that several share count for each.
func (p *processes) memory() (sum uint64, err error) {
	pids, err := p.list()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		data, err := os.ReadFile(filepath.Join(p.proc, pid, "status"))
		if err != nil {
			continue // it has ended
		}
		kB, err := parseStatus(data)
		if err != nil {
			return 0, fmt.Errorf("%s/%s/status: %w", p.proc, pid, err)
		}
		sum += kB
	}
	return sum, nil
}

// list returns the numbers of all processes.
func (p *processes) list() (pids []string, err error) {
	dir, err := os.Open(p.proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	for _, name := range names {
		if name[0] >= '1' && name[0] <= '9' {
			pids = append(pids, name)
		}
	}
	return pids, err
}

// parseStat reads /proc/PID/stat (proc_pid_stat(5)).
func parseStat(data []byte) (id process, u usage, err error) {
	pid, rest, _ := bytes.Cut(data, []byte(" ("))
	if id.pid, err = strconv.Atoi(string(pid)); err != nil {
		return id, u, fmt.Errorf("it begins with %q", pid)
	}
	// A program's name may have any characters.
	f := bytes.Fields(rest[bytes.LastIndexByte(rest, ')')+1:])
	if len(f) < 20 {
		return id, u, fmt.Errorf("%d fields", len(f)+2)
	}
	if u.parent, err = strconv.Atoi(string(f[1])); err != nil {
		return id, u, err
	}
	if id.start, err = strconv.ParseUint(string(f[19]), 10, 64); err != nil {
		return id, u, err
	}
	for _, text := range f[11:15] { // utime, stime, cutime, cstime
		ticks, err := strconv.ParseInt(string(text), 10, 64)
		if err != nil {
			return id, u, err
		}
		u.ticks += uint64(max(ticks, 0))
	}
	return id, u, nil
}

// parseStatus reads /proc/PID/status (proc_pid_status(5)): RssAnon and RssShmem in kB. A
// process that has ended or belongs to the kernel has neither.
func parseStatus(data []byte) (kB uint64, err error) {
	for scan := bufio.NewScanner(bytes.NewReader(data)); scan.Scan(); {
		name, value, _ := strings.Cut(scan.Text(), ":")
		if name != "RssAnon" && name != "RssShmem" {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		kB += n
	}
	return kB, nil
}
