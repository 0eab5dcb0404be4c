package collector

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/host/certs"
)

// lookEach is the interval at which the configuration is checked. A changed file is
// read once it has been stable for that long, so that it is not read while being
// written.
const lookEach = 500 * time.Millisecond

// follower applies changes of a configuration to agents and flows.
type follower struct {
	c      *collector
	cfg    Config
	launch func(*agent) // starts a client
	path   string
	file   *File     // the one in force
	seen   fileState // at the last read
	next   fileState // at the last check
	told   string    // the last problem reported
}

// fileState reveals whether a file may have changed.
type fileState struct {
	size, modified int64
	inode          uint64
}

func stateOf(path string) (s fileState, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return s, err
	}
	s.size, s.modified = info.Size(), info.ModTime().UnixNano()
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = st.Ino
	}
	return s, nil
}

// followFile follows the configuration until ctx is done. A file that cannot be read
// twice, such as a pipe, is not followed.
func (c *collector) followFile(ctx context.Context, cfg Config, launch func(*agent)) {
	f := &follower{c: c, cfg: cfg, launch: launch, path: cfg.Reload, file: cfg.File}
	var look <-chan time.Time
	if info, err := os.Stat(f.path); f.path != "" && (err != nil || info.Mode().IsRegular()) {
		tick := time.NewTicker(lookEach)
		defer tick.Stop()
		look = tick.C
	}
	hungUp := watchTerminals()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look:
			f.look()
		case <-cfg.Reread:
			if hungUp() {
				c.quit()
				return
			}
			if look == nil {
				c.say.printf("SIGHUP: there is no configuration to read again")
				continue
			}
			f.told = "" // report problems again, because the user has asked
			if f.read() {
				c.say.printf("%s: nothing has changed", f.path)
			}
		}
	}
}

// look reads the file if it has changed.
func (f *follower) look() {
	now, err := stateOf(f.path)
	if err != nil {
		f.complain(unreadable(f.path, err))
		f.seen, f.next = fileState{}, fileState{}
		return
	}
	before := f.next
	if f.next = now; now == f.seen || now != before {
		return
	}
	f.seen = now
	f.read()
}

// read applies the file's current contents, or reports why not. It reports whether they
// are already in force.
func (f *follower) read() (same bool) {
	file, err := ReadFile(f.path)
	if err != nil {
		f.complain(err)
		return false
	}
	if file.sum == f.file.sum {
		f.content()
		return true
	}
	if bad := f.file.worse(file); bad != nil {
		f.complain(bad)
		return false
	}
	did, err := f.apply(file)
	if err != nil {
		f.complain(err)
		return false
	}
	f.content()
	for _, n := range file.Notes {
		if !f.file.notes(n) {
			f.c.say.printf("%s:%v", file.Name, n)
		}
	}
	f.file = file
	if did == "" {
		did = "no agent and no flow has changed"
	}
	f.c.say.printf("%s: read again: %s", f.path, did)
	return false
}

// content records that there is no problem any more.
func (f *follower) content() {
	f.told = ""
	f.c.notice.Store(nil)
}

// complain reports, once, why the previous configuration stays in force.
func (f *follower) complain(err error) {
	text := err.Error()
	if text == f.told {
		return
	}
	f.told = text
	first, _, _ := strings.Cut(text, "\n")
	f.c.notice.Store(&first)
	for line := range strings.Lines(text) {
		f.c.say.printf("%s", strings.TrimSuffix(line, "\n"))
	}
	f.c.say.printf("%s: all goes on as it was before that", f.path)
}

// notes reports whether the file had a line with the same problem.
func (f *File) notes(n Note) bool {
	return slices.ContainsFunc(f.Notes, func(o Note) bool { return o.Err.Error() == n.Err.Error() })
}

// worse returns the bad lines of a newer file that f does not have: a failed edit.
// Duplicates are not bad.
func (f *File) worse(newer *File) error {
	errs := ConfigError{Name: newer.Name}
	for _, n := range newer.Notes {
		if !n.Double && !f.notes(n) {
			errs.add(fmt.Sprintf("%s:%d: %v", newer.Name, n.Line, n.Err))
		}
	}
	if errs.Total == 0 {
		return nil
	}
	return &errs
}

// apply applies a file and describes the changes. If it cannot be applied completely,
// nothing is changed.
func (f *follower) apply(file *File) (did string, err error) {
	files := make([]certs.Files, len(file.Hosts))
	for i := range file.Hosts {
		h := &file.Hosts[i]
		if files[i], err = h.certs(f.cfg.TLS); err != nil {
			return "", fmt.Errorf("%s: %w", f.path, err)
		}
		if h.From && f.c.senders.others == nil {
			return "", fmt.Errorf("%s: %w", f.path, h.needsListen())
		}
	}
	flows, err := f.c.setFlows(file.Flows)
	if err != nil {
		return "", fmt.Errorf("%s: %w", f.path, err)
	}
	var parts []string
	slots := f.c.slots(file.Hosts)
	if removed := f.remove(slots); len(removed) > 0 {
		parts = append(parts, changed("removed", removed))
	}
	if added := f.addAgents(file.Hosts, slots, files); len(added) > 0 {
		parts = append(parts, changed("added", added))
	}
	if flows {
		parts = append(parts, "flows have changed")
	}
	f.c.edition.Add(1)
	return strings.Join(parts, "; "), nil
}

// mostNamed is the maximum number of agents listed individually.
const mostNamed = 10

// changed formats a list for messages.
func changed(how string, agents []string) string {
	more := ""
	if n := len(agents) - mostNamed; n > 0 {
		agents, more = agents[:mostNamed], fmt.Sprintf(" and %d more", n)
	}
	return how + " " + strings.Join(agents, ", ") + more
}

// slots finds for each host the current or former agent: the one with the same line,
// otherwise one with the same label; -1 if there is none.
func (c *collector) slots(hosts []Host) []int {
	lines, labels := make(map[string][]int), make(map[string][]int)
	for i, a := range c.all() {
		if a.fixed() {
			continue
		}
		lines[a.host.String()] = append(lines[a.host.String()], i)
		labels[a.host.Label] = append(labels[a.host.Label], i)
	}
	slots, taken := make([]int, len(hosts)), make(map[int]bool)
	take := func(from []int) int {
		for _, i := range from {
			if !taken[i] {
				taken[i] = true
				return i
			}
		}
		return -1
	}
	for i := range hosts {
		slots[i] = take(lines[hosts[i].String()])
	}
	for i := range hosts {
		if slots[i] < 0 {
			slots[i] = take(labels[hosts[i].Label])
		}
	}
	return slots
}

// fixed reports whether an agent is not from the file: the one for senders without a
// line, and agents of other collectors.
func (a *agent) fixed() bool { return a == a.c.senders.others || a.followed != nil }

// remove ends the agents that are not in slots.
func (f *follower) remove(slots []int) (labels []string) {
	for i, a := range f.c.all() {
		if !a.fixed() && !a.gone.Load() && !slices.Contains(slots, i) {
			f.end(a)
			labels = append(labels, a.String())
		}
	}
	return labels
}

// end ends an agent.
func (f *follower) end(a *agent) {
	f.c.senders.forget(a)
	if a.cancel != nil {
		a.cancel()
		<-a.ended
	}
	a.gone.Store(true)
}

// addAgents starts agents that are new, have come back, or have another address.
func (f *follower) addAgents(hosts []Host, slots []int, files []certs.Files) (labels []string) {
	f.c.adding.Lock()
	defer f.c.adding.Unlock()
	for i := range hosts {
		h := &hosts[i]
		index, was := slots[i], (*agent)(nil)
		if index < 0 {
			index = len(f.c.all())
		} else {
			was = f.c.all()[index]
		}
		if was != nil && !was.gone.Load() {
			if was.host.String() == h.String() {
				continue
			}
			f.end(was)
		}
		a := f.c.newOf(uint32(index), h, files[i])
		if was != nil {
			a.inherit(was)
		}
		if a.out == nil && f.c.batcher != nil {
			f.c.batcher.prepare(a)
		}
		f.c.add(a)
		f.launch(a)
		labels = append(labels, a.String())
	}
	return labels
}

// newOf returns an agent that we connect to, or one that sends to us.
func (c *collector) newOf(index uint32, h *Host, files certs.Files) *agent {
	if h.From {
		return c.newSender(index, h)
	}
	return newAgent(c, index, h, files)
}

// inherit takes over the counters of the agent that had the index before and has ended.
func (a *agent) inherit(was *agent) {
	a.number, a.out = was.number, was.out
	a.records.Store(was.records.Load())
	a.connections.Store(was.connections.Load())
	a.withheld.Store(was.withheld.Load())
}

// setFlows makes the collector classify by other flows from now on, and reports whether
// they are different.
func (c *collector) setFlows(flows []Flow) (bool, error) {
	before := c.classes.Load()
	same := slices.EqualFunc(flows, before.flows, func(a, b Flow) bool {
		a.Line, b.Line = 0, 0
		return a == b
	})
	if same {
		return false, nil
	}
	classes, err := newClassifier(flows)
	if err != nil {
		return false, err
	}
	classes.generation = before.generation + 1
	c.classes.Store(classes)
	return true, nil
}
