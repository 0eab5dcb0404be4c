package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Share divides keys among the live members of a group. A key belongs to the member
// with the highest hash of the member's name and the key (rendezvous hashing), so when
// a member goes, only its keys move.
//
// Members send heartbeats to each other as plain messages, through every server in the
// bus's URL: heartbeats need neither a stream nor its leader, and arrive as long as two
// members can reach any common server. No member's clock is compared with another's.
//
// A key without an owner is worse than a key with two owners, whose records can be
// deduplicated by their numbers. Therefore:
//
//   - A member considers another one dead if it has received none of its heartbeats for
//     [leaseTime] during which all of its own came back to it. If its own do not come
//     back, then the bus is away or this process was stopped: nobody is considered dead,
//     and every member keeps its keys.
//   - A member that joins announces it after [joinTime]; by then all others have
//     answered. They give up the keys that are no longer theirs, and the new member
//     takes its keys [takeTime] later. Without a bus, it takes all keys after
//     [aloneTime].
type Share struct {
	conn   *Conn
	group  string
	id     string
	prefix string // of the subjects

	mu      sync.Mutex
	others  map[string]*other
	beats   uint64
	sent    map[uint64]time.Time // when the heartbeats that have not come back were sent
	echoed  time.Time            // when the newest that has come back was sent
	steady  time.Time            // since when they have come back without a gap
	joining time.Time            // since when we have received others' heartbeats; zero if we have not
	joined  bool
	takes   time.Time // when we take our keys
	left    bool
	looked  time.Time
	stopped time.Time // when this process was found to have been suspended; zero if everything is known since
	members []string  // those with keys, as far as we know, in order
	changed chan struct{}
	paths   []*nats.Conn
}

// other is another member.
type other struct {
	heard  time.Time
	joined bool
}

const (
	leaseTime = 2400 * time.Millisecond
	beatTime  = 400 * time.Millisecond
	// gapTime is the maximum time between the return of two of our own heartbeats
	// without a gap.
	gapTime   = 3 * beatTime
	joinTime  = 2 * beatTime
	takeTime  = beatTime / 2
	aloneTime = 3 * time.Second
	lookTime  = beatTime / 2
	// stillTime is how long this process must have been suspended for others to have
	// taken its keys.
	stillTime = leaseTime - beatTime
	// sentTime is how long a heartbeat that does not come back is remembered.
	sentTime = time.Minute
)

// beat is a heartbeat.
type beat struct {
	ID     string `json:"id"`
	Beat   uint64 `json:"beat"`
	Joined bool   `json:"joined"`
	Left   bool   `json:"left,omitempty"`
}

// NewShare returns a member of a group. name is the host's, for users. The member takes
// part while Run runs.
func NewShare(conn *Conn, group, name string) *Share {
	return &Share{
		conn: conn, group: group, id: fmt.Sprintf("%s-%08x", token(name), rand.Uint32()),
		prefix: fmt.Sprintf("pcapper.v1.%s.members.%s.", conn.target.Tenant, group),
		others: map[string]*other{}, sent: map[uint64]time.Time{}, changed: make(chan struct{}),
	}
}

// Mine reports whether we own a key now. The channel is closed when that may have
// changed. A nil Share owns all keys.
func (s *Share) Mine(key string) (bool, <-chan struct{}) {
	if s == nil {
		return true, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return owner(s.members, key) == s.id, s.changed
}

// Stopped reports whether this process was suspended for so long that others may have
// taken its keys, and has not learned since who owns them.
func (s *Share) Stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.stopped.IsZero() || !s.looked.IsZero() && time.Since(s.looked) >= stillTime
}

// Members returns the live members as far as we know, including ourselves. It returns
// none before we have joined.
func (s *Share) Members() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members
}

// Known reports whether the current members are known, that is, whether the bus returns
// our heartbeats.
func (s *Share) Known() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.joined && time.Since(s.echoed) < leaseTime
}

// owner returns the member that owns a key.
func owner(members []string, key string) (best string) {
	var most uint64
	for _, m := range members {
		if h := weight(m, key); best == "" || h > most {
			best, most = m, h
		}
	}
	return best
}

// weight is a 64-bit FNV-1a hash, mixed with the finalizer of SplitMix64, because with
// FNV alone the last bytes affect too few bits.
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

// Run takes part as a live member until ctx is done. It then calls leave, if not nil,
// which must stop all work on our keys, and finally tells the other members.
func (s *Share) Run(ctx context.Context, leave func()) error {
	s.live(ctx)
	if leave != nil {
		leave()
	}
	s.Leave()
	for _, nc := range s.paths {
		nc.Close()
	}
	return nil
}

// Leave gives our keys to the others immediately.
func (s *Share) Leave() {
	s.mu.Lock()
	s.left = true
	b := beat{ID: s.id, Left: true}
	s.mu.Unlock()
	s.publish(b)
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if s.conn.nc.IsConnected() {
		_ = s.conn.nc.FlushWithContext(ctx) // otherwise they will notice by themselves
	}
}

// live sends heartbeats, and receives those of others, until ctx is done.
func (s *Share) live(ctx context.Context) {
	began := time.Now()
	s.open()
	look := time.NewTicker(lookTime)
	defer look.Stop()
	for next := began; ctx.Err() == nil; {
		if now := time.Now(); !now.Before(next) {
			next = now.Add(beatTime)
			s.send(now)
		}
		select {
		case <-look.C:
		case <-ctx.Done():
		}
		if s.look(time.Now(), began) {
			s.send(time.Now())
		}
	}
}

// open listens on the bus's connection, and on a separate connection to each server, so
// that a server that hangs does not isolate anyone.
func (s *Share) open() {
	s.listen(s.conn.nc)
	if len(s.conn.target.Servers) < 2 || s.conn.cfg.InProcess != nil {
		return
	}
	for _, server := range s.conn.target.Servers {
		only := *s.conn.target
		only.Servers = []string{server}
		quiet := &Conn{target: &only, say: func(string, ...any) {}}
		cfg := s.conn.cfg
		cfg.Target = &only
		o, err := quiet.options(cfg)
		if err != nil {
			continue // the bus's own connection has already reported why
		}
		o.IgnoreDiscoveredServers = true
		if nc, err := o.Connect(); err == nil {
			s.paths = append(s.paths, nc)
			s.listen(nc)
		}
	}
}

func (s *Share) listen(nc *nats.Conn) {
	_, err := nc.Subscribe(s.prefix+"*", func(m *nats.Msg) {
		var b beat
		if json.Unmarshal(m.Data, &b) == nil && token(b.ID) == strings.TrimPrefix(m.Subject, s.prefix) {
			s.heard(&b, time.Now())
		}
	})
	if err != nil {
		s.conn.say("bus %s: cannot listen to other members: %v", s.conn.target, err)
	}
}

// send sends a heartbeat.
func (s *Share) send(now time.Time) {
	s.mu.Lock()
	if s.left {
		s.mu.Unlock()
		return
	}
	s.beats++
	s.sent[s.beats] = now
	b := beat{ID: s.id, Beat: s.beats, Joined: s.joined}
	s.mu.Unlock()
	s.publish(b)
}

// publish sends through all connections. Receivers notice what does not arrive.
func (s *Share) publish(b beat) {
	data, err := json.Marshal(b)
	if err != nil {
		return
	}
	for _, nc := range append([]*nats.Conn{s.conn.nc}, s.paths...) {
		if nc.IsConnected() {
			_ = nc.Publish(s.prefix+token(s.id), data)
		}
	}
}

// heard processes a heartbeat.
func (s *Share) heard(b *beat, now time.Time) {
	s.mu.Lock()
	fresh := s.countBeat(b, now)
	s.mu.Unlock()
	if fresh { // a member that joins hears from us immediately
		s.send(now)
	}
}

func (s *Share) countBeat(b *beat, now time.Time) (fresh bool) {
	switch {
	case b.ID == s.id:
		if !b.Left {
			s.echo(b.Beat, now)
		}
		return false
	case b.Left:
		delete(s.others, b.ID)
	case s.others[b.ID] == nil:
		fresh = true
		s.others[b.ID] = &other{now, b.Joined}
	default:
		*s.others[b.ID] = other{now, b.Joined}
	}
	s.settle(now)
	return fresh
}

// echo processes a heartbeat of our own.
func (s *Share) echo(n uint64, now time.Time) {
	at, ok := s.sent[n]
	if !ok {
		return // it has already arrived through another connection
	}
	for k := range s.sent {
		if k <= n {
			delete(s.sent, k)
		}
	}
	if at.Before(s.stopped) {
		return // sent before we were suspended
	}
	if !s.stopped.IsZero() {
		s.stopped = time.Time{}
		s.signal()
	}
	if at.Sub(s.echoed) > gapTime {
		s.steady = at
	}
	s.echoed = at
	if s.joining.IsZero() {
		s.joining = now
	}
}

// look determines who is live. It reports whether we have joined.
func (s *Share) look(now, began time.Time) (joined bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.looked.IsZero() && now.Sub(s.looked) >= stillTime {
		s.stopped = now
		s.signal()
	}
	s.looked = now
	for id, o := range s.others {
		if s.echoed.Sub(later(o.heard, s.steady)) >= leaseTime {
			delete(s.others, id)
		}
	}
	for n, at := range s.sent {
		if now.Sub(at) > sentTime {
			delete(s.sent, n)
		}
	}
	alone := s.joining.IsZero() && now.Sub(began) >= aloneTime
	if !s.joined && (alone || !s.joining.IsZero() && now.Sub(s.joining) >= joinTime) {
		s.joined, joined = true, true
		if len(s.others) > 0 {
			s.takes = now.Add(takeTime)
		}
	}
	s.settle(now)
	return joined
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// settle determines who owns keys.
func (s *Share) settle(now time.Time) {
	if !s.joined || s.left || now.Before(s.takes) {
		return
	}
	members := []string{s.id}
	for id, o := range s.others {
		if o.joined {
			members = append(members, id)
		}
	}
	slices.Sort(members)
	if !slices.Equal(members, s.members) {
		s.members = members
		s.signal()
	}
}

// signal makes everybody call Mine again.
func (s *Share) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}
