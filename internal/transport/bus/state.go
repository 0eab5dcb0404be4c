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

// The writers of a tenant agree by one key for each partition, in the bucket
// PC_STATE (PC_STATE_TENANT): how far the partition was written, and which records
// of whom those were. It is changed by compare-and-set only, and what a writer has
// sealed counts once the key says so: see Writer.

// state is a key's value: JSON, compressed with S2.
type state struct {
	Next uint64 `json:"next"` // sequence number of the stream that was not written yet
	// Sealed are segments that count, and that their writers have not said yet to
	// have committed.
	Sealed  []string `json:"sealed,omitempty"`
	Records uint64   `json:"records"` // written
	Gone    uint64   `json:"gone"`    // messages that the stream dropped before they were written
	Marks   []mark   `json:"marks"`
}

const (
	// maxSealed is how many writers that ended in the middle are waited for.
	maxSealed = 256
	// maxValue is the most bytes of a value: what a server takes, with room.
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

// ledger is the bucket.
type ledger struct {
	conn *Conn
	kv   jetstream.KeyValue
	id   string // of the bus: nobody else's segments are judged by it
}

// ensureBucket makes a bucket, or uses the one that is there. Values are read from
// the leader of its stream, never from a server that may be behind.
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

func (t *Target) bucket(what string) string {
	if t.Tenant == "default" {
		return "PC_" + what
	}
	return "PC_" + what + "_" + t.Tenant
}

// openLedger opens the bucket, and makes it if need be.
func (c *Conn) openLedger(ctx context.Context, group string, cfg Streams) (*ledger, error) {
	l := &ledger{conn: c}
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

// identity is the name that the first writer gave the bus.
func (l *ledger) identity(ctx context.Context) (string, error) {
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

// get reads a partition's key. It may be that of a moment ago. revision 0 means
// that there is none.
func (l *ledger) get(ctx context.Context, partition int) (s *state, revision uint64, err error) {
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

// set replaces a key's value if its revision is that, and gives the new one. After
// an error other than errChanged it may yet have done so.
func (l *ledger) set(ctx context.Context, partition int, s *state, revision uint64) (uint64, error) {
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

// errChanged: somebody else has changed the key, or we have, in an earlier attempt.
var errChanged = errors.New("the partition's key was changed")

// fresh reads a key's value as it certainly is now, by writing it.
func (l *ledger) fresh(ctx context.Context, partition int) (s *state, err error) {
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

// seal makes a segment count: it moves a partition's key on from base, whose
// revision is that, to want. It tries until it is known whether that was done; the
// error is ctx's, a *fault.Error, or a *taken.
func (l *ledger) seal(ctx context.Context, partition int, base, want *state, revision uint64, segment string) (now uint64, err error) {
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
			case segment != "" && slices.Contains(got.Sealed, segment): // by an attempt that seemed to fail
				now = at
				return nil
			case got.Next != base.Next || got.Records != base.Records || got.Gone != base.Gone:
				return &taken{partition}
			}
			// Somebody has but asked for it (fresh), or said what it has committed.
			revision = at
			want.Sealed = mergeSealed(got.Sealed, base.Sealed, want.Sealed)
		}
	})
	return now, err
}

// mergeSealed does to now what made want of base.
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

// taken: another writer has the partition.
type taken struct{ partition int }

func (t *taken) Error() string {
	return fmt.Sprintf("another writer has partition %d", t.partition)
}
