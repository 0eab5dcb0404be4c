package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/internal/transport/sink"
	"github.com/pcapper/pcapper/wire"
)

// TestLogAfterRest: after a time without traffic, what has no line (a packet that the
// kernel dropped) comes first. The next packet's line must not wait for more than usual.
func TestLogAfterRest(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	synctest.Test(t, func(t *testing.T) {
		h := hub.New(hub.Config[wire.Record]{Chunk: 1024, Chunks: 4, Encodings: []hub.Encoding[wire.Record]{
			formatBinary: binary, formatText: lines,
		}})
		l := newLogTask(sink.NewLogFile(name, func(err error) { t.Error(err) }), h.NewReader())
		l.attached(true)
		done := make(chan error)
		go func() { done <- l.run(t.Context()) }()
		packet := wire.Record{Time: time.Now().UnixNano(), Proto: wire.ProtoUDP, Length: 100}
		dropped := packet
		dropped.Flags = wire.Dropped
		written := func() int {
			synctest.Wait()
			data, err := os.ReadFile(name)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			return strings.Count(string(data), "\n")
		}
		for i, first := range []wire.Record{dropped, packet} {
			time.Sleep(10 * flushEvery) // it rests
			h.Publish(first)
			time.Sleep(flushEvery / 4)
			h.Publish(packet)
			time.Sleep(2 * flushEvery)
			if got, want := written(), 1+2*i; got != want {
				t.Errorf("%d lines are in the log two flushes later, want %d", got, want)
			}
		}
		h.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
