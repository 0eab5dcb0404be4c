package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/host/fault"
)

// portTable records the port of each of many interfaces. An interface keeps its port
// even while it is absent and, with a file, across restarts.
//
// The file is a valid collector.conf with lines LABEL:HOST:PORT, or
// LABEL:ipfix://HOST:PORT if there is no plain feed. If nobody connects, because there
// are exports only, the lines are LABEL:from://NODE/INTERFACE. The line of an interface
// that is gone becomes a comment, which reserves its port. Other lines are preserved.
type portTable struct {
	path   string // or ""
	host   string
	scheme string
	base   int            // port that offset 0 stands for in the table
	bases  []int          // base ports of all feeds
	offset map[string]int // by label
	lines  []portLine
	lock   *os.File // held to keep others from writing the file
}

// portLine is a line of the file.
type portLine struct {
	label string // "" if the line is not ours
	text  string // without goneMark
	gone  bool
}

const (
	// goneMark begins the comment for an interface that is gone.
	goneMark = "# gone: "
	// maxGone is the number of interfaces that keep their ports after they are gone.
	maxGone = 1000
)

// fromScheme marks agents that nobody connects to.
const fromScheme = "from://"

// newPortTable reads the file, if there is one.
func newPortTable(cfg *Config) (*portTable, error) {
	t := &portTable{path: cfg.PortsFile, host: "127.0.0.1", base: cfg.Port, offset: map[string]int{}}
	if cfg.Listen.IsValid() {
		t.host = cfg.Listen.String()
		if cfg.Listen.Is6() {
			t.host = "[" + t.host + "]"
		}
	}
	switch {
	case cfg.Port != 0:
	case cfg.IPFIXPort != 0:
		t.scheme, t.base = "ipfix://", cfg.IPFIXPort
	case cfg.IPFIXTLSPort != 0:
		t.scheme, t.base = "ipfix+tls://", cfg.IPFIXTLSPort
	case cfg.TLS.Any():
		t.scheme, t.base = "tls://", cfg.TLSPort
	default:
		t.scheme = fromScheme
	}
	for _, port := range cfg.ports() {
		t.bases = append(t.bases, int(port))
	}
	if t.path == "" {
		return t, nil
	}
	if err := t.hold(); err != nil {
		return nil, fault.WithCode(ExitUsage, err)
	}
	if err := t.load(); err != nil {
		t.close()
		return nil, fault.WithCode(ExitUsage, err)
	}
	return t, nil
}

// hold prevents other agents from writing the file, because they would overwrite each
// other's changes. The lock is on a separate file, because the file itself is replaced.
// Failing here also reveals early that the directory is not writable.
func (t *portTable) hold() (err error) {
	if t.lock, err = os.OpenFile(t.beside(".lock"), os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return fault.WithHint(fmt.Errorf("-ports: %w", err), "want a file in a directory that this user may write")
	}
	if err := unix.Flock(int(t.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.close()
		return fault.WithHint(fmt.Errorf("-ports %q: another pcapper has it: %w", t.path, err), "want a file for each")
	}
	return nil
}

// beside returns the path of a hidden file in the same directory.
func (t *portTable) beside(suffix string) string {
	return filepath.Join(filepath.Dir(t.path), "."+filepath.Base(t.path)+suffix)
}

// close releases the file for others.
func (t *portTable) close() {
	if t.lock != nil {
		t.lock.Close()
	}
}

// load reads the file.
func (t *portTable) load() error {
	file, err := os.Open(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("-ports: %w", err)
	}
	defer file.Close()
	scan := bufio.NewScanner(file)
	for scan.Scan() {
		text, gone := strings.CutPrefix(scan.Text(), goneMark)
		t.lines = append(t.lines, portLine{text: text, gone: gone})
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("-ports %q, line %d: %w", t.path, len(t.lines)+1, err)
	}
	for _, gone := range []bool{false, true} { // existing interfaces take precedence
		if err := t.readLines(gone); err != nil {
			return err
		}
	}
	return nil
}

// readLines finds our lines. The line of a gone interface that contradicts another line
// is treated as a plain comment.
func (t *portTable) readLines(gone bool) (err error) {
	for i := range t.lines {
		l := &t.lines[i]
		if l.gone != gone {
			continue
		}
		if l.label, err = t.read(l.text); err != nil && !gone {
			return fmt.Errorf("-ports %q, line %d: %w", t.path, i+1, err)
		}
		if l.gone && l.label == "" {
			l.text, l.gone = goneMark+l.text, false
		}
	}
	return nil
}

// read parses a line of the file; ours is its label, or "" if it is not one of ours.
func (t *portTable) read(line string) (ours string, err error) {
	label, rest, ok := strings.Cut(line, ":")
	if !ok || strings.HasPrefix(line, "#") {
		return "", nil
	}
	if t.scheme == fromScheme {
		if !strings.HasPrefix(rest, fromScheme) || !strings.Contains(rest[len(fromScheme):], "/") {
			return "", nil
		}
		if _, twice := t.offset[label]; twice {
			return "", fmt.Errorf("%q: there is a line of %s already", line, label)
		}
		t.offset[label] = len(t.offset)
		return label, nil
	}
	text, ok := strings.CutPrefix(rest, t.scheme+t.host+":")
	if !ok {
		return "", nil
	}
	port, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || port < t.base || port > 65535 {
		return "", fmt.Errorf("%q: want LABEL:%s%s:PORT with a port from %d on, the first one's", line, t.scheme, t.host, t.base)
	}
	if offset, twice := t.offset[label]; twice {
		return "", fmt.Errorf("%q: %s has port %d already", line, label, t.base+offset)
	}
	for other, offset := range t.offset {
		if offset == port-t.base {
			return "", fmt.Errorf("%q: %s has port %d already", line, other, port)
		}
	}
	t.offset[label] = port - t.base
	return label, nil
}

// get returns the offset of an interface's ports from the base ports, which never
// changes. changed reports whether the file needs to be saved.
func (t *portTable) get(node, name string) (k int, changed bool, err error) {
	label := label(node, name)
	if k, ok := t.offset[label]; ok {
		return k, t.back(label), nil
	}
	for {
		if k, err = t.free(label); err == nil {
			break
		}
		if !t.forget() { // not even a gone interface holds a port
			return 0, false, err
		}
	}
	t.offset[label] = k
	line := fmt.Sprintf("%s:%s%s:%d", label, t.scheme, t.host, t.base+k)
	if t.scheme == fromScheme {
		line = fmt.Sprintf("%s:%s%s/%s", label, t.scheme, node, name)
	}
	t.lines = append(t.lines, portLine{label: label, text: line})
	return k, true, nil
}

// free returns an offset whose ports no interface has.
func (t *portTable) free(label string) (k int, err error) {
	used := map[int]bool{}  // offsets
	taken := map[int]bool{} // ports: the feeds' ranges overlap, as with -p 7073 and -ipfix-port 7074
	for _, k := range t.offset {
		used[k] = true
		for _, base := range t.bases {
			taken[base+k] = true
		}
	}
	for used[k] || slices.ContainsFunc(t.bases, func(base int) bool { return taken[base+k] }) {
		k++
	}
	if slices.Max(append(t.bases, t.base))+k > 65535 {
		return 0, fmt.Errorf("no port is left for %s: %d interfaces from port %d on", label, len(used), t.base)
	}
	return k, nil
}

// back restores the line of an interface that was gone, and reports whether it was.
func (t *portTable) back(label string) bool {
	for i := range t.lines {
		if t.lines[i].label == label && t.lines[i].gone {
			t.lines[i].gone = false
			return true
		}
	}
	return false
}

// leave comments out the lines of interfaces that are not here, and returns the number
// of lines changed.
func (t *portTable) leave(here map[string]bool) (left int) {
	gone := 0
	for i := range t.lines {
		l := &t.lines[i]
		if l.label != "" && !l.gone && !here[l.label] {
			l.gone = true
			left++
		}
		if l.gone {
			gone++
		}
	}
	for ; gone > maxGone; gone-- {
		t.forget()
	}
	return left
}

// forget releases the port of the first gone interface in the file, and reports whether
// there was one.
func (t *portTable) forget() bool {
	for i, l := range t.lines {
		if l.gone {
			delete(t.offset, l.label)
			t.lines = slices.Delete(t.lines, i, i+1)
			return true
		}
	}
	return false
}

// save replaces the file, if there is one.
func (t *portTable) save() error {
	if t.path == "" {
		return nil
	}
	var data []byte
	for _, l := range t.lines {
		if l.gone {
			data = append(data, goneMark...)
		}
		data = append(append(data, l.text...), '\n')
	}
	fresh := t.beside(".new")
	if err := os.WriteFile(fresh, data, 0o644); err != nil {
		return fmt.Errorf("-ports: %w", err)
	}
	if err := os.Rename(fresh, t.path); err != nil {
		return fmt.Errorf("-ports: %w", err)
	}
	return nil
}
