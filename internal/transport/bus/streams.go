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

// Streams is how streams are made if there are none. Those that exist are used
// as they are.
type Streams struct {
	Partitions int // 0 is 4
	// Replicas is on how many servers a stream is; 0 is 3 if the bus has as many,
	// or else 1.
	Replicas int
	// A stream keeps batches for MaxAge, and MaxBytes of them; 0 is 24 hours, and 1 GiB.
	MaxAge   time.Duration
	MaxBytes int64
}

const (
	defaultPartitions = 4
	defaultStreamAge  = 24 * time.Hour
	defaultStreamSize = 1 << 30
	// duplicateTime is how long a stream knows batches again by their ID.
	duplicateTime = 2 * time.Minute
	// metaPartitions is where streams say how many there are.
	metaPartitions = "pcapper-partitions"
)

// EnsureStreams makes the streams that are missing, and returns how many there
// are. It retries indefinitely; the error is ctx's or a *fault.Error: the streams are not as
// they must be.
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

// warnOfReplicas says once that streams which were there already are on fewer servers
// than they would be if we had made them.
func (c *Conn) warnOfReplicas(ctx context.Context, cfg Streams) {
	first, err := c.js.Stream(ctx, c.target.streamName(0))
	if err != nil {
		return // it was there a moment ago; nothing depends on this
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
	// The first says how many there are, so it comes last.
	for i := cfg.Partitions - 1; i >= 0; i-- {
		want := c.streamConfig(i, cfg)
		// One that exists will do if partitions says so.
		if _, err := c.js.CreateStream(ctx, want); err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return 0, c.explain(want.Name, err)
		}
	}
	return c.partitions(ctx)
}

// minServer is the oldest nats-server that keeps streams' metadata.
const minServer = "2.10.0"

// checkVersion fails if the server is too old. Streams that one makes forget how
// many partitions there are.
func (c *Conn) checkVersion() error {
	version := c.nc.ConnectedServerVersion()
	if version == "" || semver.Compare("v"+version, "v"+minServer) >= 0 {
		return nil // or not connected: nothing works anyway
	}
	return fault.WithHint(fmt.Errorf("bus %s: nats-server %s is too old: streams have no metadata before %s", c.target, version, minServer),
		"install nats-server "+minServer+" or newer on all servers")
}

// partitions is how many the first stream says there are. It checks that they
// will do.
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

// fits checks what nothing works without.
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

// replicas is on how many servers something is kept.
func (c *Conn) replicas(cfg Streams) int {
	switch {
	case cfg.Replicas != 0:
		return cfg.Replicas
	case c.nc.ConnectedClusterName() != "" && max(len(c.target.Servers), len(c.nc.Servers())) >= 3:
		return 3
	}
	return 1
}

// explain adds the next step to an error that does not pass by itself.
func (c *Conn) explain(what string, err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	err = fmt.Errorf("bus %s: %s: %w", c.target, what, err)
	switch api.ErrorCode {
	case 10047, 10028: // insufficient storage: of a server, of an account
		return fault.WithHint(err, "the servers' or the account's storage is too small: ?size=BYTES makes smaller streams")
	case 10052, 10065: // the configuration is refused; subjects overlap
		return fault.WithHint(err, "another stream has these subjects: ?tenant=NAME chooses others")
	case 10039, 10035: // not for this account; not enabled
		return fault.WithHint(err, "the servers must have JetStream enabled for this account")
	}
	return err
}
