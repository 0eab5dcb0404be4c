package rollup

import (
	"bufio"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// names maps the hosts and flows that an archive has ever had to the store's numbers. A
// host is identified by its label, and by its address among those with the same label;
// a flow by its name.
type names struct {
	mu     sync.Mutex // guards everything that may change while the archive is used
	hosts  []Host     // configured ones, followed by former ones
	rows   []Row      // likewise, but the traffic of no flow is last
	hostOf map[hostID]uint32
	rowOf  map[string]uint32
	owners map[[16]byte]int // own addresses of hosts
	// written is the contents of the file.
	file    *os.File
	written map[nameLine]bool
}

type hostID struct{ label, address string }

// nameLine is a line of the file: a host, one of a host's addresses, or a row.
type nameLine struct {
	Label   string `json:"label,omitempty"`
	Address string `json:"address,omitempty"`
	Own     string `json:"own,omitempty"`
	Row     string `json:"row,omitempty"`
	Detail  string `json:"detail,omitempty"`
}

const namesFile = "names.jsonl"

// openNames reads the list of an archive, and adds what is configured. known is false
// if there was no list.
func openNames(dir string, hosts []Host, rows []Row) (n *names, known bool, err error) {
	n = &names{
		hosts: slices.Clone(hosts), rows: slices.Clone(rows), hostOf: make(map[hostID]uint32),
		rowOf: make(map[string]uint32), owners: make(map[[16]byte]int), written: make(map[nameLine]bool),
	}
	n.configured()
	path := filepath.Join(dir, namesFile)
	if n.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640); err != nil {
		return nil, false, err
	}
	lines := bufio.NewScanner(n.file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l nameLine
		if json.Unmarshal(lines.Bytes(), &l) == nil { // truncated lines will be written again
			known = true
			n.written[l] = true
			n.remember(l)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, false, err
	}
	return n, known, nil
}

func (n *names) configured() {
	for i, h := range n.hosts {
		if _, ok := n.hostOf[hostID{label: h.Label}]; !ok {
			n.hostOf[hostID{label: h.Label}] = uint32(i) // regardless of its address
		}
		n.hostOf[hostID{h.Label, h.Address}] = uint32(i)
	}
	for i, r := range n.rows {
		n.rowOf[r.Name] = uint32(i)
	}
}

// remember processes a line's host or row.
func (n *names) remember(l nameLine) {
	switch {
	case l.Row != "":
		n.rememberRow(Row{Name: l.Row, Detail: l.Detail})
	case l.Label != "":
		host := n.rememberHost(Host{Label: l.Label, Address: l.Address})
		if a, err := netip.ParseAddr(l.Own); err == nil {
			n.owners[a.As16()] = int(host) // the latest owner
		}
	}
}

func (n *names) rememberHost(h Host) uint32 {
	id := hostID{h.Label, h.Address}
	if host, ok := n.hostOf[id]; ok {
		return host
	}
	host, ok := n.hostOf[hostID{label: h.Label}]
	if !ok {
		h.Former = true
		host = uint32(len(n.hosts))
		n.hosts = append(n.hosts, h)
		n.hostOf[hostID{label: h.Label}] = host
	}
	n.hostOf[id] = host
	return host
}

// rememberRow inserts a former row before the traffic of no flow.
func (n *names) rememberRow(r Row) {
	if _, ok := n.rowOf[r.Name]; ok {
		return
	}
	r.Former = true
	none := len(n.rows) - 1
	n.rows = slices.Insert(n.rows, none, r)
	n.rowOf[r.Name], n.rowOf[n.rows[none+1].Name] = uint32(none), uint32(none+1)
}

// setHost sets the host with a number, which may be the next unused one.
func (n *names) setHost(i int, h Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i == len(n.hosts) {
		n.hosts = append(n.hosts, h)
	} else {
		n.hosts[i] = h
	}
	if _, ok := n.hostOf[hostID{label: h.Label}]; !ok {
		n.hostOf[hostID{label: h.Label}] = uint32(i)
	}
	n.hostOf[hostID{h.Label, h.Address}] = uint32(i)
}

// setRow sets the row with a number, which may be the next unused one.
func (n *names) setRow(i int, r Row) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i == len(n.rows) {
		n.rows = append(n.rows, r)
	} else {
		n.rows[i] = r
	}
	n.rowOf[r.Name] = uint32(i)
}

// rowAt returns the row with a number.
func (n *names) rowAt(i uint32) Row {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rows[i]
}

// at returns the host with a number.
func (n *names) at(i uint32) Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[i]
}

// host returns the store's number of a host, or unknown.
func (n *names) host(h Host) uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if host, ok := n.hostOf[hostID{h.Label, h.Address}]; ok {
		return host
	}
	if host, ok := n.hostOf[hostID{label: h.Label}]; ok {
		return host
	}
	return unknown
}

func (n *names) row(r Row) uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if row, ok := n.rowOf[r.Name]; ok {
		return row
	}
	return unknown
}

// save writes what the file lacks of the configuration and of the hosts' addresses.
func (n *names) save(owners map[[16]byte]int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var text []byte
	var lines []nameLine
	add := func(l nameLine) {
		if n.written[l] {
			return
		}
		line, err := json.Marshal(l)
		if err != nil {
			return // strings can always be encoded
		}
		n.written[l] = true
		lines = append(lines, l)
		text = append(append(text, line...), '\n')
	}
	for _, h := range n.hosts {
		add(nameLine{Label: h.Label, Address: h.Address})
	}
	for _, r := range n.rows {
		add(nameLine{Row: r.Name, Detail: r.Detail})
	}
	for a, host := range owners {
		if h := &n.hosts[host]; h.Label != "" {
			add(nameLine{Label: h.Label, Address: h.Address, Own: netip.AddrFrom16(a).String()})
		}
	}
	if len(text) == 0 {
		return nil
	}
	_, err := n.file.Write(append([]byte{'\n'}, text...)) // terminates a truncated line
	if err != nil {
		for _, l := range lines {
			delete(n.written, l) // retried next time
		}
	}
	return err
}
