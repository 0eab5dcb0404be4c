package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Share divides keys among the live members of a group, so that a key belongs to
// one of them at any time, or to none for some seconds. The member with the
// highest hash of its name and the key's has it (rendezvous hashing): if one goes,
// only its keys move.
//
// Members put heartbeats into the bucket PC_GROUPS (PC_GROUPS_TENANT), and all
// read all of them in the order of the bucket's stream. No clock is compared with
// another one's:
//
//   - A member holds what is its own for [holdTime] from sending a heartbeat that it
//     has then read itself. By then it has read all that were stored before.
//   - It takes another one for dead if it has read none of its heartbeats for
//     [leaseTime], up to sending one of its own that it has read. That one has lost its
//     hold by then, since leaseTime is longer.
//   - Who joins, or has lost its hold, waits for leaseTime before it holds anything:
//     by then all others have read of it, or have lost theirs.
type Share struct {
	conn  *Conn
	group string
	id    string
	cfg   Streams

	mu      sync.Mutex
	others  map[string]time.Time // when their newest heartbeat was read
	beats   uint64
	sent    map[uint64]time.Time // when heartbeats were sent that were not read yet
	echoed  time.Time            // when the newest that was read was sent
	joined  time.Time            // since when heartbeats have not lapsed; zero: they have
	members []string             // live, in order, if we hold; or none
	changed chan struct{}        // closed when members change
}

const (
	// A member that is killed is replaced within leaseTime and some beats. Clocks
	// may run apart by a fifteenth.
	leaseTime = 7500 * time.Millisecond
	holdTime  = 7 * time.Second
	beatTime  = 500 * time.Millisecond
	// beatsKept is how many of a member's heartbeats there are for those who read
	// late: more than of leaseTime.
	beatsKept = 64
	// lapseTime is after how long the servers forget a heartbeat.
	lapseTime = time.Minute
)

// beat is a heartbeat.
type beat struct {
	Name string `json:"name"` // for people
	Beat uint64 `json:"beat"`
}

// NewShare returns a member of a group. name is for people: the host's. Run makes it
// live.
func NewShare(conn *Conn, group, name string, cfg Streams) *Share {
	return &Share{
		conn: conn, group: group, id: fmt.Sprintf("%s-%08x", token(name), rand.Uint32()), cfg: cfg,
		others: map[string]time.Time{}, sent: map[uint64]time.Time{}, changed: make(chan struct{}),
	}
}

// Mine reports whether a key is ours now. The channel is closed when that may have
// changed. A nil Share has all keys.
func (s *Share) Mine(key string) (bool, <-chan struct{}) { return s.mine(key) }

func (s *Share) mine(key string) (bool, <-chan struct{}) {
	if s == nil {
		return true, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// A process that was stopped for a while finds out here.
	if len(s.members) == 0 || time.Since(s.echoed) >= holdTime {
		return false, s.changed
	}
	return owner(s.members, key) == s.id, s.changed
}

// Holds reports whether anything is ours now, which it is not when the servers are
// away for long, or this process was stopped: others may have it.
func (s *Share) Holds() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.members) > 0 && time.Since(s.echoed) < holdTime
}

// Members are the live ones as far as we know, ourselves included; none while we
// hold nothing.
func (s *Share) Members() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members
}

// owner is the member that has a key.
func owner(members []string, key string) (best string) {
	var most uint64
	for _, m := range members {
		if h := weight(m, key); best == "" || h > most {
			best, most = m, h
		}
	}
	return best
}

// weight is FNV-1a, 64 bit, mixed by the finalizer of SplitMix64: FNV alone spreads
// what comes last too little.
func weight(member, key string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(member))
	h.Write([]byte{0})
	h.Write([]byte(key))
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Run is a live member until ctx is done. It returns once leave has returned, which
// is to end all that is done with our keys, and the others have been told. leave may be
// nil. The error is a *fault.Error.
func (s *Share) Run(ctx context.Context, leave func()) error {
	var kv jetstream.KeyValue
	err := s.conn.retry(ctx, "the groups' bucket", func() (err error) {
		kv, err = s.conn.ensureBucket(ctx, s.conn.target.bucket("GROUPS"), jetstream.StreamConfig{
			Description: "PCapper: who is there", Replicas: s.conn.replicas(s.cfg), MaxAge: lapseTime, MaxMsgSize: -1,
			MaxMsgsPerSubject: beatsKept,
		})
		return err
	})
	if err == nil {
		s.live(ctx, kv)
	}
	if leave != nil {
		leave()
	}
	if err == nil {
		s.goodbye(ctx, kv)
	}
	return ended(ctx, err)
}

// live sends heartbeats and reads them until ctx is done.
func (s *Share) live(ctx context.Context, kv jetstream.KeyValue) {
	var sender sync.WaitGroup
	defer sender.Wait()
	sender.Go(func() {
		for ctx.Err() == nil {
			s.send(ctx, kv)
			select {
			case <-time.After(beatTime):
			case <-ctx.Done():
			}
		}
	})
	c := cursor{conn: s.conn, stream: "KV_" + kv.Bucket(), filter: "$KV." + kv.Bucket() + "." + s.group + ".>", latest: true}
	defer c.close()
	look := time.NewTicker(beatTime / 2)
	defer look.Stop()
	for ctx.Err() == nil {
		m, ok, err := c.read(ctx, look.C)
		if ok {
			s.heard(m.subject[len(c.filter)-1:], &m, c.opened)
		}
		s.look(time.Now())
		if err != nil {
			_ = pause(ctx)
		}
	}
	s.mu.Lock()
	s.set(nil)
	s.mu.Unlock()
}

// send sends a heartbeat.
func (s *Share) send(ctx context.Context, kv jetstream.KeyValue) {
	s.mu.Lock()
	s.beats++
	n := s.beats
	now := time.Now()
	s.sent[n] = now
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	value, err := json.Marshal(beat{s.id, n})
	if err == nil {
		_, _ = kv.Put(ctx, s.group+"."+s.id, value) // whether it arrived is seen when it is read
	}
}

// heard takes a member's heartbeat, or its goodbye, from a reader that was opened
// then.
func (s *Share) heard(id string, m *message, opened time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b beat
	switch err := json.Unmarshal(m.data, &b); {
	case id != s.id && err != nil: // no value: it has left
		delete(s.others, id)
	case id != s.id:
		s.others[id] = time.Now()
	case err == nil:
		s.echo(b.Beat, opened)
	}
}

// echo takes our own heartbeat. One that was sent before the reader was opened tells
// nothing: not all that were stored before it need have been read.
func (s *Share) echo(n uint64, opened time.Time) {
	at, ok := s.sent[n]
	if !ok || at.Before(opened) {
		return
	}
	for k := range s.sent {
		if k <= n {
			delete(s.sent, k)
		}
	}
	if s.joined.IsZero() || at.Sub(s.echoed) >= holdTime {
		s.joined = time.Now()
		if s.echoed.IsZero() && len(s.others) == 0 { // nobody has anything, for lapseTime
			s.joined = at.Add(-leaseTime)
		}
	}
	s.echoed = at
}

// look finds out who is live.
func (s *Share) look(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, at := range s.others {
		if s.echoed.Sub(at) >= leaseTime {
			delete(s.others, id)
		}
	}
	for n, at := range s.sent {
		if now.Sub(at) > lapseTime {
			delete(s.sent, n)
		}
	}
	if now.Sub(s.echoed) >= holdTime {
		s.joined = time.Time{}
	}
	// Held is what was joined leaseTime ago: the heartbeat that says so was read.
	if s.joined.IsZero() || s.echoed.Sub(s.joined) < leaseTime {
		s.set(nil)
		return
	}
	members := []string{s.id}
	for id := range s.others {
		members = append(members, id)
	}
	slices.Sort(members)
	s.set(members)
}

// set publishes who is live.
func (s *Share) set(members []string) {
	if !slices.Equal(members, s.members) {
		s.members = members
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// goodbye lets the others have our keys at once.
func (s *Share) goodbye(ctx context.Context, kv jetstream.KeyValue) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	_ = kv.Delete(ctx, s.group+"."+s.id) // or they will notice
}
