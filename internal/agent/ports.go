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
)

// portTable says which port each of many interfaces has. Whoever has had one
// keeps it, also while it is away and, with a file, over restarts.
//
// The file has lines LABEL:HOST:PORT, or LABEL:ipfix://HOST:PORT if there is no
// plain feed, and is a collector.conf as it is. Where nobody dials, as there are exports
// only, they are LABEL:from://NODE/INTERFACE. Other lines are left alone.
type portTable struct {
	path   string // or ""
	host   string
	scheme string
	base   int            // of the port in the table
	bases  []int          // of all of an interface's ports
	offset map[string]int // by label
	lines  []string
	lock   *os.File // held while nobody else may have the file
}

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
		return nil, fail(ExitUsage, err)
	}
	if err := t.load(); err != nil {
		t.close()
		return nil, fail(ExitUsage, err)
	}
	return t, nil
}

// hold keeps others from writing the file, who would not see what we write. The
// lock is on a file beside it, as the file itself is replaced. It finds out early
// that nothing can be written there.
func (t *portTable) hold() (err error) {
	if t.lock, err = os.OpenFile(t.beside(".lock"), os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return hinted{fmt.Errorf("-ports: %w", err), "want a file in a directory that this user may write"}
	}
	if err := unix.Flock(int(t.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.close()
		return hinted{fmt.Errorf("-ports %q: another pcapper has it: %w", t.path, err), "want a file for each"}
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
		if err := t.read(scan.Text()); err != nil {
			return fmt.Errorf("-ports %q, line %d: %w", t.path, len(t.lines)+1, err)
		}
		t.lines = append(t.lines, scan.Text())
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("-ports %q, line %d: %w", t.path, len(t.lines)+1, err)
	}
	return nil
}

func (t *portTable) read(line string) error {
	label, rest, ok := strings.Cut(line, ":")
	if !ok || strings.HasPrefix(line, "#") {
		return nil
	}
	if t.scheme == fromScheme {
		if strings.HasPrefix(rest, fromScheme) && strings.Contains(rest[len(fromScheme):], "/") {
			if _, twice := t.offset[label]; twice {
				return fmt.Errorf("%q: there is a line of %s already", line, label)
			}
			t.offset[label] = len(t.offset)
		}
		return nil
	}
	text, ours := strings.CutPrefix(rest, t.scheme+t.host+":")
	if !ours {
		return nil
	}
	port, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || port < t.base || port > 65535 {
		return fmt.Errorf("%q: want LABEL:%s%s:PORT with a port from %d on, the first one's", line, t.scheme, t.host, t.base)
	}
	if offset, twice := t.offset[label]; twice {
		return fmt.Errorf("%q: %s has port %d already", line, label, t.base+offset)
	}
	for other, offset := range t.offset {
		if offset == port-t.base {
			return fmt.Errorf("%q: %s has port %d already", line, other, port)
		}
	}
	t.offset[label] = port - t.base
	return nil
}

// get is how far above the base ports those of a node's interface are. It is the
// same always; fresh, the first time.
func (t *portTable) get(node, name string) (k int, fresh bool, err error) {
	label := label(node, name)
	if k, ok := t.offset[label]; ok {
		return k, false, nil
	}
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
		return 0, false, fmt.Errorf("no port is left for %s: %d interfaces from port %d on", label, len(used), t.base)
	}
	t.offset[label] = k
	line := fmt.Sprintf("%s:%s%s:%d", label, t.scheme, t.host, t.base+k)
	if t.scheme == fromScheme {
		line = fmt.Sprintf("%s:%s%s/%s", label, t.scheme, node, name)
	}
	t.lines = append(t.lines, line)
	return k, true, nil
}

// save replaces the file, if there is one.
func (t *portTable) save() error {
	if t.path == "" {
		return nil
	}
	data := strings.Join(t.lines, "\n") + "\n"
	fresh := t.beside(".new")
	if err := os.WriteFile(fresh, []byte(data), 0o644); err != nil {
		return fmt.Errorf("-ports: %w", err)
	}
	if err := os.Rename(fresh, t.path); err != nil {
		return fmt.Errorf("-ports: %w", err)
	}
	return nil
}
