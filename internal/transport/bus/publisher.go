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
	// DefaultMemory is the default bound of a Publisher's queue: 20 s of 100,000
	// records/s.
	DefaultMemory = 32 << 20
	// window is the number of batches, and windowBytes the number of bytes, that may be
	// in flight.
	window      = 64
	windowBytes = 4 << 20
	// If the oldest batch is not acknowledged within ackTime, it alone is resent, every
	// probeTime. This shows immediately when a stream has a leader again, and adds
	// little load to a bus that is merely slow. If the bus is slow, the time is
	// doubled, up to maxAckTime.
	ackTime    = 1 * time.Second
	maxAckTime = 4 * time.Second
	probeTime  = 300 * time.Millisecond
	// countTime is how long nothing must have succeeded before the number of partitions
	// is queried again.
	countTime = 15 * time.Second
	// goneTime replaces countTime if no stream answers, and we may create streams.
	goneTime = 1 * time.Second
	// stuckTime is how long an outage must last before it is reported.
	stuckTime = 3 * time.Second
	// drainTime is how long Run continues at its end to send what is queued.
	drainTime = 2 * time.Second
)

// PublisherConfig configures a Publisher.
type PublisherConfig struct {
	// Queue is where batches wait. Nil means a queue in memory.
	Queue Queue
	// Memory bounds the queue in memory, in bytes. 0 means DefaultMemory.
	Memory int64
	// Streams has the Publisher make streams that somebody has deleted. Nil: it waits for somebody who does.
	Streams *Streams
}

// Publisher sends batches to a bus. One goroutine may call Publish, and another one
// Run.
type Publisher struct {
	conn    *Conn
	queue   Queue
	streams *Streams
	encoder batch.Encoder
	buf     []byte
	failed  bool // it has been reported that a batch cannot be encoded

	lost        sync.Mutex // guards the following
	lossByAgent map[string]given

	inFlight     []inFlight
	inFlightSize int
	partitions   int       // 0 if unknown
	counted      time.Time // when the number was queried
	patience     time.Duration
	failing      time.Time // when acknowledgements stopped; zero if they have not
	stuck        bool      // that has been reported
	gone         bool      // no stream answered the last attempt, and we may create them

	published, acknowledged, batches, packets, duplicates, dropped, again atomic.Uint64

	publishedPackets, droppedPackets atomic.Uint64
	memory                           *memory // nil if the queue is the caller's
}

// given is the number of records dropped from an agent's stream of batches.
type given struct{ boot, up uint64 }

// inFlight is a batch that has been sent.
type inFlight struct {
	future  jetstream.PubAckFuture // nil if dropped
	data    []byte
	records uint64
	packets uint64
}

// errAgain means that what was sent is lost, but the streams accept batches again.
var errAgain = errors.New("sent again")

// NewPublisher returns a Publisher. It sends nothing until Run.
func NewPublisher(conn *Conn, cfg PublisherConfig) *Publisher {
	p := &Publisher{conn: conn, queue: cfg.Queue, streams: cfg.Streams, lossByAgent: map[string]given{}, patience: ackTime}
	if p.queue == nil {
		if cfg.Memory == 0 {
			cfg.Memory = DefaultMemory
		}
		p.memory = newMemory(cfg.Memory, p.drop)
		p.queue = p.memory
	}
	return p
}

// PublisherStatus holds the counters of a Publisher, in records unless stated
// otherwise.
//
//	Published = Acknowledged + Dropped + what is queued
//
// This does not hold if the queue is the caller's, who then has to count what it drops.
type PublisherStatus struct {
	Published    uint64
	Acknowledged uint64
	Batches      uint64 // acknowledged
	Packets      uint64 // for which the acknowledged records stand
	Dropped      uint64 // for lack of room, or because no bus accepts them
	Duplicates   uint64 // batches that a stream already had
	Again        uint64 // batches sent more than once
	// The packets for which published and dropped records stand, and those waiting in
	// the queue in memory.
	PublishedPackets, DroppedPackets, WaitingPackets uint64
}

// Status returns the counters. It may be called concurrently.
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

// Publish queues a batch without blocking. It adds to b.Dropped the records of b's
// stream that the queue in memory has dropped. It does not retain b.
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

// drop counts an encoded batch as dropped.
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

// Run sends until ctx is done, and then for up to two more seconds what is still
// queued. It retries failures after a pause. At its end, Run discards the queue in
// memory. A queue of the caller's can be closed then.
func (p *Publisher) Run(ctx context.Context) error {
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drainTime, stop) })()
	for {
		err := p.send(ctx, sending)
		switch {
		case err == nil: // told to stop, and nothing is left
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
	p.gone = p.streams != nil && (errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrStreamNotFound))
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

// send sends until ctx is done and everything has been acknowledged, or until something
// fails.
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

// count determines the number of partitions. That needs servers that respond, so it is
// done once, and repeated only when nothing works any more.
func (p *Publisher) count(ctx context.Context) error {
	if p.partitions != 0 && !p.mayCount() {
		return nil
	}
	if p.gone && p.partitions != 0 {
		if err := p.conn.remakeStreams(ctx, *p.streams, p.partitions); err != nil {
			return err
		}
	}
	n, err := p.conn.partitions(ctx)
	p.counted = time.Now()
	if err == nil {
		p.partitions = n
	} else if errors.Is(err, jetstream.ErrStreamNotFound) {
		p.partitions = 0 // they will be recreated
	}
	if p.partitions != 0 {
		return nil
	}
	return err
}

// mayCount reports, periodically while nothing is acknowledged, whether to query the
// number of partitions again.
func (p *Publisher) mayCount() bool {
	wait := countTime
	if p.gone {
		wait = goneTime
	}
	return !p.failing.IsZero() && time.Since(p.failing) > wait && time.Since(p.counted) > wait
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

// fill sends as much as the window allows.
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

// await waits for the acknowledgement of the oldest batch.
func (p *Publisher) await(sending context.Context) error {
	f := p.inFlight[0]
	if f.future == nil { // dropped
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

// probe resends the oldest batch until it is acknowledged. If the acknowledgement is
// for the first attempt, the other batches are still in flight. Otherwise they are lost
// like that attempt, and it returns errAgain. why is the reason for probing.
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
			case why = <-f.Err():
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
	p.failing, p.gone = time.Time{}, false
	if p.stuck {
		p.stuck = false
		p.conn.say("bus %s: batches are taken again", p.conn.target)
	}
	p.batches.Add(1)
	p.landed()
}

// landed removes the oldest batch, which has been acknowledged.
func (p *Publisher) landed() {
	p.queue.Ack(1)
	p.acknowledged.Add(p.inFlight[0].records)
	p.packets.Add(p.inFlight[0].packets)
	p.inFlightSize -= len(p.inFlight[0].data)
	p.inFlight = p.inFlight[1:]
}

// abandon makes everything unacknowledged be resent. Some of it may still arrive.
func (p *Publisher) abandon() {
	p.again.Add(uint64(len(p.inFlight)))
	p.inFlight, p.inFlightSize = nil, 0
	p.queue.Rewind()
}
