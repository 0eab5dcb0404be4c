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

// Share divides keys among the live members of a group. The member with the highest
// hash of its name and the key's has it (rendezvous hashing): if one goes, only its keys
// move.
//
// Members send heartbeats to each other as plain messages, over every server that the
// bus's URL names: these need neither a stream nor its leader, and arrive as long as any
// server is there that two members can reach. No clock is compared with another one's.
//
// A key without an owner is worse than one with two, whose records are told apart by their
// numbers. So:
//
//   - A member takes another one for dead if it has heard none of its heartbeats for
//     [leaseTime] in which all of its own came back to it. If they do not, it is the bus
//     that is away, or this process was stopped: nobody is taken for dead, and everybody
//     keeps what they have.
//   - Who joins says so after [joinTime]; by then all others have answered. They give up
//     what is not theirs any more, and it takes its keys [takeTime] later. If there is no
//     bus, it takes all keys after [aloneTime].
type Share struct {
	conn   *Conn
	group  string
	id     string
	prefix string // of the subjects

	mu      sync.Mutex
	others  map[string]*other
	beats   uint64
	sent    map[uint64]time.Time // when heartbeats were sent that have not come back
	echoed  time.Time            // when the newest that has come back was sent
	steady  time.Time            // since when they come back without a gap
	joining time.Time            // since when we hear others; zero: we do not
	joined  bool
	takes   time.Time // when we take our keys
	left    bool
	looked  time.Time
	stopped time.Time // when it was found that this process had stood still; zero: all is known since
	members []string  // those that have keys as far as we know, in order
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
	// gapTime is how far apart our own heartbeats may come back.
	gapTime   = 3 * beatTime
	joinTime  = 2 * beatTime
	takeTime  = beatTime / 2
	aloneTime = 3 * time.Second
	lookTime  = beatTime / 2
	// stillTime is how long this process must have stood still for others to have taken
	// its keys.
	stillTime = leaseTime - beatTime
	// sentTime is how long a heartbeat is remembered that does not come back.
	sentTime = time.Minute
)

// beat is a heartbeat.
type beat struct {
	ID     string `json:"id"`
	Beat   uint64 `json:"beat"`
	Joined bool   `json:"joined"`
	Left   bool   `json:"left,omitempty"`
}

// NewShare returns a member of a group. name is for people: the host's. Run makes it
// live.
func NewShare(conn *Conn, group, name string) *Share {
	return &Share{
		conn: conn, group: group, id: fmt.Sprintf("%s-%08x", token(name), rand.Uint32()),
		prefix: fmt.Sprintf("pcapper.v1.%s.members.%s.", conn.target.Tenant, group),
		others: map[string]*other{}, sent: map[uint64]time.Time{}, changed: make(chan struct{}),
	}
}

// Mine reports whether a key is ours now. The channel is closed when that may have
// changed. A nil Share has all keys.
func (s *Share) Mine(key string) (bool, <-chan struct{}) {
	if s == nil {
		return true, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return owner(s.members, key) == s.id, s.changed
}

// Stopped reports whether this process has stood still for so long that others may have
// taken its keys, and has not heard since who has them.
func (s *Share) Stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.stopped.IsZero() || !s.looked.IsZero() && time.Since(s.looked) >= stillTime
}

// Members are the live ones as far as we know, ourselves included; none before we have
// joined.
func (s *Share) Members() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members
}

// Known reports whether the members are known now: the bus brings our heartbeats back.
func (s *Share) Known() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.joined && time.Since(s.echoed) < leaseTime
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
// nil.
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

// Leave lets the others have our keys at once.
func (s *Share) Leave() {
	s.mu.Lock()
	s.left = true
	b := beat{ID: s.id, Left: true}
	s.mu.Unlock()
	s.publish(b)
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if s.conn.nc.IsConnected() {
		_ = s.conn.nc.FlushWithContext(ctx) // or they will notice
	}
}

// live sends heartbeats, and listens to those of others, until ctx is done.
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

// open listens on the bus's connection, and on one of our own to each server, so that
// one that stands still cuts nobody off.
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
			continue // the bus's own connection has said why
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

// publish sends over all paths. What does not arrive is missed by those who listen.
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

// heard takes a heartbeat.
func (s *Share) heard(b *beat, now time.Time) {
	s.mu.Lock()
	fresh := s.take(b, now)
	s.mu.Unlock()
	if fresh { // one that joins hears of us at once
		s.send(now)
	}
}

func (s *Share) take(b *beat, now time.Time) (fresh bool) {
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

// echo takes our own heartbeat.
func (s *Share) echo(n uint64, now time.Time) {
	at, ok := s.sent[n]
	if !ok {
		return // it has come another way
	}
	for k := range s.sent {
		if k <= n {
			delete(s.sent, k)
		}
	}
	if at.Before(s.stopped) {
		return // of before we were stopped
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

// look finds out who is live. It reports whether we have joined.
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

// settle finds out who has keys.
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

// signal has everybody ask again.
func (s *Share) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}
