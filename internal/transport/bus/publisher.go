package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pcapper/pcapper/wire/batch"
)

const (
	// DefaultMemory bounds a Publisher's queue if nothing else is said: 20 s of
	// 100,000 records/s.
	DefaultMemory = 32 << 20
	// window is how many batches, and windowBytes how many bytes of them, are sent
	// before the first is acknowledged.
	window      = 64
	windowBytes = 4 << 20
	// If the oldest was not acknowledged for ackTime, it alone is sent again, every
	// probeTime: it is seen at once when a stream has a leader again, and a bus that
	// is only slow gets little more to do. One that is slow is given twice the time, up to
	// maxAckTime.
	ackTime    = 1 * time.Second
	maxAckTime = 4 * time.Second
	probeTime  = 300 * time.Millisecond
	// countTime is after how long without success it is asked whether there are as
	// many partitions still.
	countTime = 15 * time.Second
	// An outage is told of after this time.
	stuckTime = 3 * time.Second
	// drainTime is what Run takes at its end for what is queued.
	drainTime = 2 * time.Second
)

// PublisherConfig of a Publisher.
type PublisherConfig struct {
	// Queue is where batches wait. Nil is a queue in memory.
	Queue Queue
	// Memory bounds the queue in memory, in bytes. 0 is DefaultMemory.
	Memory int64
}

// Publisher sends batches to a bus. One goroutine calls Publish, another one Run.
type Publisher struct {
	conn    *Conn
	queue   Queue
	encoder batch.Encoder
	buf     []byte
	failed  bool // that a batch cannot be encoded was said

	lost        sync.Mutex // guards the following
	lossByAgent map[string]given

	inFlight     []inFlight
	inFlightSize int
	partitions   int       // 0: not known
	counted      time.Time // when it was asked how many
	patience     time.Duration
	failing      time.Time // since when nothing is acknowledged; zero: it is
	stuck        bool      // that it is not was said

	published, acknowledged, batches, packets, duplicates, dropped, again atomic.Uint64

	publishedPackets, droppedPackets atomic.Uint64
	memory                           *memory // nil: the queue is the caller's
}

// given is what an agent's stream of batches lost on its way.
type given struct{ boot, up uint64 }

// inFlight is a batch that was sent.
type inFlight struct {
	future  jetstream.PubAckFuture // nil: given up
	data    []byte
	records uint64
	packets uint64
}

// errAgain: what was sent is lost, but the streams take batches again.
var errAgain = errors.New("sent again")

// NewPublisher returns a Publisher. Run must run for batches to leave.
func NewPublisher(conn *Conn, cfg PublisherConfig) *Publisher {
	p := &Publisher{conn: conn, queue: cfg.Queue, lossByAgent: map[string]given{}, patience: ackTime}
	if p.queue == nil {
		if cfg.Memory == 0 {
			cfg.Memory = DefaultMemory
		}
		p.memory = newMemory(cfg.Memory, p.drop)
		p.queue = p.memory
	}
	return p
}

// PublisherStatus counts records, unless it says otherwise.
//
//	Published = Acknowledged + Dropped + what is queued
//
// unless the queue is the caller's: what that gives up is for the caller to know.
type PublisherStatus struct {
	Published    uint64
	Acknowledged uint64
	Batches      uint64 // acknowledged
	Packets      uint64 // that the acknowledged records stand for
	Dropped      uint64 // given up, for want of room, or because no bus takes them
	Duplicates   uint64 // batches that a stream had already
	Again        uint64 // batches sent more than once
	// Packets that published and dropped records stand for, and those that wait in the queue in memory.
	PublishedPackets, DroppedPackets, WaitingPackets uint64
}

// Status may be called by any goroutine.
func (p *Publisher) Status() PublisherStatus {
	waiting := uint64(0)
	if p.memory != nil {
		waiting = p.memory.waiting()
	}
	return PublisherStatus{
		PublishedPackets: p.publishedPackets.Load(), DroppedPackets: p.droppedPackets.Load(), WaitingPackets: waiting,
		Acknowledged: p.acknowledged.Load(), Batches: p.batches.Load(), Packets: p.packets.Load(), Dropped: p.dropped.Load(), Duplicates: p.duplicates.Load(),
		Again: p.again.Load(), Published: p.published.Load(),
	}
}

// Publish queues a batch, and does not wait. To b.Dropped it adds what the queue
// in memory gave up of b's stream. It keeps nothing of b.
func (p *Publisher) Publish(b *batch.Batch) {
	n := uint32(len(b.Records))
	p.published.Add(uint64(n))
	p.publishedPackets.Add(uint64(packets(b)))
	out := *b
	out.Dropped += p.givenUp(b.Agent, b.Boot)
	var err error
	if p.buf, err = p.encoder.Append(p.buf[:0], &out); err == nil {
		err = p.queue.Append(p.buf, packets(b))
	}
	if err != nil {
		p.giveUp(b.Agent, b.Boot, uint64(n), uint64(packets(b)))
		if !p.failed {
			p.failed = true
			p.conn.say("bus %s: %v; such batches are counted as dropped", p.conn.target, err)
		}
	}
}

func packets(b *batch.Batch) (n uint32) {
	for i := range b.Records {
		n += uint32(b.Records[i].Count())
	}
	return n
}

// drop counts an encoded batch that is given up.
func (p *Publisher) drop(data []byte) {
	if h, err := batch.ReadHeader(data); err == nil {
		p.giveUp(h.Agent, h.Boot, uint64(h.Count), h.Packets)
	}
}

func (p *Publisher) giveUp(agent string, boot, n, packets uint64) {
	p.dropped.Add(n)
	p.droppedPackets.Add(packets)
	p.lost.Lock()
	defer p.lost.Unlock()
	g := p.lossByAgent[agent]
	if g.boot != boot {
		g = given{boot: boot}
	}
	g.up += n
	p.lossByAgent[agent] = g
}

func (p *Publisher) givenUp(agent string, boot uint64) uint64 {
	p.lost.Lock()
	defer p.lost.Unlock()
	if g := p.lossByAgent[agent]; g.boot == boot {
		return g.up
	}
	return 0
}

// Run sends until ctx is done, and then for two more seconds what is still
// queued. Whatever fails is tried again after a pause. Run ends the future of
// the queue in memory, but not a queue of the caller's, which may be closed then.
func (p *Publisher) Run(ctx context.Context) error {
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drainTime, stop) })()
	for {
		err := p.send(ctx, sending)
		switch {
		case err == nil: // told to end, and nothing is left
			return nil
		case sending.Err() != nil:
			p.abandon()
			return nil
		case errors.Is(err, errAgain):
			p.abandon()
			continue
		}
		p.complain(err)
		p.abandon()
		if pause(sending) != nil {
			return nil
		}
	}
}

func (p *Publisher) complain(err error) {
	if p.failing.IsZero() {
		p.failing = time.Now()
	}
	if p.stuck || !p.conn.Connected() || time.Since(p.failing) <= stuckTime {
		return
	}
	p.stuck = true
	hint := ""
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		hint = " (recollect -bus makes the streams, with agents or -store)"
	}
	p.conn.say("bus %s: batches are not taken: %v; still trying%s", p.conn.target, err, hint)
}

// send sends until ctx is done and all was acknowledged, or something fails.
func (p *Publisher) send(ctx, sending context.Context) error {
	if err := p.count(sending); err != nil {
		return fmt.Errorf("streams: %w", err)
	}
	for {
		if err := p.fill(); err != nil {
			return err
		}
		if len(p.inFlight) > 0 {
			if err := p.await(sending); err != nil {
				return err
			}
			continue
		}
		if err := p.queue.Wait(ctx); err != nil {
			return p.last(sending)
		}
	}
}

// count finds out how many partitions there are. As that takes servers that
// answer, it is done once, and again only if nothing works any more.
func (p *Publisher) count(ctx context.Context) error {
	if p.partitions != 0 && !p.mayCount() {
		return nil
	}
	n, err := p.conn.partitions(ctx)
	p.counted = time.Now()
	if err == nil {
		p.partitions = n
	} else if errors.Is(err, jetstream.ErrStreamNotFound) {
		p.partitions = 0 // they will be made anew
	}
	if p.partitions != 0 {
		return nil
	}
	return err
}

// mayCount is true now and then while nothing is acknowledged.
func (p *Publisher) mayCount() bool {
	return !p.failing.IsZero() && time.Since(p.failing) > countTime && time.Since(p.counted) > countTime
}

// last sends what was queued when ctx ended.
func (p *Publisher) last(sending context.Context) error {
	for {
		if err := p.fill(); err != nil || len(p.inFlight) == 0 {
			return err
		}
		if err := p.await(sending); err != nil {
			return err
		}
	}
}

// fill sends as much as the window lets.
func (p *Publisher) fill() error {
	for len(p.inFlight) < window && p.inFlightSize < windowBytes {
		data, _, ok := p.queue.Next(nil)
		if !ok {
			return nil
		}
		f, err := p.publish(data)
		if errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, batch.ErrMalformed) {
			p.drop(data)
			p.conn.say("bus %s: a batch of %d bytes is dropped: %v", p.conn.target, len(data), err)
			f, err = inFlight{}, nil
		}
		if err != nil {
			return err
		}
		f.data = data
		p.inFlight = append(p.inFlight, f)
		p.inFlightSize += len(data)
	}
	return nil
}

func (p *Publisher) publish(data []byte) (f inFlight, err error) {
	h, err := batch.ReadHeader(data)
	if err != nil {
		return f, err
	}
	f.records, f.packets = uint64(h.Count), h.Packets
	m := &nats.Msg{
		Subject: p.conn.target.subject(&h, p.partitions), Data: data,
		Header: nats.Header{jetstream.MsgIDHeader: {h.ID()}},
	}
	f.future, err = p.conn.js.PublishMsgAsync(m, jetstream.WithRetryAttempts(0))
	return f, err
}

// await waits for the oldest's acknowledgement.
func (p *Publisher) await(sending context.Context) error {
	f := p.inFlight[0]
	if f.future == nil { // given up
		p.landed()
		return nil
	}
	timeout := time.NewTimer(p.patience)
	defer timeout.Stop()
	select {
	case ack := <-f.future.Ok():
		p.patience = ackTime
		p.acknowledge(ack)
		return nil
	case err := <-f.future.Err():
		return p.probe(sending, err)
	case <-timeout.C:
		return p.probe(sending, fmt.Errorf("no acknowledgement for %v", p.patience))
	case <-sending.Done():
		return sending.Err()
	}
}

// probe sends the oldest again and again until it is acknowledged. If that was its
// first sending, the others are under way still; or else they are lost as it was,
// which is errAgain. why is what went wrong.
func (p *Publisher) probe(sending context.Context, why error) error {
	sent := []jetstream.PubAckFuture{p.inFlight[0].future}
	tick := time.NewTicker(probeTime)
	defer tick.Stop()
	for {
		p.complain(why)
		select {
		case <-tick.C:
		case <-sending.Done():
			return sending.Err()
		}
		for i, f := range sent {
			select {
			case ack := <-f.Ok():
				p.acknowledge(ack)
				if i > 0 {
					p.patience = ackTime
					return errAgain
				}
				p.patience = min(2*p.patience, maxAckTime)
				return nil
			default:
			}
		}
		if !p.conn.Connected() || p.mayCount() {
			return why
		}
		f, err := p.publish(p.inFlight[0].data)
		if err != nil {
			return err
		}
		p.again.Add(1)
		sent = append(sent, f.future)
	}
}

func (p *Publisher) acknowledge(ack *jetstream.PubAck) {
	if ack.Duplicate {
		p.duplicates.Add(1)
	}
	p.failing = time.Time{}
	if p.stuck {
		p.stuck = false
		p.conn.say("bus %s: batches are taken again", p.conn.target)
	}
	p.batches.Add(1)
	p.landed()
}

// landed ends the oldest's way.
func (p *Publisher) landed() {
	p.queue.Ack(1)
	p.acknowledged.Add(p.inFlight[0].records)
	p.packets.Add(p.inFlight[0].packets)
	p.inFlightSize -= len(p.inFlight[0].data)
	p.inFlight = p.inFlight[1:]
}

// abandon makes all that was not acknowledged be sent again. Some of it may
// arrive yet.
func (p *Publisher) abandon() {
	p.again.Add(uint64(len(p.inFlight)))
	p.inFlight, p.inFlightSize = nil, 0
	p.queue.Rewind()
}
