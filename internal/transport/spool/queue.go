package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
)

// Config configures a queue.
type Config struct {
	// Name identifies the queue in its directory; it is part of file names.
	Name string
	// Size limits the segments on disk, in bytes; at least MinSize.
	Size int64
	// Say prints a message for the user.
	Say func(format string, args ...any)
}

// Amount is a number of entries and their total weight.
type Amount struct{ Entries, Weight uint64 }

// Status is the state of a queue. At every moment
//
//	what was appended = acknowledged + Waiting + Dropped
//
// by weight, over all processes that used the queue, except for what a killed process
// had not yet written.
type Status struct {
	// Waiting has not been acknowledged yet.
	Waiting Amount
	// Dropped was removed to make room, or could not be read back, since the queue
	// was created.
	Dropped Amount
	// WaitingNew and DroppedNew are the weights of entries appended since Open.
	WaitingNew, DroppedNew uint64
	// Missed was lost before it could be appended, since the queue was created: see Queue.Missed.
	Missed uint64
	// Unwritten is the weight of entries that are only in memory: a kill loses them.
	Unwritten      uint64
	Disk, InMemory int64  // bytes
	Errors         uint64 // of the disk, since the queue was created
	// Since is when the first entry was appended after the queue had been empty: nothing
	// that waits is older. It is zero if nothing waits, or only entries of an earlier life do.
	Since time.Time
	// Failing is the disk's last error, or "" if it works.
	Failing string
}

// Queue is a queue of entries. One goroutine may append, another one may use
// Wait, Next, Ack, and Rewind; any goroutine may use Status and Sync.
type Queue struct {
	dir *Dir
	cfg Config

	wake   chan struct{} // there may be something to read
	kick   chan struct{} // there is much to write
	wrote  chan struct{} // there is something to synchronize
	ending chan struct{}

	alarm   *time.Timer // fires when something in memory is due
	running sync.WaitGroup

	mu sync.Mutex
	// Numbers count entries. Those in [segs[0].first, written) are on disk, those from
	// written on are in mem. read is the next one that Next returns.
	segs          []segment
	mem           []entry
	written, read uint64
	readWeight    uint64  // weight of all before read
	weight        uint64  // of all before written
	flight        []flown // returned by Next and not acknowledged, oldest first
	flightGone    Amount  // of these, what was removed from the disk to make room
	memBytes      int64
	memWeight     uint64
	flushing      int // entries at the front of mem that are being written
	state         *stateFile
	opened        uint64 // number of the first entry since Open,
	openedWeight  uint64 // and the weight of all before it
	droppedNew    uint64
	since         time.Time // see Status
	missedBefore  uint64    // state.missed when it was opened
	disk          int64     // bytes of segs
	failing       string    // the last error, until some time after it
	failed        time.Time // when that was
	full          bool      // it was that there is no room
	free          [][]byte  // for reuse
	closed        bool
	armed         bool // alarm is set
	segmentSize   int64
	open          *os.File   // the segment being written to, nil if none
	unsynced      []*os.File // full ones
	unnamed       bool       // the name of a new one is not yet durable in the directory

	syncing sync.Mutex // held while synchronizing, taken before mu

	io     sync.Mutex // held while writing, taken before mu
	out    writer     // the last segment, if it is open; guarded by io
	reader reader     // owned by the reading goroutine
}

// flown is an entry in flight.
type flown struct {
	number uint64
	before uint64 // weight of all before it
	weight uint32
}

// Append adds a copy of an entry, and never waits for the disk. weight is counted if
// the entry is dropped.
func (q *Queue) Append(data []byte, weight uint32) error {
	if len(data) > MaxEntry {
		return fmt.Errorf("an entry of %d bytes: at most %d go into a spool", len(data), MaxEntry)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return errClosed
	}
	if head, _ := q.head(); head == q.next() {
		q.since = time.Now()
	}
	e := entry{b: q.buffer(entryHeader + len(data)), weight: weight, at: time.Now()}
	copy(e.data(), data)
	q.push(e)
	if q.memBytes > Memory {
		q.shed()
	}
	if q.memBytes >= FlushBytes {
		notify(q.kick)
	}
	if !q.armed {
		q.armed = true
		q.alarm.Reset(FlushAge)
	}
	notify(q.wake)
	return nil
}

// Missed notes how much weight whoever appends has lost since Open. The queue remembers it as long as its
// data, together with what was lost in earlier lives.
func (q *Queue) Missed(weight uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.state.missed = q.missedBefore + weight
}

var errClosed = errors.New("the spool is closed")

func (q *Queue) push(e entry) {
	q.mem = append(q.mem, e)
	q.memBytes += int64(len(e.b))
	q.memWeight += uint64(e.weight)
}

// buffer returns n bytes, reusing a buffer if possible.
func (q *Queue) buffer(n int) []byte {
	if last := len(q.free) - 1; last >= 0 {
		b := q.free[last]
		q.free = q.free[:last]
		if cap(b) >= n {
			return b[:n]
		}
	}
	return make([]byte, n)
}

// maxFree is the maximum number of buffers kept, maxFreeBytes their maximum size.
const (
	maxFree      = 64
	maxFreeBytes = 64 << 10
)

// forget removes entry i from memory.
func (q *Queue) forget(i int) {
	e := q.mem[i]
	q.memBytes -= int64(len(e.b))
	q.memWeight -= uint64(e.weight)
	if len(q.free) < maxFree && cap(e.b) <= maxFreeBytes {
		q.free = append(q.free, e.b[:0])
	}
	if i == 0 {
		q.mem[0] = entry{}
		q.mem = q.mem[1:]
		return
	}
	copy(q.mem[i:], q.mem[i+1:])
	q.mem[len(q.mem)-1] = entry{}
	q.mem = q.mem[:len(q.mem)-1]
}

// shed makes room in memory: it drops the oldest entry that is neither in flight nor
// being written.
func (q *Queue) shed() {
	from := max(q.flushing, int(max(q.read, q.written)-q.written))
	for q.memBytes > Memory && from < len(q.mem) {
		q.giveUp(Amount{1, uint64(q.mem[from].weight)}, q.written+uint64(from))
		q.forget(from)
	}
}

// giveUp counts entries as dropped; from is the number of the first.
func (q *Queue) giveUp(a Amount, from uint64) {
	q.state.dropped.Entries += a.Entries
	q.state.dropped.Weight += a.Weight
	if from >= q.opened {
		q.droppedNew += a.Weight
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Wait blocks until Next has an entry to return. The error is ctx's.
func (q *Queue) Wait(ctx context.Context) error {
	for {
		q.mu.Lock()
		some := q.read < q.next()
		q.mu.Unlock()
		if some {
			return nil
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next returns the number of the entry that will be appended next.
func (q *Queue) next() uint64 { return q.written + uint64(len(q.mem)) }

// Next appends the data of the oldest entry that it has not returned yet to dst;
// ok reports whether there is one. It waits for the disk, but not for an entry.
func (q *Queue) Next(dst []byte) (data []byte, weight uint32, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.read < q.next() {
		if i := q.read - q.written; q.read >= q.written {
			e := &q.mem[i]
			q.fly(e.weight)
			return append(dst, e.data()...), e.weight, true
		}
		s := q.holder()
		if q.read < s.first { // damaged ones are missing
			q.read, q.readWeight = s.first, s.before
		}
		number := q.read
		q.mu.Unlock()
		data, weight, err := q.reader.entry(&s, number, dst)
		q.mu.Lock()
		if q.read != number {
			continue // it was dropped in the meantime
		}
		if err == nil {
			q.fly(weight)
			return data, weight, true
		}
		q.mu.Unlock()
		q.damaged(number, err)
		q.mu.Lock()
	}
	return dst, 0, false
}

// holder returns the segment that contains the entry to read, or the first one after
// it, which must exist.
func (q *Queue) holder() segment {
	for _, s := range q.segs {
		if s.next > q.read {
			return s
		}
	}
	panic("spool: no segment has an entry that was written")
}

func (q *Queue) fly(weight uint32) {
	q.flight = append(q.flight, flown{q.read, q.readWeight, weight})
	q.read++
	q.readWeight += uint64(weight)
}

// floor returns the number of the first existing entry.
func (q *Queue) floor() uint64 {
	if len(q.segs) > 0 {
		return q.segs[0].first
	}
	return q.written
}

// Ack acknowledges the oldest n entries that Next has returned.
func (q *Queue) Ack(n int) {
	if n == 0 {
		return
	}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return
	}
	floor := q.floor()
	for _, f := range q.flight[:n] {
		if f.number < floor {
			q.flightGone.Entries--
			q.flightGone.Weight -= uint64(f.weight)
		}
	}
	q.flight = append(q.flight[:0], q.flight[n:]...)
	doomed := q.settle()
	q.mu.Unlock()
	q.remove(doomed)
}

// Rewind makes Next start again with the oldest unacknowledged entry.
func (q *Queue) Rewind() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.flightGone.Entries > 0 {
		q.giveUp(q.flightGone, q.flight[0].number)
		q.flightGone = Amount{}
	}
	floor := q.floor()
	for _, f := range q.flight {
		if f.number >= floor {
			q.read, q.readWeight = f.number, f.before
			break
		}
	}
	q.flight = q.flight[:0]
	notify(q.wake)
}

// head returns the number of the first entry that is neither acknowledged nor dropped,
// and the weight of all before it.
func (q *Queue) head() (number, before uint64) {
	floor := q.floor()
	for _, f := range q.flight {
		if f.number >= floor {
			return f.number, f.before
		}
	}
	return q.read, q.readWeight
}

// settle forgets what was acknowledged, unless a write is in progress, which will do so
// itself. It returns the files to remove.
func (q *Queue) settle() (doomed []string) {
	if q.flushing > 0 {
		return nil
	}
	head, _ := q.head()
	for q.written < head {
		q.written++
		q.weight += uint64(q.mem[0].weight)
		q.forget(0)
	}
	onDisk := len(q.segs) > 0
	// An empty one is about to be written to.
	for len(q.segs) > 0 && q.segs[0].next <= head && q.segs[0].first < q.segs[0].next {
		doomed = append(doomed, q.unlist())
	}
	if onDisk {
		q.remember()
	}
	return doomed
}

// unlist removes the oldest segment from the list.
func (q *Queue) unlist() (path string) {
	s := q.segs[0]
	q.segs = append(q.segs[:0], q.segs[1:]...)
	q.disk -= s.size
	return s.path
}

// remember writes the state.
func (q *Queue) remember() {
	q.state.head, q.state.before = q.head()
	// If we are killed, nobody will know what became of these.
	sum := q.state.dropped
	q.state.dropped.Entries += q.flightGone.Entries
	q.state.dropped.Weight += q.flightGone.Weight
	if err := q.state.write(); err != nil {
		q.fail(err)
	}
	q.state.dropped = sum
}

// Status returns the queue's state. It may be called concurrently.
func (q *Queue) Status() Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.mem) == 0 { // nothing waits for the disk
		q.fine()
	}
	head, before := q.head()
	end := q.weight + q.memWeight
	since := q.since
	if head == q.next() {
		since = time.Time{}
	}
	return Status{
		Since:   since,
		Waiting: Amount{q.waiting(), end - before}, Dropped: q.state.dropped,
		WaitingNew: end - min(max(before, q.openedWeight), end), DroppedNew: q.droppedNew,
		Unwritten: q.memWeight, Missed: q.state.missed,
		Disk: q.disk, InMemory: q.memBytes, Errors: q.state.errors, Failing: q.failing,
	}
}

// waiting counts the entries from head on.
func (q *Queue) waiting() uint64 {
	head, _ := q.head()
	n := q.next() - max(head, q.written)
	for _, s := range q.segs {
		n += s.next - min(max(head, s.first), s.next)
	}
	return n
}

// fail records a disk error, and reports it unless it is the same as the last one.
func (q *Queue) fail(err error) {
	q.state.errors++
	q.failed, q.full = time.Now(), errors.Is(err, syscall.ENOSPC)
	text := fault.Cause(err)
	if text == q.failing {
		return
	}
	q.failing = text
	q.cfg.Say("spool %q: %s; going on in memory, with %d MiB at most", q.dir.path, text, Memory>>20)
}

// fine records that nothing fails now, and reports it once that has lasted for a while.
func (q *Queue) fine() {
	if q.failing != "" && time.Since(q.failed) > calm {
		q.cfg.Say("spool %q: works again", q.dir.path)
		q.failing, q.full = "", false
	}
}

// damaged drops the entries of its segment from number on.
func (q *Queue) damaged(number uint64, why error) {
	q.io.Lock() // so that nothing is being written to it
	defer q.io.Unlock()
	q.mu.Lock()
	doomed := q.cut(number, why)
	q.mu.Unlock()
	q.remove(doomed)
}

func (q *Queue) cut(number uint64, why error) (doomed []string) {
	if q.read != number || number >= q.written {
		return nil
	}
	for i := range q.segs {
		s := &q.segs[i]
		if s.first > number || number >= s.next {
			continue
		}
		if i == len(q.segs)-1 {
			q.out.close()
		}
		lost := Amount{s.next - number, s.end() - q.readWeight}
		q.giveUp(lost, number)
		q.state.errors++
		q.cfg.Say("spool %q: %s: %v: %d entries from here on are lost", q.dir.path, s.path, why, lost.Entries)
		s.next, s.weight = number, q.readWeight-s.before
		q.read += lost.Entries
		q.readWeight += lost.Weight
	}
	return q.settle()
}
