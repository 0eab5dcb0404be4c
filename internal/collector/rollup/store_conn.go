package rollup

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/pcapper/pcapper/wire"
)

// Conversations whose packets are added up before they go into their second:
// connSets x connWays of 88 bytes. One that does not fit only costs time.
const (
	connSets = 1 << 14
	connWays = 4
)

// maxTrackers bounds how many MGEN flows are followed at receivers at the same
// time; the one that was silent for longest gives way. Each takes 800 bytes.
const maxTrackers = 4096

// conn is what was counted of a conversation and is not yet in its second.
type conn struct {
	key      connKey
	sec      int64
	bytes    uint64
	packets  uint32
	messages uint32
	set      uint32 // of rows
	tracker  int32  // or -1
	era      uint32 // of trackers when tracker was looked up
	used     bool
	active   bool // its index is in Store.active
}

// conn finds the counters of r's conversation.
func (s *Store) conn(host int, r *wire.Record) *conn {
	var key connKey
	key.set(host, r)
	first := int(key.hash(s.seed)%connSets) * connWays
	ways := s.conns[first : first+connWays : first+connWays]
	for i := range ways {
		if ways[i].key.is(&key) && ways[i].used {
			c := &ways[i]
			if !c.active {
				c.active = true
				s.active = append(s.active, int32(first+i))
			}
			return c
		}
	}
	return s.newConn(&key, first, r)
}

// newConn gives a conversation the place of another one, which costs nothing
// but time: its counts go into their second.
func (s *Store) newConn(key *connKey, first int, r *wire.Record) *conn {
	at := -1
	for i := first; i < first+connWays; i++ {
		if !s.conns[i].used {
			at = i
			break
		}
	}
	if at < 0 {
		s.victim++
		at = first + int(s.victim%connWays)
	}
	c := &s.conns[at]
	s.flush(c)
	s.addrs.witness(key)
	if !c.active {
		s.active = append(s.active, int32(at))
	}
	h := &s.hosts[key.host()]
	h.Directions = h.Directions || key.flags()&(wire.Outgoing|wire.Incoming) != 0
	*c = conn{key: *key, sec: c.sec, set: s.rowSet(r), tracker: -1, used: true, active: true}
	return c
}

// rowSet is the number of the set of rows that r belongs to.
func (s *Store) rowSet(r *wire.Record) uint32 {
	s.rowBuf = s.cfg.Classify(s.rowBuf[:0], r)
	if len(s.rowBuf) == 0 {
		s.rowBuf = append(s.rowBuf, s.cfg.Rows)
	}
	s.keyBuf = s.keyBuf[:0]
	for _, row := range s.rowBuf {
		s.keyBuf = binary.NativeEndian.AppendUint32(s.keyBuf, uint32(row))
	}
	set, ok := s.setOf[string(s.keyBuf)]
	if !ok {
		set = uint32(len(s.rowSets))
		s.setOf[string(s.keyBuf)] = set
		s.rowSets = append(s.rowSets, append([]int(nil), s.rowBuf...))
	}
	return set
}

// message follows sequence numbers at receivers.
func (s *Store) message(c *conn, sec int64, r *wire.Record) {
	if r.Flags&wire.Outgoing != 0 {
		c.messages += uint32(messages(r))
		return
	}
	if c.tracker < 0 || c.era != s.era {
		c.tracker, c.era = s.tracker(&c.key), s.era
	}
	t := &s.trackers[c.tracker]
	if t.sec != sec {
		s.flushTracker(t)
		t.sec = sec
	}
	if h := &s.hosts[c.key.host()]; t.epoch != h.epoch {
		// Numbers that nobody could see are not lost.
		t.began, t.epoch = false, h.epoch
	}
	if n := messages(r); n == 0 {
		t.began = false // nobody knows which numbers these had
	} else {
		t.messages(r, n)
	}
}

// messages is how many MGEN messages a record stands for. In sums packets are
// messages unless there are fragments or segments among them; then it is 0, as
// nobody knows.
func messages(r *wire.Record) uint64 {
	n := r.Count()
	if n > 1 && (r.Proto != wire.ProtoUDP || r.Flags&(wire.Fragment|wire.LaterFragment) != 0) {
		return 0
	}
	return n
}

func (s *Store) tracker(conn *connKey) int32 {
	key := conn.entry(mgens, Received)
	if i, ok := s.trackerOf[key]; ok {
		return i
	}
	var i int32
	if len(s.trackers) < maxTrackers {
		i = int32(len(s.trackers))
		s.trackers = append(s.trackers, tracker{})
	} else {
		i = s.silentTracker()
		s.flushTracker(&s.trackers[i])
		delete(s.trackerOf, s.trackers[i].key)
		s.era++
		if s.era == 0 { // conns begin with era 0 and tracker -1
			s.era++
		}
		s.forgotten++
	}
	s.trackers[i] = tracker{key: key, conn: *conn}
	s.trackerOf[key] = i
	return i
}

// silentTracker is one that was silent for long, of a few drawn at random.
func (s *Store) silentTracker() int32 {
	best := rand.Int32N(int32(len(s.trackers)))
	for range 15 {
		if i := rand.Int32N(int32(len(s.trackers))); s.trackers[i].sec < s.trackers[best].sec {
			best = i
		}
	}
	return best
}

// second is the open one that began at start.
func (s *Store) second(start int64) *second {
	n := int64(len(s.seconds))
	return s.seconds[((start%n)+n)%n]
}

// flush puts what c has counted into its second.
func (s *Store) flush(c *conn) {
	if c.packets == 0 {
		return
	}
	side := s.addrs.side(&c.key)
	n := Counts{uint64(c.packets), c.bytes}
	s.second(c.sec).addPackets(&c.key, side, c.set, c.key.flags()&wire.MGEN != 0, n, uint64(c.messages))
	if side == Sent {
		s.sent(pairKey{c.key.src(), c.key.dst()}, c.sec)
	}
	c.packets, c.bytes, c.messages = 0, 0, 0
}

// maxSent bounds the pairs whose senders are remembered. Beyond, what a
// receiver saw while the sender was silent counts.
const maxSent = 1 << 16

func (s *Store) sent(p pairKey, sec int64) {
	last, ok := s.lastSent[p]
	if !ok && len(s.lastSent) >= maxSent {
		return
	}
	if ok && sec <= last {
		return
	}
	s.lastSent[p] = sec
	if !ok || last < s.nowSec+s.future-silence {
		// It was not expected before: what receivers saw may not count now.
		for _, x := range s.seconds {
			x.dirty = x.used
		}
	}
}

func (s *Store) flushTracker(t *tracker) {
	if t.stat.messages == 0 {
		return
	}
	key := t.conn.entry(mgens, s.addrs.side(&t.conn))
	s.second(t.sec).addMGEN(&key, &t.stat)
	t.stat = mgenStat{}
}

func (s *Store) flushAll() {
	for _, i := range s.active {
		s.flush(&s.conns[i])
		s.conns[i].active = false
	}
	s.active = s.active[:0]
	for i := range s.trackers {
		s.flushTracker(&s.trackers[i])
	}
}
