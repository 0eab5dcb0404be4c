package collector

import (
	"context"
	"io"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/wire"
)

// View gives a display access to the traffic, as a rollup.Store, and to the state of
// the collector. All methods are safe for concurrent use.
type View struct {
	c       *collector
	store   *rollup.Store
	flows   atomic.Pointer[viewFlows]
	reader  *hub.Reader[Item]
	counted atomic.Uint64
	known   *[]*agent // the roster known to store
	watched []watched // by agent, as known to store
	lost    uint64    // of the reader, at lostAt (s)
	lostAt  int64
	away    bool         // the bus is away
	looked  int64        // when count last returned, ns
	emptied atomic.Int64 // when the hub was empty last, ns
	losing  atomic.Int64 // when records were last lost before they could be counted, s; 0: never
	edition atomic.Uint64
	none    int // the row of traffic that belongs to no flow

	archive *rollup.Archive // nil: history is in memory only
	records func(ctx context.Context, from, to time.Time, yield func(string, *wire.Record) bool) error
	after   time.Duration
	config  rollup.Config // of store
}

// AgentStatus is what is known about an agent apart from its traffic.
type AgentStatus struct {
	Phase feed.ClientPhase
	// Status says in a few words why there is no connection, or "dialling". While a
	// failed agent is being reconnected, it still gives the reason. It is empty if
	// Phase is Connected.
	Status string
	// Failed means that the last attempt or connection failed, and there is no new
	// connection.
	Failed  bool
	Records uint64 // received since the start
	// Withheld is the number of records discarded because another collector may have
	// had them too.
	Withheld    uint64
	Connections uint64 // made since the start
	// Losses are those reported by an agent with IPFIX. HasLosses is not set for a
	// 28-byte feed, which cannot report them; only Losses.Malformed is known then.
	Losses    feed.Losses
	HasLosses bool
	// Detail is what is kept of its records; nil if nobody keeps them.
	Detail *Detail
	// Gone means that the configuration no longer lists it, or that only the archive
	// knows it.
	Gone bool
}

// Counting describes how the store keeps up with the records.
type Counting struct {
	Records uint64 // counted
	// Lost is the number of records that were overwritten before they were counted,
	// because the store was too slow; they are missing from the traffic.
	Lost uint64
}

// Store returns the traffic. Its rows are View.Rows, its hosts View.Hosts.
func (v *View) Store() *rollup.Store { return v.store }

// Rows returns the flows, followed by those that only the archive knows, the traffic of
// no flow, and flows added to the configuration later. A row's index never changes.
func (v *View) Rows() []Row { return v.flows.Load().rows }

// Hosts returns the agents: those of the configuration, or a replay's logs, followed by
// those that only the archive knows, and those added to the configuration later. An
// agent's index never changes.
func (v *View) Hosts() (hosts []Host) {
	for _, a := range v.c.all() {
		hosts = append(hosts, *a.host)
	}
	return hosts
}

// Edition returns a number that changes whenever Hosts or Rows change.
func (v *View) Edition() uint64 { return v.edition.Load() }

// Started returns when the collector started.
func (v *View) Started() time.Time { return v.c.started }

// Counting returns the store's counters.
func (v *View) Counting() Counting {
	return Counting{Records: v.counted.Load(), Lost: v.reader.Status().Lost}
}

// Listening returns what the ports of Config.Listen did not accept, in total.
func (v *View) Listening() feed.ReceiverStatus { return v.c.listening() }

// Withheld returns the number of records discarded because another collector may have
// had them too.
func (v *View) Withheld() uint64 { return v.c.withheld() }

// Agents returns the status of each of Hosts.
func (v *View) Agents() (list []AgentStatus) {
	for _, a := range v.c.all() {
		list = append(list, a.status())
	}
	return list
}

func (a *agent) status() AgentStatus {
	s := a.state.Load()
	st := AgentStatus{
		Phase: s.Phase, Records: a.records.Load(), Connections: a.connections.Load(),
		HasLosses: a.host.IPFIX, Withheld: a.withheld.Load(),
	}
	st.Losses = a.losses()
	st.Detail = a.detail()
	if st.Gone = a.gone.Load(); st.Gone {
		st.Phase, st.Status = feed.Dialling, "no longer configured"
		return st
	}
	if s.Phase == feed.Connected {
		return st
	}
	if a.elsewhere.Load() {
		st.Status = atAnother
		return st
	}
	if s.Phase == feed.Dialling {
		if failed := a.failed.Load(); failed != nil {
			s = failed
		}
	}
	st.Failed = s.Phase != feed.Dialling
	st.Status = stateText(s)
	return st
}

// tickAt is when in each second a snapshot is made: late enough for the records of the
// previous second (rollup's Complete).
const tickAt = 350 * time.Millisecond

// countEvery is the interval at which the hub is emptied into the store: far shorter
// than the time to fill it, and cheaper than waking for each batch.
const countEvery = 50 * time.Millisecond

func newView(c *collector, archive *Archive) (*View, error) {
	v := &View{c: c, reader: c.hub.NewReader()}
	v.setFlows(c.classes.Load())
	var hosts []rollup.Host
	for _, a := range c.all() {
		hosts = append(hosts, a.host.counted())
	}
	if archive != nil {
		if err := v.openArchive(archive, hosts); err != nil {
			return nil, err
		}
		for _, h := range v.archive.Hosts()[len(hosts):] {
			c.add(c.newFormer(h))
		}
		hosts = v.archive.Hosts()
	}
	v.known = c.roster.Load()
	clock := rollup.ByWall
	if c.player != nil {
		clock = rollup.ByNewest
	}
	v.config = rollup.Config{Hosts: hosts, Rows: v.none, Clock: clock, Archive: v.archive, Classify: v.classify(), Members: v.members}
	if c.follow != nil {
		v.config.Late = followLate
	}
	v.store = rollup.New(v.config)
	return v, nil
}

// members are a multicast group's in a window, as agents tell. Replayed logs have times of their own: whoever was a
// member is one.
func (v *View) members(group netip.Addr, w rollup.Window) rollup.Membership {
	m := rollup.Membership{Joined: map[int]int64{}, Told: map[int]bool{}, Node: map[int]int{}}
	if v.c.paths == nil {
		return m
	}
	if v.c.player != nil {
		w.From = 0
	}
	joined, told := v.c.paths.engine.Membership(group, w.From, max(w.To, 1))
	first := map[string]int{}
	for i, a := range v.c.all() {
		node := path.NodeOf(a.host.Label)
		if j, ok := first[node]; ok {
			m.Node[i] = j
		} else {
			first[node] = i
		}
		if since, ok := joined[a.host.Label]; ok {
			m.Joined[i] = since
		}
		if told[a.host.Label] {
			m.Told[i] = true
		}
	}
	return m
}

// counted is the host as a store knows it.
func (h *Host) counted() rollup.Host {
	host := rollup.Host{Label: h.Label, Address: h.Address()}
	host.Addr, _ = netip.ParseAddr(h.Name) // invalid for a host name
	return host
}

// viewFlows are a View's rows and the data derived from them.
type viewFlows struct {
	classes *classifier
	rows    []Row
	rowOf   []int // by flow line
}

// setFlows creates the initial rows.
func (v *View) setFlows(classes *classifier) {
	f := &viewFlows{classes: classes}
	f.rows, f.rowOf = rowsOf(classes.flows)
	v.none = len(f.rows) - 1
	v.flows.Store(f)
}

// changeFlows makes the store count by other flows from now on. New flows get rows
// after all others.
func (v *View) changeFlows(classes *classifier) {
	f := &viewFlows{classes: classes, rows: slices.Clone(v.flows.Load().rows)}
	named := make(map[string]int)
	for i := range f.rows {
		f.rows[i].Former = i != v.none
		named[f.rows[i].Name] = i
	}
	rows, rowOf := rowsOf(classes.flows)
	at := make([]int, len(rows))
	for i, row := range rows[:len(rows)-1] {
		index, known := named[row.Name]
		if !known {
			index = len(f.rows)
			f.rows = append(f.rows, row)
		}
		f.rows[index], at[i] = row, index
		v.store.SetRow(index, rollup.Row{Name: row.Name, Detail: row.Detail})
	}
	for _, row := range rowOf {
		f.rowOf = append(f.rowOf, at[row])
	}
	v.flows.Store(f)
	v.store.Reclassify()
}

// newFormer returns an agent that only the archive knows.
func (c *collector) newFormer(h rollup.Host) *agent {
	a := &agent{c: c, index: uint32(len(c.all())), host: &Host{Label: h.Label, Name: h.Address}}
	a.state.Store(&feed.ClientState{Phase: feed.Dialling})
	a.gone.Store(true)
	return a
}

// meet tells the store about agents that are new or have changed.
func (v *View) meet() {
	edition := v.c.edition.Load() // everything it stands for exists by now
	defer func() { v.edition.Store(edition) }()
	if classes := v.c.classes.Load(); classes != v.flows.Load().classes {
		v.changeFlows(classes)
	}
	roster := v.c.roster.Load()
	if roster == v.known {
		return
	}
	var before []*agent
	if v.known != nil {
		before = *v.known
	}
	for i, a := range *roster {
		if i >= len(before) || before[i] != a {
			v.store.SetHost(i, a.host.counted())
		}
	}
	v.known = roster
}

// RowOf returns the row that a record counts for; if there are several, the first. It
// is safe for concurrent use.
func (v *View) RowOf(r *wire.Record) int {
	f := v.flows.Load()
	if lines := f.classes.lines(f.classes.match(r), nil); len(lines) > 0 {
		return f.rowOf[lines[0]]
	}
	return v.none
}

// classify is for one store, which calls it from one goroutine.
func (v *View) classify() func([]int, *wire.Record) []int {
	var scratch []uint32
	return func(rows []int, r *wire.Record) []int {
		f := v.flows.Load()
		for _, line := range f.classes.lines(f.classes.match(r), scratch) {
			rows = append(rows, f.rowOf[line])
		}
		return rows
	}
}

// run counts the contents of the hub until it is closed and empty.
func (v *View) run() error {
	defer v.reader.Close()
	if v.archive != nil {
		go v.archive.Run()                  // until the store is closed
		v.store.Tick(time.Now().UnixNano()) // earlier history is available immediately
		defer v.refilling()()
	}
	look := time.NewTicker(countEvery)
	defer look.Stop()
	next := nextTick(time.Now())
	for now := range look.C {
		v.count()
		if !now.Before(next) {
			v.store.Tick(time.Now().UnixNano())
			next = nextTick(now)
		}
		if ended(v.reader) {
			break
		}
	}
	v.store.Tick(time.Now().UnixNano())
	return nil
}

func nextTick(now time.Time) time.Time {
	return now.Add(-tickAt).Truncate(time.Second).Add(time.Second + tickAt)
}

// ended reports whether nothing more will arrive.
func ended(r *hub.Reader[Item]) bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return r.Wait(ctx) == io.EOF
}

// stalled is how long counting must have been interrupted for the program, or the
// machine, to be considered suspended; the wall clock continues meanwhile.
const stalled = 2 * time.Second

// count empties the hub into the store. If more arrives than it can count, it returns
// after a while, because snapshots must continue.
func (v *View) count() {
	start := time.Now()
	if at := start.UnixNano(); v.looked != 0 && at-v.looked > int64(stalled) {
		v.store.Stalled(at)
	}
	defer func() { v.looked = time.Now().UnixNano() }()
	v.meet()
	v.observe(start)
	for items := v.reader.Items(); len(items) > 0; items = v.reader.Items() {
		v.meet() // the agents of these items were there before them
		arrived := time.Now()
		if arrived.Sub(start) > countEvery {
			v.reader.Advance(0)
			return
		}
		now := arrived.UnixNano()
		for i := range items {
			if items[i].Again {
				continue
			}
			v.store.Add(now, int(items[i].Host), &items[i].Record)
		}
		v.counted.Add(uint64(len(items)))
		v.reader.Advance(len(items))
	}
	v.emptied.Store(time.Now().UnixNano())
}
