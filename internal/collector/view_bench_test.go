package collector

import (
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/transport/sink"
	"github.com/pcapper/pcapper/wire"
)

// In a second of the varied traffic variedHosts agents send variedRecords records
// of variedConversations conversations, drawn at random, of variedFlows flows;
// half of the packets are MGEN's.
const (
	variedHosts         = 8
	variedFlows         = 1000
	variedConversations = 1 << 14
	variedRecords       = 1 << 19
)

func variedFile() *File {
	file := &File{}
	for i := range uint32(variedFlows / 2) {
		file.Flows = append(file.Flows,
			Flow{ID: 2*i + 1, Kind: Port, First: 2000 + i, Last: 2000 + i},
			Flow{ID: 2*i + 2, Kind: MGEN, First: 1 + i, Last: 1 + i})
	}
	for i := range uint16(variedHosts) {
		file.Hosts = append(file.Hosts, Host{Label: string(rune('a' + i)), Name: "10.0.0.1", Port: 7000 + i})
	}
	return file
}

// variedStreams are the feeds of all agents, 28 bytes per record. All records
// are of one second; setTime moves them.
func variedStreams(tb testing.TB) [variedHosts][]byte {
	tb.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	conversations := make([]wire.Record, variedConversations)
	for i := range conversations {
		r, host := &conversations[i], i%variedHosts
		r.Proto, r.SrcPort, r.DstPort = wire.ProtoUDP, uint16(40000+rng.IntN(4)), uint16(2000+rng.IntN(600))
		r.SetSrc4([4]byte{10, 0, 0, byte(1 + host)})
		r.SetDst4([4]byte{10, 0, 0, byte(1 + (host+1+rng.IntN(variedHosts-1))%variedHosts)})
		if i/variedHosts%2 == 0 {
			id := 1 + rng.IntN(variedFlows/2)
			r.FlowID, r.Flags = uint32(id), wire.MGEN
			r.SrcPort, r.DstPort = 5000, uint16(6000+id%4)
		}
	}
	var streams [variedHosts][]byte
	for i := range variedRecords {
		host := i % variedHosts
		r := conversations[host+variedHosts*rng.IntN(variedConversations/variedHosts)]
		r.Time, r.Length = int64(i)*1e9/variedRecords, uint32(40+rng.IntN(1460))
		var ok bool
		if streams[host], ok = wire.AppendBinary(streams[host], &r); !ok {
			tb.Fatal("not expressible")
		}
	}
	return streams
}

// variedCollector has agents that are never dialled.
func variedCollector(tb testing.TB) *collector {
	tb.Helper()
	file := variedFile()
	c := &collector{file: file, hub: newHub(), say: newPrinter(io.Discard)}
	c.classes.Store(mustClassify(tb, file.Flows))
	for i := range file.Hosts {
		c.add(newAgent(c, uint32(i), &c.file.Hosts[i], certs.Files{}))
	}
	return c
}

// BenchmarkView is the whole way on one core from the bytes of 28-byte feeds
// into the buckets of seconds: decode, find the flows, publish, count; with a
// snapshot for each second.
func BenchmarkView(b *testing.B) {
	c := variedCollector(b)
	v, _ := newView(c, nil)
	streams := variedStreams(b)
	batch := make([]wire.Record, 256)
	second, n := int64(1_700_000_000), 0
	before := cpuTime()
	for b.Loop() {
		for at := 0; at < len(streams[0]); at += len(batch) * wire.Size {
			for host, stream := range streams {
				for i := range batch {
					_ = wire.DecodeBinary(stream[at+i*wire.Size:], &batch[i])
					batch[i].Time += second * 1e9
				}
				c.all()[host].take(batch)
				n += len(batch)
				for items := v.reader.Items(); len(items) > 0; items = v.reader.Items() {
					for i := range items {
						v.store.Add(items[i].Time, int(items[i].Host), &items[i].Record)
					}
					v.reader.Advance(len(items))
				}
			}
		}
		second++
		v.store.Tick(second * 1e9)
	}
	reportRates(b, float64(n), before, "records")
}

// cpuTime is what this process has used, so that a busy machine's figures mean
// something too.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func reportRates(b *testing.B, n float64, before time.Duration, what string) {
	b.ReportMetric(n/b.Elapsed().Seconds()/1e6, "M"+what+"/s")
	b.ReportMetric(n/(cpuTime()-before).Seconds()/1e6, "M"+what+"/cpu-s")
}

// BenchmarkStore is the last step of BenchmarkView alone.
func BenchmarkStore(b *testing.B) {
	c := variedCollector(b)
	v, _ := newView(c, nil)
	streams := variedStreams(b)
	records := make([]wire.Record, variedRecords)
	for i := range records {
		_ = wire.DecodeBinary(streams[i%variedHosts][i/variedHosts*wire.Size:], &records[i])
	}
	second, n := int64(1_700_000_000), 0
	before := cpuTime()
	for b.Loop() {
		for i := range records {
			r := records[i]
			r.Time += second * 1e9
			v.store.Add(r.Time, i%variedHosts, &r)
		}
		n += len(records)
		second++
		v.store.Tick(second * 1e9)
	}
	reportRates(b, float64(n), before, "records")
}

// BenchmarkVariedLines is the whole way on one core from the bytes of 28-byte
// feeds to grapher lines.
func BenchmarkVariedLines(b *testing.B) {
	c := variedCollector(b)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	w, err := newLineWriter(c, Config{Stdout: null})
	if err != nil {
		b.Fatal(err)
	}
	defer w.stdout.Close()
	var out countingWriter
	w.graph = sink.NewGrapher(&out)
	streams := variedStreams(b)
	batch := make([]wire.Record, 256)
	before := cpuTime()
	for b.Loop() {
		for at := 0; at < len(streams[0]); at += len(batch) * wire.Size {
			for host, stream := range streams {
				for i := range batch {
					_ = wire.DecodeBinary(stream[at+i*wire.Size:], &batch[i])
				}
				c.all()[host].take(batch)
				for items := w.reader.Items(); len(items) > 0; items = w.reader.Items() {
					for i := range items {
						_ = w.write(&items[i])
					}
					w.reader.Advance(len(items))
				}
			}
		}
	}
	reportRates(b, float64(out.lines), before, "lines")
}
