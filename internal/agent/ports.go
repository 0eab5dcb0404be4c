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

// portTable says which port each of many interfaces has. An interface keeps its
// port, also while it is away and, with a file, over restarts.
//
// The file has lines LABEL:HOST:PORT, or LABEL:ipfix://HOST:PORT if there is no
// plain feed, and is a collector.conf as it is. Where nobody dials, as there are exports
// only, they are LABEL:from://NODE/INTERFACE. The line of an interface that is gone
// becomes a comment, which reserves the port. Other lines are left alone.
type portTable struct {
	path   string // or ""
	host   string
	scheme string
	base   int            // of the port in the table
	bases  []int          // of all of an interface's ports
	offset map[string]int // by label
	lines  []portLine
	lock   *os.File // held while nobody else may have the file
}

// portLine is a line of the file.
type portLine struct {
	label string // "" if the line is not one of ours
	text  string // without goneMark
	gone  bool
}

const (
	// goneMark begins the line of an interface that is gone.
	goneMark = "# gone: "
	// maxGone is how many interfaces that are gone keep their ports.
	maxGone = 1000
)

// fromScheme is that of agents that are not dialled.
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

// hold keeps others from writing the file, who would not see what we write. The
// lock is on a file beside it, as the file itself is replaced. It finds out early
// that nothing can be written there.
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

// beside is the path of a hidden file in the same directory.
func (t *portTable) beside(suffix string) string {
	return filepath.Join(filepath.Dir(t.path), "."+filepath.Base(t.path)+suffix)
}

// close lets others have the file.
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
	for _, gone := range []bool{false, true} { // those that are there come first
		if err := t.readLines(gone); err != nil {
			return err
		}
	}
	return nil
}

// readLines finds the lines that are ours. One of an interface that is gone and that
// contradicts another line is just a comment.
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

// read takes a line of the file; ours is its label, or "" if it is not one of ours.
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

// get returns how far above the base ports those of a node's interface are, always
// the same. changed reports whether the file is to be saved.
func (t *portTable) get(node, name string) (k int, changed bool, err error) {
	label := label(node, name)
	if k, ok := t.offset[label]; ok {
		return k, t.back(label), nil
	}
	for {
		if k, err = t.free(label); err == nil {
			break
		}
		if !t.forget() { // no interface that is gone has a port either
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

// free finds ports that no interface has.
func (t *portTable) free(label string) (k int, err error) {
	used := map[int]bool{}  // offsets
	taken := map[int]bool{} // ports: with -p 7073 and -ipfix-port 7074 some are next to each other
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

// back makes a line of the comment of an interface that was gone, and reports
// whether it was.
func (t *portTable) back(label string) bool {
	for i := range t.lines {
		if t.lines[i].label == label && t.lines[i].gone {
			t.lines[i].gone = false
			return true
		}
	}
	return false
}

// leave makes comments of the lines of interfaces that are not here, and returns
// how many have become so.
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

// forget gives up the port of the interface that is gone and whose line comes
// first; it reports whether there was one.
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
