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

// initPID is the inode of the initial PID namespace (PROC_PID_INIT_INO in
// linux/proc_ns.h).
const initPID = 0xEFFFFFFC

// inNode reports whether the program's PID namespace is not the host's
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

// processes adds up the resources used by the processes that /proc shows.
type processes struct {
	proc string
	last map[process]usage
	busy uint64 // ticks since the first call to cpu
}

// process identifies a process uniquely; process IDs are reused.
type process struct {
	pid   int
	start uint64 // ticks since boot
}

// usage is CPU time in ticks: a process's own, and that of the children it has waited
// for.
type usage struct {
	ticks  uint64
	parent int // 0 if it is in another namespace
}

// cpu returns the CPU time of the processes since the first call as busy, and the rest
// of the host's as idle.
//
// When a process ends, its time is added to its parent's, so the sum is preserved. If
// the parent is outside (nsenter(1)), the time that the process used since the last
// call is lost.
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

// memory returns the memory of the processes in kB, without mapped files, which are
// cache. Pages shared by several processes count for each.
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

// list returns the IDs of all processes.
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
	// A program's name may contain any characters.
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

// parseStatus parses /proc/PID/status (proc_pid_status(5)): RssAnon and RssShmem in kB.
// A process that has ended or belongs to the kernel has neither.
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
