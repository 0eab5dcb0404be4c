package history_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// childDir names the directory that this program, run again, writes to.
const childDir = "PCAPPER_TEST_HISTORY"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		var first uint64
		fmt.Sscan(os.Getenv(childDir+"_FIRST"), &first)
		fmt.Fprintln(os.Stderr, write(dir, first))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const segmentRecords = 100

// segmentBatch is the n-th segment's: its MGEN flow is n.
func segmentBatch(n uint64) *batch.Batch {
	b := &batch.Batch{Agent: fmt.Sprintf("n%d", n%4), Boot: 1, First: n * segmentRecords}
	for i := range segmentRecords {
		b.Records = append(b.Records, wire.Record{Time: start + int64(n)*1e9 + int64(i), Length: uint32(i),
			Flags: wire.MGEN | wire.MGENHeader, FlowID: uint32(n), MGENSeq: uint32(i), Proto: wire.ProtoUDP})
	}
	return b
}

// write makes segments, compacts and summarizes, until it is killed. It tells what is done.
func write(dir string, n uint64) error {
	history.SummarizeFrom(segmentRecords)
	s, err := history.Open(dir, history.Config{})
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		for {
			if err := s.Maintain(context.Background()); err != nil {
				failed <- err
				return
			}
		}
	}()
	for ; ; n++ {
		id := fmt.Sprintf("s-%d", n)
		g, err := s.NewSegment(id)
		if err == nil {
			err = g.Add(segmentBatch(n))
		}
		if err == nil {
			err = g.Seal()
		}
		if err != nil {
			return err
		}
		fmt.Printf("sealed %d\n", n)
		if err := s.Commit(id); err != nil {
			return err
		}
		fmt.Printf("committed %d\n", n)
		select {
		case err := <-failed:
			return err
		default:
		}
	}
}

// TestKilled kills a process that writes, compacts and summarizes, again and again, and counts
// each time what it said that it had sealed and committed, and what summaries tell of it.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	summed := 0
	rnd := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	sealed, committed := make(map[uint64]bool), make(map[uint64]bool)
	var next uint64
	// A slow machine does less before it is killed, and is killed more often.
	for round := 0; round < 15 || len(committed) < 50 && round < 300; round++ {
		killed(t, dir, next, time.Duration(30+rnd.IntN(250))*time.Millisecond, sealed, committed)
		// Queries need no Open.
		have := countSegments(t, dir)
		for n := range committed {
			if have[n] != segmentRecords {
				t.Fatalf("segment %d was committed, and has %d records", n, have[n])
			}
		}
		s, err := history.Open(dir, history.Config{Logf: t.Logf})
		if err != nil {
			t.Fatal(err)
		}
		if st := s.Status(); st.Damaged != nil {
			t.Errorf("damaged: %v", st.Damaged)
		}
		for _, id := range s.Pending() {
			if err := s.Commit(id); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		have = countSegments(t, dir)
		for n := range sealed {
			if have[n] != segmentRecords {
				t.Fatalf("segment %d was sealed, and has %d records", n, have[n])
			}
		}
		for n, records := range have {
			if records != segmentRecords {
				t.Fatalf("segment %d has %d records", n, records)
			}
			next = max(next, n+1)
		}
		list, stats := sums(t, dir, &history.Query{}, "mgen_flow")
		for _, sum := range list {
			if sum.Records != segmentRecords {
				t.Fatalf("got sums of %d records of segment %d, want %d", sum.Records, sum.MGENFlow, segmentRecords)
			}
		}
		if len(list) != len(have) {
			t.Fatalf("got sums of %d segments, want %d", len(list), len(have))
		}
		summed = max(summed, stats.Summed)
	}
	if summed == 0 {
		t.Error("no query used a summary")
	}
	if len(committed) < 50 {
		t.Errorf("only %d segments in all: too few to tell", len(committed))
	}
	for _, f := range files(t, dir) {
		if strings.HasPrefix(f, "tmp/") || strings.HasSuffix(f, ".replaces") {
			t.Errorf("%s is left", f)
		}
	}
}

// killed runs a child that begins with segment first, and kills it after a while.
func killed(t *testing.T, dir string, first uint64, after time.Duration, sealed, committed map[uint64]bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("%s_FIRST=%d", childDir, first))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var once sync.Once
	for lines.Scan() {
		once.Do(func() { time.AfterFunc(after, func() { cmd.Process.Kill() }) })
		var what string
		var n uint64
		if got, _ := fmt.Sscan(lines.Text(), &what, &n); got == 2 {
			sealed[n] = true
			committed[n] = committed[n] || what == "committed"
		}
	}
	err = cmd.Wait()
	for n, done := range committed {
		if !done {
			delete(committed, n)
		}
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
		t.Fatalf("ended by itself: %v: %s", err, said.Bytes())
	}
}

// countSegments is how many different records each segment has; none is there
// twice.
func countSegments(t *testing.T, dir string) map[uint64]int {
	t.Helper()
	have := make(map[uint64]int)
	seen := make(map[[2]uint32]bool)
	rows, _ := read(t, dir, &history.Query{})
	for i := range rows {
		r := &rows[i].Record
		if key := [2]uint32{r.FlowID, r.MGENSeq}; seen[key] {
			t.Fatalf("record %d of segment %d is there twice", r.MGENSeq, r.FlowID)
		} else {
			seen[key] = true
		}
		have[uint64(r.FlowID)]++
	}
	return have
}

// TestReadersDuringCompaction: whoever asks meanwhile has each record once.
func TestReadersDuringCompaction(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for n := uint64(0); n < 120; n++ {
			commit(t, s, fmt.Sprintf("s-%d", n), segmentBatch(n))
		}
		close(stop)
	})
	done.Go(func() {
		for {
			if err := s.Maintain(context.Background()); err != nil {
				t.Error(err)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	last := 0
	for running := true; running; {
		select {
		case <-stop:
			running = false
		default:
		}
		have := countSegments(t, dir)
		for n := range uint64(len(have)) { // committed in order
			if have[n] != segmentRecords {
				t.Fatalf("of %d segments, the %d-th has %d records", len(have), n, have[n])
			}
		}
		if len(have) < last {
			t.Fatalf("%d segments, after there were %d", len(have), last)
		}
		last = len(have)
	}
	done.Wait()
	if s.Status().Compacted == 0 || len(countSegments(t, dir)) != 120 {
		t.Errorf("%+v, %d segments", s.Status(), len(countSegments(t, dir)))
	}
}

// onlyFile is the one file that a store has below dir.
func onlyFile(t testing.TB, dir string) string {
	t.Helper()
	list := files(t, dir)
	if len(list) != 1 {
		t.Fatal(list)
	}
	return list[0]
}

// TestTornFiles: a file that ends anywhere is set aside, wherever it is.
func TestTornFiles(t *testing.T) {
	from := t.TempDir()
	s := open(t, from, history.Config{})
	commit(t, s, "x", segmentBatch(3))
	name := onlyFile(t, from)
	whole, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		t.Fatal(err)
	}
	var cuts []int
	for n := 0; n < len(whole); n += 1 + len(whole)/150 {
		cuts = append(cuts, n)
	}
	for at := range whole { // behind what looks like an end
		if bytes.HasSuffix(whole[:at], []byte("PAR1")) {
			cuts = append(cuts, at)
		}
	}
	for n := range 10 {
		cuts = append(cuts, len(whole)-1-n, n)
	}
	dir := t.TempDir()
	for i, n := range cuts {
		where := []string{name, filepath.Join("pending", filepath.Base(name))}[i%2]
		path := filepath.Join(dir, where)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, whole[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := history.Open(dir, history.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Status().Damaged; !slices.Equal(got, []string{where}) || len(s.Pending()) != 0 {
			t.Errorf("cut at %d of %d: damaged %v, pending %v", n, len(whole), got, s.Pending())
		}
		if rows, _ := read(t, dir, &history.Query{}); len(rows) != 0 {
			t.Errorf("cut at %d: %d rows", n, len(rows))
		}
		s.Close()
	}
	if _, err := os.Stat(filepath.Join(dir, "damaged", filepath.Base(name))); err != nil {
		t.Error(err)
	}
}

// TestDamagedPages: rows of a damaged page are told to be missing, never wrong.
func TestDamagedPages(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	commit(t, s, "x", segmentBatch(3))
	path := filepath.Join(dir, onlyFile(t, dir))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := read(t, dir, &history.Query{})
	damaged := 0
	for at := 4; at < 700; at += 3 { // pages; metadata is at the end
		bad := slices.Clone(whole)
		bad[at] ^= 0x10
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		var rows []history.Row
		stats, err := history.Read(context.Background(), dir, &history.Query{}, func(r []history.Row) error {
			rows = append(rows, r...)
			return nil
		})
		switch {
		case err != nil:
			t.Fatal(err)
		case stats.Damaged != nil:
			damaged++
		case !slices.Equal(rows, want):
			t.Errorf("byte %d: %d other rows", at, len(rows))
		}
	}
	if damaged < 100 {
		t.Errorf("only %d were noticed", damaged)
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatalf("mounting a tmpfs, as root: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := open(t, dir, history.Config{})
	n := uint64(0)
	var failure error
	for ; failure == nil && n < 1000; n++ {
		g, err := s.NewSegment(fmt.Sprint(n))
		if err == nil {
			err = g.Add(makeBatch("n", n*1000, 1000))
		}
		if err == nil {
			err = g.Seal()
		}
		if err == nil {
			err = s.Commit(fmt.Sprint(n))
		}
		failure = err
	}
	n-- // it is not there
	if failure == nil || !strings.Contains(failure.Error(), "no room") || !strings.Contains(failure.Error(), dir) {
		t.Fatal(failure)
	}
	if rows, _ := read(t, dir, &history.Query{}); len(rows) != int(n)*1000 {
		t.Errorf("%d rows of %d segments", len(rows), n)
	}
	// What could not be sealed left nothing, and can be tried again.
	for _, f := range files(t, dir) {
		if strings.HasPrefix(f, "tmp/") || strings.HasPrefix(f, "pending/") {
			t.Errorf("%s is left", f)
		}
	}
	list := files(t, dir)
	for _, f := range list[:len(list)/2] {
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, s, fmt.Sprint(n), makeBatch("n", n*1000, 1000))
}

func TestRetention(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	for i := range 6 {
		commit(t, s, fmt.Sprint(i), makeBatch("n", uint64(i)*1000, 1000))
	}
	var size int64
	hours, err := fs.Glob(os.DirFS(dir), "2*/*")
	if err != nil || len(hours) == 0 {
		t.Fatal(hours, err)
	}
	old := filepath.Join(dir, "2001-02-03", "04")
	if err := os.MkdirAll(old, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, f := range files(t, dir) {
		info, err := os.Stat(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
		if i == 0 {
			if err := os.Rename(filepath.Join(dir, f), filepath.Join(old, filepath.Base(f))); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Close()
	s = open(t, dir, history.Config{Keep: history.Keep{Age: 24 * time.Hour, Size: size / 2}})
	if err := s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	rows, _ := read(t, dir, &history.Query{})
	st := s.Status()
	if st.RetiredRows+uint64(len(rows)) != 6000 || len(rows) < 2000 || len(rows) > 3000 || st.Size > size/2 {
		t.Errorf("%d rows are left, %+v", len(rows), st)
	}
	for i := range rows {
		if rows[i].Record.Time < start+3e9 {
			t.Fatal("the oldest are left")
		}
	}
	if _, err := os.Stat(filepath.Dir(old)); err == nil {
		t.Error("an empty day is left")
	}
}

func TestParseKeep(t *testing.T) {
	for text, want := range map[string]history.Keep{
		"7d,50GB": {Age: 7 * 24 * time.Hour, Size: 50e9},
		"36h":     {Age: 36 * time.Hour},
		"1TiB":    {Size: 1 << 40},
		"50G":     {Size: 50e9},
		"1d12h":   {Age: 36 * time.Hour},
	} {
		if got, err := history.ParseKeep(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "7", "d", "-7d", "7d,8d", "7d,50", "50GB,", "1.5d", "0d", "30m", "1000"} {
		if got, err := history.ParseKeep(text); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

// FuzzOpen: no garbage in a directory does anything but to be set aside or read.
func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	s := open(f, dir, history.Config{})
	commit(f, s, "x", segmentBatch(3))
	whole, err := os.ReadFile(filepath.Join(dir, onlyFile(f, dir)))
	if err != nil {
		f.Fatal(err)
	}
	name := filepath.Base(onlyFile(f, dir))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte("PAR1PAR1"))
	f.Add([]byte("PAR1\xff\xff\xff\x7fPAR1"))
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 200 { // metadata, too
		bad := slices.Clone(whole)
		for range 1 + rnd.IntN(3) {
			bad[rnd.IntN(len(bad))] = byte(rnd.Uint32())
		}
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "2026-11-25", "15", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := history.Open(dir, history.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		_, err = history.Read(context.Background(), dir, &history.Query{Hosts: []string{"n3"}, Ports: []history.Span{{Last: 9}}}, func([]history.Row) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
	})
}
