package agent

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pcapper/pcapper/internal/agent/decode"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/internal/transport/hub"
)

type collector = feed.Collector[*recordReader]

// rememberDeparted is the number of former collectors that are listed individually; the
// totals include all of them.
const rememberDeparted = 50

// departed remembers the collectors that have disconnected.
type departed struct {
	mu    sync.Mutex
	n     int
	total hub.Status
	sent  uint64
	last  []string // newest last
}

// left is called by the feed for each collector that has disconnected.
func (a *agent) left(c collector, why error) {
	s := c.Reader.Status()
	line := account(c, s)
	a.out.printf("%s: detached: %v; %s", c, why, countedIn(c.Format, s))
	d := &a.past
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last = append(d.last, line); len(d.last) > rememberDeparted {
		d.last = d.last[1:]
	}
}

// gone is called by the feed for each collector as it disconnects.
func (a *agent) gone(c collector) {
	d := &a.past
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n++
	addStatus(&d.total, c.Reader.Status())
	d.sent += c.Sent
}

func addStatus(sum *hub.Status, s hub.Status) {
	sum.Published += s.Published
	sum.Delivered += s.Delivered
	sum.Skipped += s.Skipped
	sum.Lost += s.Lost
	sum.Pending += s.Pending
}

// announce prints what a user needs to know at startup.
func (a *agent) announce(drops string) {
	a.out.printf("engine: %s: %s", a.engine.name, a.engine.why)
	a.out.printf("filter on %s: %s (%s)", a.watched.iface.Name, a.watched.filter.Text, a.watched.filter.Compiler)
	if limit := a.watched.filter.Limit; limit != "" {
		a.out.printf("warning: -m: %s", limit)
	}
	a.out.printf("%s", drops)
	a.announcePorts()
	if a.stats != nil {
		a.out.printf("CPU and memory: %v", a.stats)
	}
}

// report prints Check's report on the interface.
func (a *agent) report() {
	addrs := "no IP address"
	if list := a.watched.iface.Addrs; len(list) > 0 {
		addrs = "addresses"
		for _, p := range list {
			addrs += " " + p.String()
		}
	}
	mac := "none; direction takes its place"
	if a.watched.mac != nil {
		mac = a.watched.mac.String()
	}
	a.out.printf("%s: MAC %s, %s", a.watched.iface.Name, mac, addrs)
}

// summary accounts for every packet so far.
func (a *agent) summary() {
	kernel := a.capture.stats()
	packets, dropped, _ := a.capture.counters.get()
	stats := uint64(0)
	if a.stats != nil {
		stats = a.stats.sent.Load()
	}
	stackDrops := a.drops.Load().counts()
	memberships := a.groups.count()
	twice := a.capture.counters.uncounted()
	published := a.hub.Published() - stackDrops.sum - memberships - twice
	a.out.printf("summary: %s packets captured in %s, %s dropped by the kernel, %s dropped by slow readers",
		number(published-stats), time.Since(a.started).Round(time.Second), number(kernel.Dropped), number(a.lost()))
	if line := a.leftOut(packets, dropped, kernel.Own, stats, memberships, twice); line != "" {
		a.out.printf("%s", line)
	}
	if line := stackDrops.String(); line != "" {
		a.out.printf("%s", line)
	}
	if line := refused(a.feed.Refused()); line != "" {
		a.out.printf("%s", line)
	}
	for _, line := range a.past.lines() {
		a.out.printf("%s", line)
	}
	for _, c := range a.feed.Collectors() {
		a.out.printf("%s", account(c, c.Reader.Status()))
	}
	for _, x := range a.exports {
		a.out.printf("%v", x)
	}
	if a.log == nil {
		a.out.printf("log: off, as it is %s", a.cfg.Log)
		return
	}
	written, lost := a.log.file.Lines()
	s := a.log.reader.Status()
	s.Published -= min(a.log.skipped.Load(), s.Published)
	a.out.printf("log %q: %s lines written, %s lost, %s in flight", a.cfg.Log,
		number(written), number(lost+s.Lost), number(s.Published-s.Lost-min(written+lost, s.Published-s.Lost)))
}

// lost returns the number of records lost by all readers, collectors and log, because
// they were too slow.
func (a *agent) lost() uint64 {
	var sum uint64
	a.feed.Snapshot(func(c collector) { sum += c.Reader.Status().Lost }, func() {
		a.past.mu.Lock()
		defer a.past.mu.Unlock()
		sum += a.past.total.Lost
	})
	for _, x := range a.exports {
		sum += x.status().Lost
	}
	if a.log != nil {
		sum += a.log.reader.Status().Lost
	}
	return sum
}

// leftOut lists what yielded no record and why, and what else was noticed.
func (a *agent) leftOut(packets decode.Counters, dropped, own, stats, memberships, twice uint64) string {
	var parts []string
	add := func(name string, n uint64) {
		if n > 0 {
			parts = append(parts, number(n)+" "+name)
		}
	}
	if a.cfg.spoofInside() {
		add("with other sources left out", dropped)
	} else {
		own += dropped
	}
	add("of our own feed left out", own)
	add("host statistics sent", stats)
	add("records of multicast groups sent", memberships)
	add("records of packets before a queue sent", twice)
	packets.Frames, packets.Records = 0, 0 // already printed
	packets.Each(add)
	if len(parts) == 0 {
		return ""
	}
	return "summary: " + strings.Join(parts, ", ")
}

// refused lists the connections that were refused.
func refused(r feed.Refused) string {
	var parts []string
	add := func(n uint64, why string) {
		if n > 0 {
			parts = append(parts, number(n)+" "+why)
		}
	}
	add(r.NotAllowed, "from addresses that are not allowed")
	add(r.TooMany, "beyond the limit of their address")
	add(r.Handshake, "without a good TLS handshake")
	if len(parts) == 0 {
		return ""
	}
	return "refused connections: " + strings.Join(parts, ", ")
}

func (d *departed) lines() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var lines []string
	if d.n > len(d.last) {
		lines = append(lines, fmt.Sprintf("%d collectors have left in all: %s", d.n, counted(d.total)))
	}
	return append(lines, d.last...)
}

// account returns a collector's line for the summary.
func account(c collector, s hub.Status) string {
	return fmt.Sprintf("%s (%s): %s", c, c.How(), countedIn(c.Format, s))
}

func counted(s hub.Status) string { return countedIn("", s) }

// countedIn names the format only if it cannot represent every record.
func countedIn(format string, s hub.Status) string {
	line := fmt.Sprintf("%s delivered, %s lost", number(s.Delivered), number(s.Lost))
	if s.Skipped > 0 {
		where := "28 bytes"
		if format == "ipfix" {
			where = "IPFIX"
		}
		line += fmt.Sprintf(", %s not expressible in %s", number(s.Skipped), where)
	}
	if s.Pending > 0 {
		line += fmt.Sprintf(", %s in flight", number(s.Pending))
	}
	return line
}

// number formats n with thousands separators.
func number(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
