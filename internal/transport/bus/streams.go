package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/mod/semver"

	"github.com/pcapper/pcapper/internal/host/fault"
)

// Streams configures the streams to create if there are none. Existing streams are used
// as they are.
type Streams struct {
	Partitions int // 0 means 4
	// Replicas is the number of servers that keep a stream; 0 means 3 if the bus has as
	// many, otherwise 1.
	Replicas int
	// A stream keeps batches for MaxAge, and at most MaxBytes; 0 means 24 hours and 1
	// GiB.
	MaxAge   time.Duration
	MaxBytes int64
}

const (
	defaultPartitions = 4
	defaultStreamAge  = 24 * time.Hour
	defaultStreamSize = 1 << 30
	// duplicateTime is how long a stream recognizes duplicate batches by their ID.
	duplicateTime = 2 * time.Minute
	// metaPartitions is the key of a stream's metadata with the number of streams.
	metaPartitions = "pcapper-partitions"
)

// EnsureStreams creates missing streams, and returns their number. It retries
// indefinitely; the error is ctx's, or a *fault.Error if existing streams are
// unsuitable.
func (c *Conn) EnsureStreams(ctx context.Context, cfg Streams) (partitions int, err error) {
	err = c.retry(ctx, "streams", func() (err error) {
		partitions, err = c.ensureStreams(ctx, cfg)
		return err
	})
	if err == nil {
		c.warnOfReplicas(ctx, cfg)
	}
	return partitions, err
}

// warnOfReplicas warns once if existing streams are on fewer servers than they would be
// if they were created now.
func (c *Conn) warnOfReplicas(ctx context.Context, cfg Streams) {
	first, err := c.js.Stream(ctx, c.target.streamName(0))
	if err != nil {
		return // it was there a moment ago, and this is only a warning
	}
	have, want := first.CachedInfo().Config.Replicas, c.replicas(cfg)
	if have < want && !c.warned.Swap(true) {
		c.say("bus %s: stream %s is on %d of the servers, where %d are better: batches may be lost with a server; \"nats stream edit --replicas %d\" for each stream changes that",
			c.target, first.CachedInfo().Config.Name, have, want, want)
	}
}

func (c *Conn) ensureStreams(ctx context.Context, cfg Streams) (int, error) {
	n, err := c.partitions(ctx)
	if err == nil || !errors.Is(err, jetstream.ErrStreamNotFound) {
		return n, err
	}
	if cfg.Partitions == 0 {
		cfg.Partitions = defaultPartitions
	}
	// The first stream records their number, so it is created last.
	for i := cfg.Partitions - 1; i >= 0; i-- {
		if err := c.createStream(ctx, c.streamConfig(i, cfg)); err != nil {
			return 0, err
		}
	}
	return c.partitions(ctx)
}

// createStream creates a stream that does not exist. An existing one is suitable if
// partitions says so.
func (c *Conn) createStream(ctx context.Context, want jetstream.StreamConfig) error {
	if _, err := c.js.CreateStream(ctx, want); err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return c.explain(want.Name, err)
	}
	return nil
}

// remakeStreams creates those of so many streams that somebody has deleted.
func (c *Conn) remakeStreams(ctx context.Context, cfg Streams, partitions int) error {
	there := map[string]bool{}
	names := c.js.StreamNames(ctx)
	for name := range names.Name() {
		there[name] = true
	}
	if err := names.Err(); err != nil {
		return err
	}
	cfg.Partitions = partitions
	for i := partitions - 1; i >= 0; i-- {
		want := c.streamConfig(i, cfg)
		if there[want.Name] {
			continue
		}
		if err := c.createStream(ctx, want); err != nil {
			return err
		}
		c.say("bus %s: stream %s was deleted; it has been created again", c.target, want.Name)
	}
	return nil
}

// minServer is the oldest nats-server that stores metadata of streams.
const minServer = "2.10.0"

// checkVersion fails if the server is too old. Streams created by such a server would
// lose the number of partitions.
func (c *Conn) checkVersion() error {
	version := c.nc.ConnectedServerVersion()
	if version == "" || semver.Compare("v"+version, "v"+minServer) >= 0 {
		return nil // or not connected, in which case nothing works anyway
	}
	return fault.WithHint(fmt.Errorf("bus %s: nats-server %s is too old: streams have no metadata before %s", c.target, version, minServer),
		"install nats-server "+minServer+" or newer on all servers")
}

// partitions returns the number of partitions recorded in the first stream. It checks
// that the streams are suitable.
func (c *Conn) partitions(ctx context.Context) (int, error) {
	if err := c.checkVersion(); err != nil {
		return 0, err
	}
	first, err := c.js.Stream(ctx, c.target.streamName(0))
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(first.CachedInfo().Config.Metadata[metaPartitions])
	if err != nil || n < 1 || n > MaxPartitions {
		return 0, fault.WithHint(fmt.Errorf("bus %s: stream %s is not PCapper's: its metadata has no %s", c.target, c.target.streamName(0), metaPartitions),
			"remove it, or use another tenant: ?tenant=NAME")
	}
	for i := range n {
		s, err := c.js.Stream(ctx, c.target.streamName(i))
		if err == nil {
			err = c.fits(i, &s.CachedInfo().Config)
		}
		if err != nil {
			return 0, err
		}
	}
	return n, nil
}

// fits checks the properties that are indispensable.
func (c *Conn) fits(partition int, got *jetstream.StreamConfig) error {
	var bad string
	switch subjects := c.target.streamSubjects(partition); {
	case !slices.Contains(got.Subjects, subjects):
		bad = fmt.Sprintf("takes %q instead of %q", got.Subjects, subjects)
	case got.Retention != jetstream.LimitsPolicy:
		bad = fmt.Sprintf("keeps messages by %v instead of by limits", got.Retention)
	case got.NoAck:
		bad = "acknowledges nothing"
	case got.MaxMsgsPerSubject > 0:
		bad = fmt.Sprintf("keeps %d messages of an agent", got.MaxMsgsPerSubject)
	default:
		return nil
	}
	return fault.WithHint(fmt.Errorf("bus %s: stream %s %s", c.target, got.Name, bad), `change it with "nats stream edit", or use another tenant: ?tenant=NAME`)
}

func (c *Conn) streamConfig(partition int, cfg Streams) jetstream.StreamConfig {
	want := jetstream.StreamConfig{
		Name: c.target.streamName(partition), Subjects: []string{c.target.streamSubjects(partition)},
		Description: "PCapper: batches of records", Storage: jetstream.FileStorage, Replicas: c.replicas(cfg),
		MaxAge: cfg.MaxAge, MaxBytes: cfg.MaxBytes, Discard: jetstream.DiscardOld, MaxMsgs: -1, MaxMsgsPerSubject: -1,
		Duplicates: duplicateTime, Metadata: map[string]string{metaPartitions: strconv.Itoa(cfg.Partitions)},
	}
	if want.MaxAge == 0 {
		want.MaxAge = defaultStreamAge
	}
	if want.MaxBytes == 0 {
		want.MaxBytes = defaultStreamSize
	}
	return want
}

// replicas returns the number of servers on which something is kept.
func (c *Conn) replicas(cfg Streams) int {
	switch {
	case cfg.Replicas != 0:
		return cfg.Replicas
	case c.nc.ConnectedClusterName() != "" && max(len(c.target.Servers), len(c.nc.Servers())) >= 3:
		return 3
	}
	return 1
}

// explain adds a hint to an error that does not go away by itself.
func (c *Conn) explain(what string, err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	err = fmt.Errorf("bus %s: %s: %w", c.target, what, err)
	switch api.ErrorCode {
	case 10047, 10028: // insufficient storage: of a server, of an account
		return fault.WithHint(err, "the servers' or the account's storage is too small: ?size=BYTES makes smaller streams")
	case 10052, 10065: // the configuration is rejected; subjects overlap
		return fault.WithHint(err, "another stream has these subjects: ?tenant=NAME chooses others")
	case 10039, 10035: // not enabled, or not for this account
		return fault.WithHint(err, "the servers must have JetStream enabled for this account")
	}
	return err
}
