package agent

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pcapper/pcapper/internal/agent/netns"
)

// AllNamespaces is the value of -netns for all network namespaces of this host that
// have a name or a process.
const AllNamespaces = "all"

// settles is the age of a namespace's first process at which the namespace is named: by
// then the process runs its final program and has its final host name.
const settles = time.Second

// census finds all network namespaces. A namespace keeps its first name as long as it
// exists.
type census struct {
	proc   string // "/proc"
	docker string // where Docker keeps its containers
	known  map[uint64]node
}

func newCensus() *census {
	return &census{proc: "/proc", docker: "/var/lib/docker/containers"}
}

// tick is the unit of times in /proc.
const tick = time.Second / 100

// resident is the oldest process in a namespace.
type resident struct {
	pid    int
	began  int64 // in ticks since boot
	parent int
	comm   string
}

// find returns the existing namespaces: first the agent's own, whose name is "", then
// the others by name.
//
// The name of a namespace does not depend on when the agent started, and except in the
// last of these cases it survives the re-creation of the namespace:
//
//   - a node of CORE: SESSION.NODE
//   - named by ip-netns(8), or mounted elsewhere: that name, or the last element of the path
//   - a container of Docker or Podman: its name
//   - with a host name of its own (LXC, systemd-nspawn, Kubernetes pods): that name
//   - a service of systemd: its name
//   - anything else: the name of its oldest program and the kernel's number, as in sleep-4026532281
//
// If two would have the same name, the number of the younger is appended to its name.
func (c *census) find() []node {
	own := inodeOf(filepath.Join(c.proc, "thread-self/ns/net")) // netns.Own
	mounted := c.mounted()
	residents := c.residents(own)
	core := map[uint64]node{}
	for _, n := range coreNodes(c.proc) {
		core[inodeOf(n.path)] = n
	}

	inodes := make([]uint64, 0, len(mounted)+len(residents))
	for inode := range mounted {
		inodes = append(inodes, inode)
	}
	for inode := range residents {
		if _, also := mounted[inode]; !also {
			inodes = append(inodes, inode)
		}
	}
	slices.SortFunc(inodes, func(a, b uint64) int { // older ones choose first
		return cmp.Or(cmp.Compare(residents[a].began, residents[b].began), cmp.Compare(a, b))
	})
	known, taken := map[uint64]node{}, map[string]bool{}
	for _, inode := range inodes {
		if n, ok := c.known[inode]; ok {
			taken[n.id()] = true
		}
	}
	uptime := c.uptime()
	for _, inode := range inodes {
		if inode == own {
			continue
		}
		r, lived := residents[inode]
		path := mounted[inode]
		if path == "" {
			path = filepath.Join(c.proc, strconv.Itoa(r.pid), "ns/net")
		}
		n, ok := c.known[inode]
		if !ok {
			n, ok = core[inode]
			if !ok && mounted[inode] == "" && uptime-r.began < int64(settles/tick) {
				continue
			}
			if !ok {
				n = node{name: c.name(mounted[inode], r, lived, inode)}
			}
			if taken[n.id()] {
				n.name = fmt.Sprintf("%s-%d", n.name, inode)
			}
			taken[n.id()] = true
		}
		n.path = path // the process through which it was found may have ended
		known[inode] = n
	}
	c.known = known
	nodes := []node{{path: netns.Own}}
	for _, n := range known {
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes[1:], func(a, b node) int { return natural(a.id(), b.id()) })
	return nodes
}

// ofEngine matches the names of mounts that container engines generate for one run of a
// container.
var ofEngine = regexp.MustCompile(`^(cni|netns)-[0-9a-f]{8}-|^[0-9a-f]{12}$`)

// name returns the name of a namespace that is not a node of CORE; see find.
func (c *census) name(mount string, r resident, lived bool, inode uint64) string {
	base, given := "", ""
	if mount != "" {
		base = plain(filepath.Base(mount))
	}
	if !ofEngine.MatchString(base) {
		given = base
	}
	if given == "" && lived {
		given = cmp.Or(plain(c.container(r)), plain(c.hostname(r)), plain(c.unit(r)))
	}
	return cmp.Or(given, base, fmt.Sprintf("%s-%d", cmp.Or(plain(r.comm), "netns"), inode))
}

// plain removes characters that have a meaning in a collector.conf, a path, or a
// terminal: the host name is chosen by whoever runs in the namespace.
func plain(name string) string {
	return strings.TrimLeft(strings.Map(func(r rune) rune {
		if r < 128 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._@", r)) {
			return r
		}
		return '_'
	}, name), ".-")
}

// container returns the name of the container whose first process this is: its parent
// is the program that supervises it.
func (c *census) container(r resident) string {
	args := c.cmdline(r.parent)
	if len(args) == 0 {
		return ""
	}
	after := func(flag string) string {
		if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
			return args[i+1]
		}
		return ""
	}
	short := func(id string) string { return id[:min(12, len(id))] }
	switch program := filepath.Base(args[0]); {
	case program == "conmon": // Podman, CRI-O
		return cmp.Or(after("-n"), short(after("-c")))
	case strings.HasPrefix(program, "containerd-shim"): // Docker, containerd
		id := after("-id")
		var config struct{ Name string }
		data, err := os.ReadFile(filepath.Join(c.docker, filepath.Base(id), "config.v2.json"))
		if err == nil && json.Unmarshal(data, &config) == nil && config.Name != "" {
			return strings.TrimPrefix(config.Name, "/")
		}
		return cmp.Or(c.hostname(r), short(id))
	}
	return ""
}

// hostname returns the host name of the process's UTS namespace, if it is not this
// host's.
func (c *census) hostname(r resident) string {
	path := filepath.Join(c.proc, strconv.Itoa(r.pid), "ns/uts")
	if inode := inodeOf(path); inode == 0 || inode == inodeOf(filepath.Join(c.proc, "thread-self/ns/uts")) {
		return ""
	}
	name, err := netns.Hostname(path)
	ours, _ := os.Hostname() // "" is nobody's
	if err != nil || name == ours || name == "localhost" || name == "(none)" {
		return ""
	}
	return name
}

// unit returns the systemd service that the process belongs to.
func (c *census) unit(r resident) string {
	data, _ := os.ReadFile(filepath.Join(c.proc, strconv.Itoa(r.pid), "cgroup")) // it may have ended
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutSuffix(filepath.Base(strings.TrimSpace(line)), ".service"); ok {
			return name
		}
	}
	return ""
}

// residents returns the oldest process of each namespace except our own.
func (c *census) residents(own uint64) map[uint64]resident {
	first := map[uint64]resident{}
	entries, _ := os.ReadDir(c.proc) // on an error nothing is found, which is reported
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() { // its first thread may be in any namespace, see netns.Own
			continue
		}
		inode := inodeOf(filepath.Join(c.proc, e.Name(), "ns/net"))
		if inode == 0 || inode == own {
			continue
		}
		r, ok := c.process(pid)
		if old, known := first[inode]; ok && (!known || r.began < old.began || r.began == old.began && r.pid < old.pid) {
			first[inode] = r
		}
	}
	return first
}

// process reads /proc/PID/stat.
func (c *census) process(pid int) (r resident, ok bool) {
	data, err := os.ReadFile(filepath.Join(c.proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return r, false
	}
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return r, false
	}
	fields := strings.Fields(string(data[end+1:])) // from the third field on
	if len(fields) < 20 {
		return r, false
	}
	r = resident{pid: pid, comm: string(data[open+1 : end])}
	r.parent, _ = strconv.Atoi(fields[1])
	r.began, err = strconv.ParseInt(fields[19], 10, 64)
	return r, err == nil
}

func (c *census) cmdline(pid int) []string {
	data, err := os.ReadFile(filepath.Join(c.proc, strconv.Itoa(pid), "cmdline"))
	if err != nil || len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
}

// uptime returns how long the host has been running, in ticks.
func (c *census) uptime() int64 {
	data, _ := os.ReadFile(filepath.Join(c.proc, "uptime"))
	var seconds float64
	if _, err := fmt.Sscan(string(data), &seconds); err != nil {
		return 1 << 62
	}
	return int64(seconds * float64(time.Second/tick))
}

// mounted returns a path for each namespace that is mounted somewhere, preferably one
// of ip-netns(8).
func (c *census) mounted() map[uint64]string {
	paths := map[uint64]string{}
	data, _ := os.ReadFile(filepath.Join(c.proc, "thread-self/mountinfo")) // on an error nothing is mounted
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		// ID PARENT MAJOR:MINOR net:[INODE] PATH OPTIONS ...
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		inode := parseNamespace(fields[3])
		if inode == 0 {
			continue
		}
		path := unescape(fields[4])
		if old, ok := paths[inode]; !ok || rank(path) < rank(old) || rank(path) == rank(old) && natural(path, old) < 0 {
			paths[inode] = path
		}
	}
	return paths
}

// rank is lower for mounts with more meaningful names.
func rank(path string) int {
	switch {
	case ofEngine.MatchString(filepath.Base(path)):
		return 2
	case slices.Contains(namedDirs, filepath.Dir(path)):
		return 0
	}
	return 1
}

// octal matches the escapes that mountinfo uses for spaces and similar characters.
var octal = regexp.MustCompile(`\\[0-7]{3}`)

func unescape(path string) string {
	return octal.ReplaceAllStringFunc(path, func(s string) string {
		b, _ := strconv.ParseUint(s[1:], 8, 8) // three digits
		return string([]byte{byte(b)})
	})
}

// inodeOf returns the inode of the namespace behind a link in /proc or a mounted file,
// or 0.
func inodeOf(path string) uint64 {
	if link, err := os.Readlink(path); err == nil {
		_, number, _ := strings.Cut(link, ":")
		return parseNamespace("net:" + number)
	}
	return 0
}

// parseNamespace returns N for "net:[N]", or 0.
func parseNamespace(text string) uint64 {
	number, ok := strings.CutPrefix(text, "net:[")
	if !ok || !strings.HasSuffix(number, "]") {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64) // 0 is no namespace
	return n
}
