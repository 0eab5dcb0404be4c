package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pcapper/pcapper/internal/host/fault"
)

// The writers of a tenant coordinate through one key per partition, in the bucket
// PC_STATE (PC_STATE_TENANT): how far the partition has been written, and which records
// those were. The key is changed by compare-and-set only, and a sealed segment counts
// once the key lists it: see Writer.

// state is the value of a key: JSON, compressed with S2.
type state struct {
	Next uint64 `json:"next"` // first sequence number of the stream that has not been written
	// Sealed are segments that count, and that their writers have not yet reported as
	// committed.
	Sealed  []string `json:"sealed,omitempty"`
	Records uint64   `json:"records"` // written
	Gone    uint64   `json:"gone"`    // messages that the stream dropped before they were written
	Marks   []mark   `json:"marks"`
}

const (
	// maxSealed is the number of writers that may have been interrupted between sealing
	// and committing.
	maxSealed = 256
	// maxValue is the maximum size of a value: a server's limit, with a margin.
	maxValue = 900 << 10
)

func (s *state) encode() ([]byte, error) {
	for n := len(s.Marks); ; n = n * 3 / 4 {
		s.Marks = s.Marks[:n]
		plain, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		if data := s2.Encode(nil, plain); len(data) <= maxValue {
			return data, nil
		}
	}
}

func decodeState(data []byte) (*state, error) {
	plain, err := s2.Decode(nil, data)
	if err != nil {
		return nil, err
	}
	s := &state{}
	return s, json.Unmarshal(plain, s)
}

// stateBucket gives access to the bucket.
type stateBucket struct {
	conn *Conn
	kv   jetstream.KeyValue
	id   string // of the bus: segments of other buses are not judged by it
}

// ensureBucket creates a bucket, or uses the existing one. Values are read from the
// leader of its stream, never from a server that may be behind.
func (c *Conn) ensureBucket(ctx context.Context, name string, cfg jetstream.StreamConfig) (jetstream.KeyValue, error) {
	cfg.Name, cfg.Subjects = "KV_"+name, []string{"$KV." + name + ".>"}
	cfg.Storage, cfg.MaxMsgs, cfg.MaxBytes = jetstream.FileStorage, -1, -1
	cfg.AllowRollup, cfg.DenyDelete, cfg.Discard = true, true, jetstream.DiscardNew
	_, err := c.js.CreateStream(ctx, cfg)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return nil, c.explain(cfg.Name, err)
	}
	return c.js.KeyValue(ctx, name)
}

func (t *ClusterURL) bucket(what string) string {
	if t.Tenant == "default" {
		return "PC_" + what
	}
	return "PC_" + what + "_" + t.Tenant
}

// openLedger opens the bucket, and creates it if necessary.
func (c *Conn) openLedger(ctx context.Context, group string, cfg Streams) (*stateBucket, error) {
	l := &stateBucket{conn: c}
	bucket := c.target.bucket("STATE")
	if group != "" {
		bucket += "-" + group
	}
	err := c.retry(ctx, "the writers' bucket", func() (err error) {
		if l.kv, err = c.ensureBucket(ctx, bucket, jetstream.StreamConfig{
			Description: "PCapper: how far streams are written", Replicas: c.replicas(cfg), MaxMsgSize: -1, MaxMsgsPerSubject: 1,
		}); err != nil {
			return err
		}
		l.id, err = l.identity(ctx)
		return err
	})
	return l, err
}

// identity returns the name that the first writer gave the bus.
func (l *stateBucket) identity(ctx context.Context) (string, error) {
	if _, err := l.kv.Create(ctx, "bus", fmt.Appendf(nil, "%08x", rand.Uint32())); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return "", err
	}
	e, err := l.kv.Get(ctx, "bus")
	if err != nil {
		return "", err
	}
	return string(e.Value()), nil
}

func key(partition int) string { return fmt.Sprintf("partition.%02d", partition) }

// get reads a partition's key, whose value may be slightly out of date. revision 0
// means that there is none.
func (l *stateBucket) get(ctx context.Context, partition int) (s *state, revision uint64, err error) {
	e, err := l.kv.Get(ctx, key(partition))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return &state{Next: 1}, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("key %s: %w", key(partition), err)
	}
	if s, err = decodeState(e.Value()); err != nil {
		return nil, 0, fault.WithHint(fmt.Errorf("bus %s: key %s of %s: %w", l.conn.target, key(partition), l.kv.Bucket(), err), "another program has written it, or a newer one")
	}
	return s, e.Revision(), nil
}

// set replaces a key's value if it has this revision, and returns the new revision.
// After an error other than errChanged, it may have succeeded nevertheless.
func (l *stateBucket) set(ctx context.Context, partition int, s *state, revision uint64) (uint64, error) {
	data, err := s.encode()
	if err != nil {
		return 0, err
	}
	now, err := l.kv.Update(ctx, key(partition), data, revision)
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return 0, errChanged
	}
	if err != nil {
		err = fmt.Errorf("key %s: %w", key(partition), err)
	}
	return now, err
}

// errChanged means that the key was changed by another writer, or by us in an earlier
// attempt.
var errChanged = errors.New("the partition's key was changed")

// fresh reads a key's current value, reliably, by writing it.
func (l *stateBucket) fresh(ctx context.Context, partition int) (s *state, err error) {
	for {
		var revision uint64
		if s, revision, err = l.get(ctx, partition); err != nil {
			return nil, err
		}
		if _, err = l.set(ctx, partition, s, revision); !errors.Is(err, errChanged) {
			return s, err
		}
	}
}

// seal makes a segment count by changing a partition's key from base, which has the
// given revision, to want. It retries until the outcome is known. The error is ctx's, a
// *fault.Error, or a *taken.
func (l *stateBucket) seal(ctx context.Context, partition int, base, want *state, revision uint64, segment string) (now uint64, err error) {
	err = l.conn.retry(ctx, key(partition), func() error {
		for {
			if now, err = l.set(ctx, partition, want, revision); !errors.Is(err, errChanged) {
				return err
			}
			got, at, err := l.get(ctx, partition)
			switch {
			case err != nil:
				return err
			case at <= revision:
				return errors.New("an old value was read")
			case segment != "" && slices.Contains(got.Sealed, segment): // by an attempt that seemed to have failed
				now = at
				return nil
			case got.Next != base.Next || got.Records != base.Records || got.Gone != base.Gone:
				return &taken{partition}
			}
			// Somebody has merely read it with fresh, or reported what it has
			// committed.
			revision = at
			want.Sealed = mergeSealed(got.Sealed, base.Sealed, want.Sealed)
		}
	})
	return now, err
}

// mergeSealed applies to now the changes that lead from base to want.
func mergeSealed(now, base, want []string) (list []string) {
	for _, id := range now {
		if slices.Contains(want, id) || !slices.Contains(base, id) {
			list = append(list, id)
		}
	}
	for _, id := range want {
		if !slices.Contains(list, id) && !slices.Contains(base, id) {
			list = append(list, id)
		}
	}
	return list
}

// taken means that another writer has the partition.
type taken struct{ partition int }

func (t *taken) Error() string {
	return fmt.Sprintf("another writer has partition %d", t.partition)
}
