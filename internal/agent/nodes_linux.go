package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pcapper/pcapper/internal/agent/netns"
	"github.com/pcapper/pcapper/internal/host/fault"
)

// AllCORE is the value of -netns for the nodes of all sessions of CORE, the network
// emulator, on this host.
const AllCORE = "all-core"

// node is a network namespace in which to look for interfaces. Its session and name do
// not depend on other nodes.
type node struct {
	session string // of CORE, or ""
	name    string // within the session; "" is the program's own namespace
	path    string // of the namespace
}

// id identifies the node: SESSION.NAME for a node of CORE, because concurrent sessions
// may have nodes with the same name, otherwise NAME.
func (n node) id() string {
	if n.session != "" {
		return n.session + "." + n.name
	}
	return n.name
}

// namedDirs are the directories where ip-netns(8) keeps the names of namespaces.
var namedDirs = []string{"/run/netns", "/var/run/netns"}

// findNodes returns the nodes that the values of -netns refer to and that exist now, in
// the order of these values. missing has an error for each that does not exist.
func findNodes(wanted []string, all *census) (nodes []node, missing []error) {
	if len(wanted) == 0 {
		return []node{{path: netns.Own}}, nil
	}
	for _, w := range wanted {
		switch w {
		case AllCORE:
			nodes = append(nodes, coreNodes("/proc")...)
			continue
		case AllNamespaces:
			nodes = append(nodes, all.find()...)
			continue
		}
		n, err := findNode(w)
		if err != nil {
			missing = append(missing, fmt.Errorf("%w; waiting for it", err))
			continue
		}
		nodes = append(nodes, n)
	}
	nodes, twice := distinct(nodes)
	return nodes, append(missing, twice...)
}

// distinct leaves out nodes with the same ID as an earlier one, because their
// interfaces could not be told apart.
func distinct(nodes []node) (kept []node, twice []error) {
	paths := map[string]string{} // by node ID
	for _, n := range nodes {
		first, known := paths[n.id()]
		if !known {
			paths[n.id()] = n.path
			kept = append(kept, n)
		} else if !sameFile(first, n.path) {
			twice = append(twice, fmt.Errorf("%s is not watched: it is called %q, as %s is; ip-netns(8) gives it another name", n.path, n.id(), first))
		}
	}
	return kept, twice
}

func sameFile(a, b string) bool {
	x, errx := os.Stat(a)
	y, erry := os.Stat(b)
	return errx == nil && erry == nil && os.SameFile(x, y)
}

// ofProcess matches the path of a process's namespace, whose last element is not a
// name.
var ofProcess = regexp.MustCompile(`^/proc/([^/]+)/ns/net$`)

// findNode resolves a name, a process ID, or a path.
func findNode(w string) (node, error) {
	if strings.ContainsRune(w, '/') {
		if w == "/proc/self/ns/net" {
			return node{name: "self", path: netns.Own}, nil
		}
		_, err := os.Stat(w)
		name := filepath.Base(w)
		if m := ofProcess.FindStringSubmatch(w); m != nil {
			name = m[1]
		}
		return node{name: name, path: w}, err
	}
	for _, dir := range namedDirs {
		path := filepath.Join(dir, w)
		if _, err := os.Stat(path); err == nil {
			return node{name: w, path: path}, nil
		}
	}
	if pid, err := strconv.ParseUint(w, 10, 31); err == nil {
		path := fmt.Sprintf("/proc/%d/ns/net", pid)
		if _, err := os.Stat(path); err != nil {
			return node{}, fmt.Errorf("-netns %s: no such process, and no namespace of that name", w)
		}
		return node{name: w, path: path}, nil
	}
	return node{}, fmt.Errorf("-netns %s: no namespace of that name in %s", w, namedDirs[0])
}

// coreNodes returns the namespaces that CORE's vnoded processes hold open, in order.
// vnoded is started as `vnoded -c SESSION/NODE ...`, where SESSION is
// /tmp/pycore.NUMBER; its parent, which is in another namespace, has the same command
// line.
func coreNodes(proc string) (nodes []node) {
	own, err := os.Readlink(filepath.Join(proc, "thread-self/ns/net")) // netns.Own
	if err != nil {
		return nil
	}
	entries, _ := os.ReadDir(proc) // on an error nothing is found, which is reported
	known := map[string]bool{}     // channels
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		channel := vnodedChannel(filepath.Join(proc, e.Name(), "cmdline"))
		path := filepath.Join(proc, e.Name(), "ns/net")
		if channel == "" || known[channel] {
			continue
		}
		if link, err := os.Readlink(path); err != nil || link == own {
			continue
		}
		known[channel] = true
		nodes = append(nodes, node{sessionOf(channel), filepath.Base(channel), path})
	}
	slices.SortFunc(nodes, func(a, b node) int { return natural(a.id(), b.id()) })
	return nodes
}

// sessionOf returns the number of the session whose directory contains a control
// channel.
func sessionOf(channel string) string {
	return strings.TrimPrefix(filepath.Base(filepath.Dir(channel)), "pycore.")
}

// vnodedChannel returns the path of a vnoded's control channel, or "" if the command
// line is that of another program.
func vnodedChannel(cmdline string) string {
	data, err := os.ReadFile(cmdline)
	if err != nil {
		return ""
	}
	args := bytes.Split(data, []byte{0})
	if filepath.Base(string(args[0])) != "vnoded" {
		return ""
	}
	for i := 1; i+1 < len(args); i++ {
		if string(args[i]) == "-c" {
			return string(args[i+1])
		}
	}
	return ""
}

// natural orders n2 before n10.
func natural(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if c := len(x) - len(y); c != 0 {
				return c
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) (n int) {
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// patterns are the values of -i: names, or shell patterns. A leading ! excludes.
type patterns []string

// CheckPatterns rejects a list that cannot match anything.
func CheckPatterns(list []string) error {
	if len(list) == 0 {
		return errors.New("-i: want names or patterns such as eth*, separated by commas")
	}
	for _, p := range list {
		if _, err := filepath.Match(strings.TrimPrefix(p, "!"), "eth0"); err != nil || strings.TrimPrefix(p, "!") == "" {
			return fmt.Errorf("-i %q: want names or patterns such as eth*, separated by commas", p)
		}
	}
	return nil
}

// match reports whether an interface is to be watched. If all patterns exclude, every
// other interface is, except loopback and CORE's control network, which must be named.
func (p patterns) match(name string, loopback bool) bool {
	in, any := false, false
	for _, text := range p {
		pattern, out := strings.CutPrefix(text, "!")
		ok, _ := filepath.Match(pattern, name)
		switch {
		case ok && out:
			return false
		case !out:
			any = true
			in = in || ok
		}
	}
	if any {
		return in
	}
	control, _ := filepath.Match("ctrl[0-9]*", name)
	return !loopback && !control
}

// IsPattern reports whether a value of -i may stand for several interfaces.
func IsPattern(value string) bool { return strings.ContainsAny(value, ",*?[!") }

// openNode opens a node's namespace.
func openNode(n node) (*netns.Namespace, error) {
	ns, err := netns.Open(n.path)
	if errors.Is(err, fs.ErrPermission) {
		err = fault.WithHint(err, "other processes' namespaces take CAP_SYS_PTRACE and CAP_SYS_ADMIN: run as root")
	}
	return ns, err
}
