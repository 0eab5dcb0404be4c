//go:build kafka

package kafka

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The brokers here are kfake's, of franz-go's authors: they speak Kafka's protocol,
// keep messages in memory, and are no Kafka.
func brokers(t *testing.T, options ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append(options, kfake.NumBrokers(3), kfake.SeedTopics(4, "records"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func start(t *testing.T, url string) (*Sink, func() error) {
	t.Helper()
	target, err := Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(target, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, func() error { cancel(); return <-done }
}

// publish gives a sink batches, with a pause after every 25.
func publish(s *Sink, batches int, pause time.Duration) {
	for i := range batches {
		if i%25 == 24 {
			time.Sleep(pause)
		}
		b := &batch.Batch{Agent: fmt.Sprint("agent ", i%5), Boot: 7, First: uint64(i/5) * 100}
		for j := range 100 {
			b.Records = append(b.Records, wire.Record{Time: int64(i)*1e9 + int64(j), Length: uint32(i + j), Proto: 17})
		}
		s.Publish(b)
	}
}

// TestOnce: brokers break connections instead of taking what is sent.
func TestOnce(t *testing.T) {
	c := brokers(t)
	var n atomic.Int32
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if n.Add(1)%3 == 0 {
			return nil, kerr.RequestTimedOut, true // the connection breaks
		}
		return nil, nil, false
	})
	s, end := start(t, "kafka://"+strings.Join(c.ListenAddrs(), ",")+"/records")
	publish(s, 500, 10*time.Millisecond)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.Written != 50_000 || st.Dropped != 0 {
		t.Errorf("status %v", st)
	}
	if n.Load() < 3 {
		t.Errorf("%d requests: none of them failed", n.Load())
	}
	read(t, c)
}

// read reads the topic: every batch is there once, and an agent's in order.
func read(t *testing.T, c *kfake.Cluster) {
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics("records"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	next := map[string]uint64{}
	var d batch.Decoder
	var b batch.Batch
	for records := 0; records < 50_000; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("%v after %d records", err, records)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if err := d.Decode(r.Value, &b); err != nil {
				t.Fatal(err)
			}
			if string(r.Key) != b.Agent || string(r.Headers[0].Value) != b.ID() || b.First != next[b.Agent] {
				t.Fatalf("%s: %s from %d, want %d", r.Key, r.Headers[0].Value, b.First, next[b.Agent])
			}
			next[b.Agent] = b.Next()
			records += len(b.Records)
		})
	}
}

func TestBrokersAway(t *testing.T) {
	c := brokers(t)
	address := c.ListenAddrs()[0]
	c.Close()
	s, end := start(t, "kafka://"+address+"/records?memory=1")
	publish(s, 3000, 0)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.Published != 300_000 || st.Dropped != 300_000 {
		t.Errorf("status %+v: want all dropped, and counted", st)
	}
}

func TestRefusals(t *testing.T) {
	c := brokers(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "ann", "sesame"))
	at := strings.Join(c.ListenAddrs(), ",")
	target, err := Parse("kafka://ann:sesame@" + at + "/nothing")
	if err != nil {
		t.Fatal(err)
	}
	refused, err := New(target, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	err = refused.Run(t.Context())
	if e, ok := err.(*fault.Error); !ok || !strings.Contains(e.Hint(), "kafka-topics.sh") || strings.Contains(e.Error(), "sesame") {
		t.Errorf("%s: %v, want a hint of kafka-topics.sh", target, err)
	}
	s, end := start(t, "kafka://ann:sesame@"+at+"/records")
	publish(s, 5, 0)
	if err := end(); err != nil || s.Status().Written != 500 {
		t.Errorf("%v, %v", err, s.Status())
	}
}

func TestParse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("of a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KAFKA_PASSWORD", "secret")
	for text, want := range map[string]string{
		"kafka://a,b:1,[::1]:2/t.x":            "{[a:9092 b:1 [::1]:2] t.x   plain false  67108864}",
		"kafka+tls://u:p%40@a/t?ca=x&memory=2": "{[a:9092] t u p@ plain true x 2097152}",
		"kafka://u@a/t?sasl=scram-sha-256":     "{[a:9092] t u secret scram-sha-256 false  67108864}",
		"kafka://u@a/t?password-file=" + file:  "{[a:9092] t u of a file plain false  67108864}",
	} {
		if got, err := Parse(text); err != nil || fmt.Sprint(*got) != want {
			t.Errorf("%s: %v, %v; want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"kafak://a/t":                          `"kafak"`,
		"kafka://u:sesame@a":                   "not a topic",
		"kafka://u:ses%zz@a/t":                 "want %XX",
		"kafka://u:sesame@a:x/t":               `"x": not a port`,
		"kafka://u:sesame@/t":                  "no host",
		"kafka://a/t?speed=1":                  `unknown parameter "speed": want password-file`,
		"kafka://a/t?sasl=kerberos":            "want plain",
		"kafka://a/t?memory=0":                 "want MiB",
		"kafka://a/t?ca=x&ca=y":                "2 times",
		"kafka://a/t?password-file=/none/such": "/none/such",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
}
