//go:build kafka

package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/wire/batch"
)

const (
	// askTime is how long brokers may take to answer whether the topic exists.
	askTime = 5 * time.Second
	// pause is the interval between queries while the brokers are away.
	pause = 2 * time.Second
	// drainTime is how long Run continues at its end with what is left.
	drainTime = 5 * time.Second
)

// Status holds the counters of a sink, in records.
//
//	Published = Written + Dropped + what waits
type Status struct{ Published, Written, Dropped, Waiting uint64 }

func (st Status) String() string {
	return fmt.Sprintf("%d records in Kafka, %d dropped", st.Written, st.Dropped)
}

// Sink sends batches. One goroutine may call Publish, and another one Run.
type Sink struct {
	t       *TopicURL
	access  []kgo.Opt
	client  *kgo.Client
	say     func(format string, args ...any)
	encoder batch.Encoder
	once    sync.Once // guards the message that records are dropped

	published, written, dropped, waiting atomic.Uint64
}

// New returns a sink, which connects when it has something to send. say prints messages
// for the user.
func New(t *TopicURL, say func(format string, args ...any)) (*Sink, error) {
	access, err := t.access()
	if err != nil {
		return nil, err
	}
	access = append(access, kgo.SeedBrokers(t.Brokers...), kgo.ClientID("pcapper"))
	options := append(access[:len(access):len(access)], kgo.DefaultProduceTopic(t.Topic),
		kgo.RequiredAcks(kgo.AllISRAcks()), // and idempotent, which is the default
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.MaxBufferedBytes(int(t.Memory)), kgo.MaxBufferedRecords(int(t.Memory/1024)),
		kgo.UnknownTopicRetries(-1))
	client, err := kgo.NewClient(options...)
	if err != nil {
		return nil, fmt.Errorf("kafka %s: %w", t, err)
	}
	return &Sink{t: t, access: access, client: client, say: say}, nil
}

// Status returns the counters. It may be called concurrently.
func (s *Sink) Status() Status {
	return Status{Written: s.written.Load(), Dropped: s.dropped.Load(), Published: s.published.Load(), Waiting: s.waiting.Load()}
}

// Publish queues a batch without blocking. It does not retain b.
func (s *Sink) Publish(b *batch.Batch) {
	n := uint64(len(b.Records))
	s.published.Add(n)
	data, err := s.encoder.Append(nil, b)
	if err != nil {
		s.giveUp(n, err)
		return
	}
	message := &kgo.Record{Key: []byte(b.Agent), Value: data, Headers: []kgo.RecordHeader{
		{Key: "id", Value: []byte(b.ID())}, {Key: "content-type", Value: []byte("application/x-pcapper-batch")},
	}}
	s.waiting.Add(n)
	s.client.TryProduce(context.Background(), message, func(_ *kgo.Record, err error) {
		s.waiting.Add(-n)
		if err != nil {
			s.giveUp(n, err)
			return
		}
		s.written.Add(n)
	})
}

func (s *Sink) giveUp(n uint64, err error) {
	s.dropped.Add(n)
	s.once.Do(func() {
		if errors.Is(err, kgo.ErrMaxBuffered) {
			err = fmt.Errorf("more waits than memory=%d MiB", s.t.Memory>>20)
		}
		s.say("kafka %s: %v; such records are dropped and counted", s.t, err)
	})
}

// Run works until ctx is done, and then, for a few seconds, on what is left; what
// remains after that counts as dropped. The error is a *fault.Error.
func (s *Sink) Run(ctx context.Context) error {
	defer s.client.Close()
	if err := s.check(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if s.client.Flush(ctx) != nil {
		_ = s.client.AbortBufferedRecords(context.WithoutCancel(ctx)) // each is counted
	}
	return nil
}

// check asks whether the topic exists, until brokers answer or ctx is done.
func (s *Sink) check(ctx context.Context) error {
	// A separate client, which reports why it cannot connect instead of retrying.
	client, err := kgo.NewClient(append(s.access[:len(s.access):len(s.access)], kgo.RequestRetries(0))...)
	if err != nil {
		return fmt.Errorf("kafka %s: %w", s.t, err)
	}
	defer client.Close()
	for said := false; ctx.Err() == nil; {
		err := s.ask(ctx, client)
		if _, ok := errors.AsType[*fault.Error](err); ok {
			return err
		}
		if err == nil {
			return nil
		}
		if !said && ctx.Err() == nil {
			said = true
			s.say("kafka %s: %v; still trying", s.t, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return nil
}

func (s *Sink) ask(ctx context.Context, client *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	request := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = &s.t.Topic
	request.Topics = append(request.Topics, topic)
	answer, err := request.RequestWith(ctx, client)
	if err == nil && len(answer.Topics) == 1 {
		err = kerr.ErrorForCode(answer.Topics[0].ErrorCode)
	}
	hint := ""
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		hint = "make the topic: kafka-topics.sh --create --topic " + s.t.Topic + " --partitions 4 --bootstrap-server " + s.t.Brokers[0]
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.UnsupportedSaslMechanism):
		hint = "user and password are the URL's, or the password is password-file's or KAFKA_PASSWORD's; sasl= is the mechanism"
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		hint = "the user must be allowed to describe and write the topic"
	default:
		return err
	}
	return fault.WithHint(fmt.Errorf("kafka %s: %w", s.t, err), hint)
}

// access returns the options for connecting.
func (t *TopicURL) access() (options []kgo.Opt, err error) {
	if t.TLS {
		cfg := &tls.Config{MinVersion: tls.VersionTLS12}
		if t.CA != "" {
			if cfg.RootCAs, err = certs.Authorities(t.CA); err != nil {
				return nil, err
			}
		}
		options = append(options, kgo.DialTLSConfig(cfg))
	}
	switch {
	case t.User == "":
	case t.SASL == "plain":
		options = append(options, kgo.SASL(plain.Auth{User: t.User, Pass: t.Password}.AsMechanism()))
	case t.SASL == "scram-sha-256":
		options = append(options, kgo.SASL(scram.Auth{User: t.User, Pass: t.Password}.AsSha256Mechanism()))
	default:
		options = append(options, kgo.SASL(scram.Auth{User: t.User, Pass: t.Password}.AsSha512Mechanism()))
	}
	return options, nil
}
