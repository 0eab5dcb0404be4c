package rollup

import (
	"math"

	"github.com/pcapper/pcapper/wire"
)

// seqWindow is how many sequence numbers back a message is recognised as a
// duplicate. One that is even later counts as reordered.
const seqWindow = 4096

// tracker follows the sequence numbers of one flow at one receiver.
type tracker struct {
	key   entryKey
	conn  connKey
	sec   int64 // that stat belongs to
	stat  mgenStat
	began bool
	// highest number so far, in the sense of serial numbers (RFC 1982), and its
	// message's transmit time in microseconds.
	highest uint32
	highTx  int64
	seen    [seqWindow / 64]uint64 // a bit for each number up to highest
	lastRx  int64                  // of the last message that was no duplicate
	lastTx  int64
	jitter  float64
	epoch   uint32 // hostState's, when the last message came
	guessed uint32 // how many numbers up to highest messages took; see messages
}

// messages counts n messages of which r has the first one's number and times.
// The others are taken for those that follow it. If there were gaps, the next
// number tells; if there were duplicates, too, as it is not ahead then.
func (t *tracker) messages(r *wire.Record, n uint64) {
	t.message(r)
	more := uint32(min(n, 1<<30)) - 1
	if more == 0 {
		return
	}
	t.stat.messages += n - 1
	last := r.MGENSeq + more
	if ahead := int32(last - t.highest); ahead > 0 {
		t.advance(uint32(ahead))
		for i := range min(more, seqWindow) {
			t.mark(last - i)
		}
		t.guessed = more
	}
}

// advance moves the highest number on.
func (t *tracker) advance(ahead uint32) {
	t.stat.expected += uint64(ahead)
	t.forget(ahead)
	t.highest += ahead
	t.guessed = 0
}

// message counts a message.
func (t *tracker) message(r *wire.Record) {
	t.stat.messages++
	ahead := int32(r.MGENSeq - t.highest)
	switch {
	case !t.began:
		t.restart(r)
	case ahead > 0:
		t.advance(uint32(ahead))
		t.highTx = r.MGENTime
	case r.MGENTime > t.highTx && ahead > -int32(t.guessed):
		t.stat.duplicates += uint64(1 - ahead)
	case r.MGENTime > t.highTx:
		// Sent later under a lower number: its sender began anew.
		t.stat.restarts++
		t.restart(r)
	case ahead > -seqWindow && t.has(r.MGENSeq):
		t.stat.duplicates++
		return
	default:
		t.stat.reordered++
	}
	t.mark(r.MGENSeq)
	t.delay(r)
}

func (t *tracker) restart(r *wire.Record) {
	t.began = true
	t.stat.expected++
	t.highest, t.highTx = r.MGENSeq, r.MGENTime
	t.seen = [seqWindow / 64]uint64{}
	t.lastRx, t.guessed = 0, 0
}

// forget makes room for the next n numbers.
func (t *tracker) forget(n uint32) {
	if n >= seqWindow {
		t.seen = [seqWindow / 64]uint64{}
		return
	}
	for i := range n {
		seq := t.highest + 1 + i
		t.seen[seq%seqWindow/64] &^= 1 << (seq % 64)
	}
}

func (t *tracker) mark(seq uint32) {
	if int32(seq-t.highest) > -seqWindow {
		t.seen[seq%seqWindow/64] |= 1 << (seq % 64)
	}
}

func (t *tracker) has(seq uint32) bool { return t.seen[seq%seqWindow/64]&(1<<(seq%64)) != 0 }

// delay counts a message's way, and the jitter as RFC 3550, 6.4.1 and A.8.
func (t *tracker) delay(r *wire.Record) {
	tx := r.MGENTime * 1000
	delay := r.Time - tx
	s := &t.stat
	if s.delayed == 0 {
		s.delayMin, s.delayMax = delay, delay
	}
	s.delayMin, s.delayMax = min(s.delayMin, delay), max(s.delayMax, delay)
	s.delayed++
	s.delaySum += delay
	if delay < 0 {
		s.negative++
	}
	if t.lastRx != 0 {
		t.jitter += (math.Abs(float64(r.Time-t.lastRx)-float64(tx-t.lastTx)) - t.jitter) / 16
	}
	t.lastRx, t.lastTx = r.Time, tx
	s.jitter = int64(t.jitter)
}
