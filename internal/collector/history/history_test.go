package history_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// start is 2026-11-25T15:00:00Z.
const start = int64(1795618800e9)

// makeBatch is n records of a host, one a millisecond, that begin with number first.
func makeBatch(host string, first uint64, n int) *batch.Batch {
	rnd := rand.New(rand.NewPCG(uint64(len(host)), first))
	b := &batch.Batch{Agent: host, Boot: 0xb007, First: first, Level: batch.Packets}
	for i := range n {
		b.Records = append(b.Records, record(rnd, start+int64(first+uint64(i))*1e6))
	}
	return b
}

// record is a packet of a busy site: few hosts, some flows, most of them UDP.
func record(rnd *rand.Rand, at int64) wire.Record {
	r := wire.Record{Time: at + rnd.Int64N(1e6), SrcPort: uint16(32768 + rnd.IntN(200)), DstPort: uint16(5000 + rnd.IntN(20)),
		Length: uint32(40 + 4*rnd.IntN(360)), Proto: wire.ProtoUDP, Flags: wire.Outgoing}
	r.SetSrc4([4]byte{10, 0, 0, byte(rnd.IntN(100))})
	r.SetDst4([4]byte{10, 0, 1, byte(rnd.IntN(100))})
	switch rnd.IntN(8) {
	case 0:
		r.Flags |= wire.MGEN | wire.MGENHeader
		r.FlowID, r.MGENSeq, r.MGENTime = rnd.Uint32N(50), uint32(at/1e6), at/1e3
	case 1:
		r.Flags = wire.Incoming | wire.IPv6
		r.Src, r.Dst = [16]byte{0xfd, 15: byte(rnd.IntN(9))}, [16]byte{0xfd, 1, 15: byte(rnd.IntN(9))}
		r.Proto = wire.ProtoTCP
	case 2:
		r.Flags = wire.Incoming | wire.Super
		r.Packets = 2 + rnd.Uint32N(40)
	case 3:
		r.Flags |= wire.Relayed | wire.MGEN // a fragment of a message
		r.FlowID = 0
	}
	return r
}

func open(t testing.TB, dir string, cfg history.Config) *history.Store {
	t.Helper()
	s, err := history.Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// seal makes a segment of batches.
func seal(t testing.TB, s *history.Store, id string, batches ...*batch.Batch) {
	t.Helper()
	g, err := s.NewSegment(id)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range batches {
		if err := g.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Seal(); err != nil {
		t.Fatal(err)
	}
}

func commit(t testing.TB, s *history.Store, id string, batches ...*batch.Batch) {
	t.Helper()
	seal(t, s, id, batches...)
	if err := s.Commit(id); err != nil {
		t.Fatal(err)
	}
}

// files of a store, relative to dir, that are not its lock.
func files(t testing.TB, dir string) (list []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && path != "lock" {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestLifeOfASegment(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "records")
	s := open(t, dir, history.Config{})
	seal(t, s, "a-1", makeBatch("n1", 0, 10))
	seal(t, s, "a-2", makeBatch("n1", 10, 10))
	seal(t, s, "a-3", makeBatch("n1", 20, 10))
	if got := s.Pending(); !slices.Equal(got, []string{"a-1", "a-2", "a-3"}) {
		t.Error(got)
	}
	for range 2 { // twice is once
		if err := s.Commit("a-1"); err != nil {
			t.Error(err)
		}
		if err := s.Discard("a-3"); err != nil {
			t.Error(err)
		}
	}
	if err := s.Commit("a-3"); err == nil || !strings.Contains(err.Error(), "a-3") {
		t.Error("what was discarded was committed:", err)
	}
	s.Close()
	s = open(t, dir, history.Config{})
	if got := s.Pending(); !slices.Equal(got, []string{"a-2"}) {
		t.Error(got)
	}
	for _, id := range []string{"a-1", "a-2"} {
		if err := s.Commit(id); err != nil {
			t.Error(err)
		}
	}
	if got := files(t, dir); len(got) != 2 || len(s.Pending()) != 0 {
		t.Error(got, s.Pending())
	}
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	g, err := s.NewSegment("x")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Add(makeBatch("n", 0, 100)); err != nil {
		t.Fatal(err)
	}
	g.Abort()
	g.Abort()
	if err := g.Seal(); err == nil {
		t.Error("sealed what was given up")
	}
	if got := files(t, dir); len(got) != 0 {
		t.Error(got)
	}
	if _, err := s.NewSegment("../x"); err == nil {
		t.Error("a name that is a path")
	}
}

func TestOneWriter(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, history.Config{})
	if _, err := history.Open(dir, history.Config{}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Error(err)
	}
}

// cpu is the time that this process has had of processors.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkIngest(b *testing.B) {
	var batches []*batch.Batch
	for i := range 200 { // of 20 hosts
		batches = append(batches, makeBatch(fmt.Sprintf("node-%02d", i%20), uint64(i/20)*1300, 1300))
	}
	dir := b.TempDir()
	s := open(b, dir, history.Config{})
	rows := 0
	before := cpu()
	for n := 0; b.Loop(); n++ {
		commit(b, s, fmt.Sprint(n), batches...)
		rows += 200 * 1300
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(cpu()-before)/float64(rows), "cpu-ns/row")
	var size int64
	for _, f := range files(b, dir) {
		info, _ := os.Stat(filepath.Join(dir, f))
		size += info.Size()
	}
	b.ReportMetric(float64(size)/float64(rows), "B/row")
}
