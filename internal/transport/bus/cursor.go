package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// cursor reads a stream in order, from any server, without acknowledging anything: a
// slow reader stalls nobody. After any failure it continues after the last message that
// it returned.
type cursor struct {
	conn   *Conn
	stream string
	filter string // a subject
	// next is the next sequence number to read; 0 means messages from now on.
	next uint64
	// latest starts with the last message of each subject.
	latest bool

	consumer string
	delivery uint64 // number of messages delivered by the consumer
	messages jetstream.MessagesContext
	got      chan received
	opened   time.Time
}

// received is a result of messages. An error is the last one.
type received struct {
	msg jetstream.Msg
	err error
}

const (
	// Limits of what is read ahead.
	aheadMessages, aheadBytes = 128, 4 << 20
	// A server that is silent for twice heartbeat is asked again, or another one is.
	heartbeat = time.Second
	pullTime  = 10 * time.Second
	// idleTime is how long a server keeps a reader that has disappeared.
	idleTime = 30 * time.Second
)

// message is a message that has been read.
type message struct {
	seq     uint64
	subject string
	data    []byte
	header  nats.Header
	pending uint64 // number of messages after it
}

// read waits for the next message, or until wait fires, in which case ok is false. It
// reopens the reader if necessary. After an error, calling it again may succeed.
func (c *cursor) read(ctx context.Context, wait <-chan time.Time) (m message, ok bool, err error) {
	if c.messages == nil {
		if err := c.open(ctx); err != nil {
			return m, false, err
		}
	}
	select {
	case r := <-c.got:
		if err = r.err; err == nil {
			m, err = c.check(r.msg)
		}
		if err == nil {
			return m, true, nil
		}
	case <-wait:
		return m, false, nil
	case <-ctx.Done():
		return m, false, ctx.Err()
	}
	c.close()
	if time.Since(c.opened) > retryPause {
		err = nil // it worked for a while: reopen it immediately
	}
	return m, false, err
}

func (c *cursor) check(got jetstream.Msg) (m message, err error) {
	meta, err := got.Metadata()
	if err != nil {
		return m, err
	}
	if meta.Sequence.Consumer != c.delivery+1 {
		return m, fmt.Errorf("stream %s: messages are missing", c.stream)
	}
	c.delivery++
	c.next = meta.Sequence.Stream + 1
	return message{seq: meta.Sequence.Stream, subject: got.Subject(), data: got.Data(), header: got.Headers(), pending: meta.NumPending}, nil
}

func (c *cursor) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	cfg := jetstream.ConsumerConfig{
		Name: "", AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: idleTime,
		FilterSubject: c.filter, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: c.next,
	}
	if c.next == 0 {
		cfg.OptStartSeq, cfg.DeliverPolicy = 0, jetstream.DeliverNewPolicy
		if c.latest {
			cfg.DeliverPolicy = jetstream.DeliverLastPerSubjectPolicy
		}
	}
	consumer, err := c.conn.js.CreateConsumer(ctx, c.stream, cfg)
	if err != nil {
		return fmt.Errorf("stream %s: %w", c.stream, err)
	}
	c.consumer, c.delivery = consumer.CachedInfo().Name, 0
	if c.next == 0 && !c.latest {
		c.next = consumer.CachedInfo().Delivered.Stream + 1
	}
	c.messages, err = consumer.Messages(
		jetstream.PullMaxMessagesWithBytesLimit(aheadMessages, aheadBytes), jetstream.PullExpiry(pullTime),
		jetstream.PullHeartbeat(heartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fmt.Errorf("stream %s: %w", c.stream, err)
	}
	c.opened, c.got = time.Now(), make(chan received, aheadMessages)
	go pump(c.messages, c.got)
	return nil
}

// pump passes messages on until they end, which is reported as an error. It waits
// without a time limit, because the library notices a missing heartbeat only in a call
// that waits longer than that.
func pump(messages jetstream.MessagesContext, got chan<- received) {
	defer close(got)
	for {
		m, err := messages.Next()
		got <- received{m, err}
		if err != nil {
			return
		}
	}
}

// close ends the reader; the next read opens another.
func (c *cursor) close() {
	if c.messages == nil {
		return
	}
	c.messages.Stop()
	for range c.got { // until pump has ended
	}
	c.messages = nil
	ctx, cancel := context.WithTimeout(context.Background(), heartbeat)
	defer cancel()
	if c.conn.Connected() {
		_ = c.conn.js.DeleteConsumer(ctx, c.stream, c.consumer) // or it expires after idleTime
	}
}
