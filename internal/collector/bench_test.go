package collector

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/transport/sink"
	"github.com/pcapper/pcapper/wire"
)

// benchCollector is a collector with one agent that is never dialled, and a
// line writer that writes to out.
func benchCollector(t testing.TB, out io.Writer) (*collector, *lineWriter) {
	t.Helper()
	file := &File{Flows: benchFlows(), Hosts: []Host{{Label: "h1", Name: "10.0.0.1", Port: 7073}}}
	c := &collector{file: file, hub: newHub(), say: newPrinter(io.Discard)}
	c.classes.Store(mustClassify(t, file.Flows))
	c.add(newAgent(c, 0, &c.file.Hosts[0], certs.Files{}))
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	w, err := newLineWriter(c, Config{Stdout: null})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.stdout.Close() })
	w.graph = sink.NewGrapher(out)
	return c, w
}

func benchStream(n int) []byte {
	records := benchRecords()
	var b []byte
	for i := range n {
		b, _ = wire.AppendBinary(b, &records[i%len(records)])
	}
	return b
}

// BenchmarkTake is what one core does with records that arrive: decode,
// classify, publish. Nobody reads.
func BenchmarkTake(b *testing.B) {
	c, w := benchCollector(b, io.Discard)
	w.reader.Close()
	stream, batch := benchStream(256), make([]wire.Record, 256)
	n := 0
	for b.Loop() {
		for i := range batch {
			_ = wire.DecodeBinary(stream[i*wire.Size:], &batch[i])
		}
		c.all()[0].take(batch)
		n += len(batch)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds()/1e6, "Mrecords/s")
}

// BenchmarkLines is the whole way on one core, from bytes to lines.
func BenchmarkLines(b *testing.B) {
	var out countingWriter
	c, w := benchCollector(b, &out)
	stream, batch := benchStream(256), make([]wire.Record, 256)
	for b.Loop() {
		for i := range batch {
			_ = wire.DecodeBinary(stream[i*wire.Size:], &batch[i])
		}
		c.all()[0].take(batch)
		for w.reader.Status().Pending > 0 {
			items := w.reader.Items()
			for i := range items {
				_ = w.write(&items[i])
			}
			w.reader.Advance(len(items))
		}
	}
	b.ReportMetric(float64(out.lines)/b.Elapsed().Seconds()/1e6, "Mlines/s")
}

type countingWriter struct{ lines int }

func (w *countingWriter) Write(b []byte) (int, error) {
	w.lines += bytes.Count(b, []byte{'\n'})
	return len(b), nil
}
