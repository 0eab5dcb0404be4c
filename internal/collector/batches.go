package collector

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/transport/downsample"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// Batches is a destination for records beyond this collector.
type Batches interface {
	// Publish takes the next batch of an agent. It is called from one goroutine and
	// must not wait for a network or a disk: what cannot be sent now is queued, or
	// dropped and counted, by the implementation. It must not keep b or b.Records,
	// which are reused. b.Dropped is the number of records dropped before b was
	// numbered; records that Publish drops itself leave a gap in the numbers.
	//
	// The last call returns before Run does.
	Publish(b *batch.Batch)
}

const (
	// batchRecords is the size of a full batch: IPFIX needs 65 bytes per record.
	batchRecords = 1000
	// batchAge is how long a record waits for others, plus up to countEvery.
	batchAge = 150 * time.Millisecond
)

// mostSpare bounds the memory that an agent keeps for its next batch, as a multiple of
// the last one.
const mostSpare = 4

// batcher builds batches from the contents of the hub, in a goroutine of its own. If it
// is too slow, it loses the oldest records, which are counted for their agent.
type batcher struct {
	c      *collector
	to     Batches
	reader *hub.Reader[Item]
	detail *downsample.Rules
	agents []*outgoing // those known to fleet
	fleet  *downsample.Fleet
	now    time.Time // accurate to countEvery

	changes []change // of detail, not reported yet

	batches atomic.Uint64 // published
	sum     batchCounts   // so far

	mu    sync.Mutex
	noted batchCounts // sum, as others may read it
}

// batchCounts are what a batcher has done.
type batchCounts struct {
	taken   uint64 // items taken from the hub
	records uint64 // in batches
	// Packets that records stand for: those received, those in batches, those from before
	// 1970, which no batch can contain, those that less detail leaves out, and those waiting
	// for the end of their second or of their batch.
	in, out, untimely, leftOut, held uint64
}

// outgoing is an agent's streams of batches: one numbered by us and, if the agent
// numbers its records, one with the agent's own numbers. These make it possible to
// deduplicate the batches of two collectors that have read the same records. Aggregates
// are always in our stream.
type outgoing struct {
	batch.Batch // being filled
	marks       marks
	ours        sequence
	theirs      sequence // boot 0 if the records have no numbers
	number      uint64   // in theirs, of the record being added
	packets     uint64   // in Records
	downsample  *downsample.Agent
	enlisted    bool      // owned by the batcher, like everything below except published and lost
	next        uint32    // the expected number of the hub's next item of this agent
	since       time.Time // when Records got its first record

	published, lost atomic.Uint64 // records; see Detail
}

// sequence is the position at which a stream of batches continues.
type sequence struct{ boot, next, dropped uint64 }

// mark says that the records from some item on are numbered like this.
type mark struct {
	at           uint32 // Item.number
	boot, number uint64
}

// marks are those that the batcher has not reached yet. The agent's client adds them.
type marks struct {
	any  atomic.Bool
	mu   sync.Mutex
	list []mark
}

func (m *marks) put(next mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.list); n > 0 && m.list[n-1].at == next.at {
		m.list = m.list[:n-1]
	}
	m.list = append(m.list, next)
	m.any.Store(true)
}

// upto removes and returns the last mark at or before an item.
func (m *marks) upto(number uint32) (last mark, ok bool) {
	if !m.any.Load() {
		return last, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.list) > 0 && int32(number-m.list[0].at) >= 0 {
		last, ok = m.list[0], true
		m.list = m.list[1:]
	}
	m.any.Store(len(m.list) > 0)
	return last, ok
}

func newBatcher(c *collector, to Batches, detail *downsample.Rules) *batcher {
	if detail == nil {
		rules := downsample.DefaultRules()
		detail = &rules
	}
	b := &batcher{c: c, to: to, reader: c.hub.NewReader()}
	b.detail = detail
	var fleet []*downsample.Agent
	for _, a := range c.present() {
		b.prepare(a)
		a.out.enlisted = true
		b.agents = append(b.agents, a.out)
		fleet = append(fleet, a.out.downsample)
	}
	b.fleet = downsample.NewFleet(detail.Fleet, fleet)
	return b
}

// prepare creates an agent's streams of batches. It is called before there are items of
// the agent.
func (b *batcher) prepare(a *agent) {
	o := &outgoing{}
	o.Agent, o.ours.boot = batchName(a.host.Label), rand.Uint64()
	o.downsample = downsample.NewAgent(b.detail.For(a.host.Label),
		func(level batch.Level, r *wire.Record) { b.append(o, level, r) },
		func(ch downsample.Change) { b.changes = append(b.changes, change{a, ch}) })
	a.out = o
}

// enlist adds the agents that are new.
func (b *batcher) enlist() {
	for _, a := range b.c.all() {
		if a.out != nil && !a.out.enlisted {
			a.out.enlisted = true
			b.agents = append(b.agents, a.out)
			b.fleet.Add(a.out.downsample)
		}
	}
}

// batchName converts a label to a valid name in a batch.
func batchName(label string) string {
	label = strings.ToValidUTF8(label, "\uFFFD")
	if len(label) > maxBatchName {
		label = strings.ToValidUTF8(label[:maxBatchName], "")
	}
	return label
}

const maxBatchName = 255

// run publishes until the hub is closed and empty.
func (b *batcher) run() error {
	defer b.reader.Close()
	look := time.NewTicker(countEvery)
	defer look.Stop()
	for now := range look.C {
		b.now = now
		b.enlist()
		b.fleet.Tick(now.UnixNano())
		b.take()
		b.flushOlder(now.Add(-batchAge))
		b.note()
		b.tellChanges()
		if ended(b.reader) {
			break
		}
	}
	b.enlist()
	for _, o := range b.agents {
		o.downsample.Flush()
		b.flush(o)
	}
	b.note()
	return nil
}

// take reads everything available from the hub.
func (b *batcher) take() {
	for items := b.reader.Items(); len(items) > 0; items = b.reader.Items() {
		for i := range items {
			if !items[i].Again {
				b.add(&items[i])
			}
		}
		b.sum.taken += uint64(len(items))
		b.reader.Advance(len(items))
		b.note()
	}
}

// add adds an item to its agent's stream. The item's number reveals how many items
// before it were overwritten.
func (b *batcher) add(item *Item) {
	if item.Flags&wire.HostStat != 0 { // batches do not contain them
		return
	}
	a := b.c.all()[item.Host]
	o := a.out
	if gap := item.number - o.next; gap != 0 {
		b.drop(o, uint64(gap))
	}
	o.next = item.number + 1
	b.sum.in += item.Count()
	if m, ok := o.marks.upto(item.number); ok {
		if o.theirs.boot != m.boot {
			o.theirs = sequence{boot: m.boot}
		}
		o.number = m.number + uint64(item.number-m.at)
	}
	if item.Time < 0 {
		b.sum.untimely += item.Count()
		b.drop(o, 1)
	} else {
		o.downsample.Add(&item.Record)
	}
	o.number++
	if o.theirs.boot != 0 && o.downsample.Status().Level > batch.Packets {
		// Aggregated records would be missing from the numbers, so there are no numbers
		// until the next connection.
		o.theirs = sequence{}
		a.numbered.Store(false)
	}
}

// note makes the counts so far available to other goroutines.
func (b *batcher) note() {
	b.sum.held, b.sum.leftOut = 0, 0
	for _, o := range b.agents {
		b.sum.held += o.packets + o.downsample.Held()
		b.sum.leftOut += o.downsample.LeftOut()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.noted = b.sum
}

func (b *batcher) counts() batchCounts {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.noted
}

// drop counts records that will be in no batch.
func (b *batcher) drop(o *outgoing, n uint64) {
	b.flush(o)
	o.number += n
	if o.theirs.boot != 0 {
		o.theirs.dropped += n
	} else {
		o.ours.dropped += n
	}
	o.lost.Add(n)
}

// append adds a record to the batch. The batch is published when it is full, or before
// a record of another level or stream, or one whose number is not the next.
func (b *batcher) append(o *outgoing, level batch.Level, r *wire.Record) {
	s, number := &o.ours, o.ours.next
	if level == batch.Packets && o.theirs.boot != 0 {
		s, number = &o.theirs, o.number
	}
	if o.Level != level || o.Boot != s.boot || o.Next() != number {
		b.flush(o)
	}
	if len(o.Records) == 0 {
		o.since = b.now
		o.Level, o.Boot, o.First = level, s.boot, number
	}
	s.next = number + 1
	o.Dropped = s.dropped
	o.Records = append(o.Records, *r)
	o.packets += r.Count()
	if len(o.Records) >= batchRecords {
		b.flush(o)
	}
}

// flush publishes an agent's current batch.
func (b *batcher) flush(o *outgoing) {
	n := len(o.Records)
	if n == 0 {
		return
	}
	for i := range o.Records {
		b.sum.out += o.Records[i].Count()
	}
	b.sum.records += uint64(n)
	o.packets = 0
	b.to.Publish(&o.Batch)
	o.First = o.Next()
	o.Records = o.Records[:0]
	if cap(o.Records) > mostSpare*n {
		o.Records = nil // ten thousand agents may each have had a burst
	}
	o.published.Add(uint64(n))
	b.batches.Add(1)
}

// flushOlder publishes the batches begun before then.
func (b *batcher) flushOlder(then time.Time) {
	for _, o := range b.agents {
		if len(o.Records) > 0 && o.since.Before(then) {
			b.flush(o)
		}
	}
}

// summary describes what has become of the records.
func (b *batcher) summary() string {
	var changes, records, lost uint64
	for _, a := range b.c.all() {
		o := a.out
		if o == nil {
			continue
		}
		changes += o.downsample.Status().Changes
		records += o.published.Load()
		lost += o.lost.Load()
	}
	return fmt.Sprintf("to be kept: %s in %s, %s of detail; %s lost before",
		count(records, "record"), batches(b.batches.Load()), count(changes, "change"), count(lost, "record"))
}

func batches(n uint64) string {
	if n == 1 {
		return "1 batch"
	}
	return fmt.Sprintf("%d batches", n)
}
