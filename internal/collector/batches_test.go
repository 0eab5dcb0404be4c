package collector

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/transport/downsample"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// keeper is a copy of all batches.
type keeper struct {
	t    testing.TB
	list []*batch.Batch
	by   map[string]*stream
}

// stream is what is known of one agent's batches.
type stream struct {
	boot           uint64
	next, dropped  uint64
	packets, bytes uint64
	records        []wire.Record
}

func newKeeper(t testing.TB) *keeper { return &keeper{t: t, by: map[string]*stream{}} }

// Publish checks that numbers go on without a gap, and that the batch can be
// encoded.
func (k *keeper) Publish(b *batch.Batch) {
	s := k.by[b.Agent]
	if s == nil {
		s = &stream{boot: b.Boot}
		k.by[b.Agent] = s
	}
	if b.Boot != s.boot || b.First != s.next || b.Dropped < s.dropped || len(b.Records) > batchRecords {
		k.t.Errorf("batch %s of %d, %d dropped, after %+v", b.ID(), len(b.Records), b.Dropped, s)
	}
	var e batch.Encoder
	data, err := e.Append(nil, b)
	if err != nil {
		k.t.Error(err)
	}
	h, err := batch.ReadHeader(data)
	if err != nil {
		k.t.Error(err)
	}
	s.next, s.dropped = b.Next(), b.Dropped
	s.packets += h.Packets
	s.bytes += h.Bytes
	s.records = append(s.records, b.Records...)
	c := *b
	c.Records = nil
	k.list = append(k.list, &c)
}

// TestBatches: all that agents send leaves in batches, each agent's in its own.
func TestBatches(t *testing.T) {
	k := newKeeper(t)
	r := startRun(t, 2, "", func(cfg *Config) { cfg.Batches = k })
	conns := []io.Writer{r.accept(t, 0), r.accept(t, 1)}
	const n = 2500
	want := [2][]wire.Record{}
	var data [2][]byte
	for i := range n {
		for a := range 2 {
			rec := udp(uint16(i), 0, uint32(100+a), 0)
			rec.Time += int64(i) * 1e3
			data[a], _ = wire.AppendBinary(data[a], &rec)
			if i == 7 { // no packet
				stat := wire.CPUStat(testTime, 5)
				data[a], _ = wire.AppendBinary(data[a], &stat)
			}
			want[a] = append(want[a], rec)
		}
	}
	for a, conn := range conns {
		if _, err := conn.Write(data[a]); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 * (n + 1) { // all has come through the hub
		if _, err := r.stdout.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	r.cancel()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	for a, label := range []string{"h0", "h1"} {
		s := k.by[label]
		if s == nil || s.dropped != 0 || !slices.EqualFunc(s.records, want[a], sameTraffic) {
			t.Errorf("%s: %d records, want %d the same", label, len(s.records), n)
		}
	}
	if k.by["h0"].boot == k.by["h1"].boot {
		t.Error("two streams with one name")
	}
}

func sameTraffic(a, b wire.Record) bool {
	return a.Time == b.Time && a.Length == b.Length && a.Src == b.Src && a.Dst == b.Dst && a.DstPort == b.DstPort
}

// benchBatcher is a batcher of so many agents that are never dialled.
func benchBatcher(t testing.TB, agents int, to Batches, rule string) *batcher {
	file := &File{}
	for i := range agents {
		file.Hosts = append(file.Hosts, Host{Label: "h" + string(rune('a'+i)), Name: "10.0.0.1", Port: uint16(7000 + i)})
	}
	c := &collector{file: file, hub: newHub(), say: newPrinter(io.Discard)}
	c.classes.Store(mustClassify(t, nil))
	for i := range agents {
		c.add(newAgent(c, uint32(i), &c.file.Hosts[i], certs.Files{}))
	}
	rules := downsample.DefaultRules()
	if err := rules.Set(rule); err != nil {
		t.Fatal(err)
	}
	b := newBatcher(c, to, &rules)
	c.batcher = b
	b.now = time.Now()
	return b
}

// TestBatchesLost: what was overwritten before it could be taken is counted, for
// the agent that it was of.
func TestBatchesLost(t *testing.T) {
	k := newKeeper(t)
	b := benchBatcher(t, 3, k, "packets=all")
	send := func(agent, n int) {
		a := b.c.all()[agent]
		records := make([]wire.Record, 500)
		for i := range records {
			records[i] = udp(1, 0, 100, 0)
		}
		for ; n > 0; n -= len(records) {
			a.take(records[:min(n, len(records))])
		}
	}
	send(0, 10)
	send(1, 20)
	b.take()
	total := []int{10, 20, 0}
	for range 200 { // more than the hub holds
		for agent, n := range []int{5000, 1000} {
			send(agent, n)
			total[agent] += n
		}
	}
	for agent := range total { // nobody's last one is lost
		send(agent, 1)
		total[agent]++
	}
	b.c.hub.Close()
	if err := b.run(); err != nil {
		t.Fatal(err)
	}
	var lost uint64
	for agent, label := range []string{"ha", "hb", "hc"} {
		s := k.by[label]
		if s.next+s.dropped != uint64(total[agent]) {
			t.Errorf("%s: %d records, %d dropped, want %d", label, s.next, s.dropped, total[agent])
		}
		lost += s.dropped
		if d := b.c.all()[agent].detail(); d.Records != s.next || d.Lost != s.dropped {
			t.Errorf("%s: %+v", label, d)
		}
	}
	if st := b.reader.Status(); lost == 0 || lost != st.Lost {
		t.Errorf("%d lost, want %d", lost, st.Lost)
	}
}

// TestBatchesLetMemoryGo: an agent that had a burst does not keep its memory.
func TestBatchesLetMemoryGo(t *testing.T) {
	b := benchBatcher(t, 1, discard{}, "packets=all")
	records := make([]wire.Record, batchRecords+3)
	for i := range records {
		records[i] = udp(1, 0, 100, 0)
	}
	b.c.all()[0].take(records)
	b.take()
	if o := b.agents[0]; cap(o.Records) < batchRecords || len(o.Records) != 3 {
		t.Fatalf("%d records, room for %d", len(o.Records), cap(o.Records))
	}
	b.flushOlder(b.now.Add(time.Second))
	if o := b.agents[0]; cap(o.Records) > mostSpare*3 || o.Next() != batchRecords+3 {
		t.Errorf("room for %d after a batch of 3; next is %d", cap(o.Records), o.Next())
	}
}

// BenchmarkBatches is what it costs to take records from the hub, to make batches
// of them, and bytes of these. There are 20 agents with 1,000 flows each.
func BenchmarkBatches(b *testing.B) {
	for _, c := range []struct {
		name, rule string
		to         Batches
	}{
		{"packets", "packets=all,fleet-packets=all", discard{}},
		{"flows", "packets=0,flows=all,fleet-flows=all", discard{}},
		{"top", "packets=0,flows=0", discard{}},
		{"packets encoded", "packets=all,fleet-packets=all", &encode{}},
		{"flows encoded", "packets=0,flows=all,fleet-flows=all", &encode{}},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkBatches(b, benchBatcher(b, 20, c.to, c.rule)) })
	}
}

func benchmarkBatches(b *testing.B, w *batcher) {
	records := make([]wire.Record, 1000)
	for i := range records {
		records[i] = udp(uint16(i), 0, 100, 0)
	}
	n, used := 0, time.Duration(0)
	for b.Loop() {
		b.StopTimer()
		for i := range 100 {
			w.c.all()[i%len(w.c.all())].take(records)
		}
		for i := range records {
			records[i].Time += 1e9 / 20 // 100,000 records/s of each
		}
		w.now = w.now.Add(time.Second / 20)
		before := cpuTime()
		b.StartTimer()
		w.fleet.Tick(w.now.UnixNano())
		w.take()
		n += 100 * len(records)
		used += cpuTime() - before
	}
	b.ReportMetric(float64(used.Nanoseconds())/float64(n), "cpu-ns/record")
}

type discard struct{}

func (discard) Publish(*batch.Batch) {}

// TestDetail: an agent that passes its limit is kept as flows, the others as
// packets; nothing is missing, and it is said.
func TestDetail(t *testing.T) {
	k := newKeeper(t)
	rules := downsample.DefaultRules()
	for _, rule := range []string{"h1:packets=1000", "h2:packets=0,flows=0"} {
		if err := rules.Set(rule); err != nil {
			t.Fatal(err)
		}
	}
	var view *View
	ready := make(chan struct{})
	r := startRun(t, 3, "", func(cfg *Config) {
		cfg.Batches, cfg.Detail = k, &rules
		cfg.View = func(ctx context.Context, v *View) error {
			view = v
			close(ready)
			<-ctx.Done()
			return nil
		}
	})
	const n = 3000
	for a := range 3 {
		conn := r.accept(t, a)
		var data []byte
		for i := range n {
			rec := udp(uint16(i%50), 0, 100, 0)
			rec.Time += int64(i)
			data, _ = wire.AppendBinary(data, &rec)
		}
		if _, err := conn.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 * n {
		if _, err := r.stdout.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	const line = "one-second flows are kept instead of packets: more than 1000 records/s (-detail packets)"
	for text := range r.said {
		if strings.Contains(text, "h1 (") && strings.HasSuffix(text, line) {
			break
		}
	}
	<-ready
	agents := view.Agents()
	for i, want := range []Detail{{}, {Level: batch.Flows, Limit: "packets", Why: "more than 1000 records/s", Changes: 1}, {Level: batch.Top, Limit: "rule", Why: "by rule"}} {
		got := *agents[i].Detail
		if got.Since.IsZero() != (want.Changes == 0) {
			t.Errorf("h%d: since %v", i, got.Since)
		}
		got.Since, got.Records = want.Since, 0
		if got != want {
			t.Errorf("h%d: %+v, want %+v", i, got, want)
		}
	}
	r.cancel()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	for label, records := range map[string]int{"h0": n, "h1": 1000 + 50, "h2": 20 + 1} {
		if s := k.by[label]; s.packets != n || s.bytes != 100*n || len(s.records) != records {
			t.Errorf("%s: %d packets, %d bytes in %d records, want %d, %d in %d", label, s.packets, s.bytes, len(s.records), n, 100*n, records)
		}
	}
	for _, text := range []string{"h1 (", "; one-second flows are kept: more than 1000 records/s", "; the top flows of ten seconds are kept: by rule", "to be kept: 4071 records in ", ", 1 change of detail; 0 records lost before"} {
		if !strings.Contains(r.stderr, text) {
			t.Errorf("stderr lacks %q:\n%s", text, r.stderr)
		}
	}
	if strings.Count(r.stderr, line) != 1 {
		t.Errorf("not said once:\n%s", r.stderr)
	}
}

// encode makes bytes of batches, as a bus does.
type encode struct {
	encoder batch.Encoder
	buf     []byte
}

func (e *encode) Publish(b *batch.Batch) { e.buf, _ = e.encoder.Append(e.buf[:0], b) }
