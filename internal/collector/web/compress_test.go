package web

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/wire"
)

// TestZippedStream: it is one gzip stream that a reader can follow event by event, that ends as it
// should, and that is compressed once for all.
func TestZippedStream(t *testing.T) {
	src := newSource()
	s, err := Listen("127.0.0.1:0", Access{})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("server", func(t *testing.T) {
		serve(t, s, src)
		r, _ := http.NewRequest("GET", s.URL()+"api/v1/stream?topic=matrix:60", nil)
		r.Header.Set("Accept-Encoding", "gzip") // by hand: the transport does not unpack it
		answer, err := http.DefaultClient.Do(r)
		if err != nil || answer.Header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%v, %v", answer, err)
		}
		t.Cleanup(func() { answer.Body.Close() })
		z, err := gzip.NewReader(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		// Nothing is ticked before the first events have come: each is flushed.
		var got bytes.Buffer
		buffer := make([]byte, 64<<10)
		for strings.Count(got.String(), "event: matrix") == 0 || !strings.HasSuffix(got.String(), "\n\n") {
			n, err := z.Read(buffer)
			if got.Write(buffer[:n]); err != nil {
				t.Fatal(err)
			}
		}
		a := s.cache.get(src, src.Snapshot(), query{kind: "frame"})
		if want := "event: frame\ndata: " + string(a.json.plain) + "\n\nevent: matrix\ndata: {"; !strings.Contains(got.String(), want) {
			t.Errorf("%.300q", got.String())
		}
		if a.json.zipped == nil {
			t.Error("the compressed frame is not kept for the next")
		}
		s.end()
		if _, err := io.Copy(io.Discard, z); err != nil {
			t.Errorf("the end of the stream: %v", err) // also if the checksum is wrong
		}
	})
}

// big is a source of made-up traffic: each of flows is seen by some of the agents.
func big(agents, flows, seenBy int) *source {
	hosts := make([]rollup.Host, agents)
	for i := range hosts {
		hosts[i].Label = fmt.Sprintf("n%d", i+1)
	}
	s := newSource()
	s.agents = make([]Agent, agents)
	for i := range s.agents {
		s.agents[i] = Agent{State: Connected, Records: uint64(i) * 12345, Connections: 1}
	}
	s.Store = rollup.New(rollup.Config{
		Hosts: hosts, Rows: flows,
		Classify: func(rows []int, r *wire.Record) []int { return append(rows, int(r.DstPort)) },
	})
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Now().Truncate(time.Second)
	for second := range 20 {
		at := now.Add(time.Duration(second-20) * time.Second).UnixNano()
		for flow := range flows {
			for copy := range seenBy {
				p := wire.Record{Time: at, Length: uint32(100 + random.IntN(1400)), SrcPort: 5000, DstPort: uint16(flow), Proto: 17}
				p.Src[0], p.Src[3], p.Dst[0], p.Dst[3] = 10, byte(flow), 10, byte(flow>>8)
				s.Add(at, (flow+copy)%agents, &p)
			}
		}
		s.Tick(at)
	}
	s.Tick(now.UnixNano())
	return s
}

// BenchmarkFrame tells what a frame of 200 agents and 1,000 flows takes.
func BenchmarkFrame(b *testing.B) {
	for _, seenBy := range []int{1, 5} {
		b.Run(fmt.Sprintf("seenby=%d", seenBy), func(b *testing.B) {
			src := big(200, 1000, seenBy)
			p := part{plain: encode(frameOf(src, src.Snapshot()))}
			for b.Loop() {
				deflate(p.plain)
			}
			b.ReportMetric(float64(len(p.plain)), "plain-B")
			b.ReportMetric(float64(len(p.zip())), "gzip-B")
		})
	}
}
