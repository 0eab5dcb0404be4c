package rollup

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/wire"
)

func labels(names ...string) (hosts []Host) {
	for _, name := range names {
		hosts = append(hosts, Host{Label: name, Address: name + ":2000"})
	}
	return hosts
}

func rowNames(names ...string) (rows []Row) {
	for _, name := range names {
		rows = append(rows, Row{Name: name, Detail: "port of " + name})
	}
	return rows
}

var testArchive = ArchiveConfig{Hosts: labels("a", "b", "c", "d", "e"), Rows: rowNames("1", "2", "3", "X")}

// archived opens an archive and a store that has it; close ends both.
func openArchived(t testing.TB, cfg ArchiveConfig) (store *Store, end func()) {
	t.Helper()
	a, err := OpenArchive(cfg)
	if err != nil {
		t.Fatal(err)
	}
	go a.Run()
	s := New(Config{Hosts: a.Hosts(), Rows: len(a.Rows()) - 1, Classify: testRows, Archive: a})
	ended := false
	end = func() {
		if !ended {
			s.Close()
		}
		ended = true
	}
	t.Cleanup(end)
	return s, end
}

// settle waits until all that can be written is, and shows it.
func settle(t testing.TB, s *Store, now int64) *Snapshot {
	t.Helper()
	s.Tick(now)
	jobs := s.cfg.Archive.jobs
	for range 2 { // the second is taken when all before the first is done
		jobs <- job{}
	}
	for deadline := time.Now().Add(20 * time.Second); len(jobs) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the archive does not get on")
		}
	}
	s.Tick(now)
	return s.Snapshot()
}

// answers are all that a snapshot says of a window.
func answers(s *Snapshot, w Window) map[string]any {
	m := map[string]any{
		"overview": s.Overview(w), "hosts": s.HostViews(w), "cells": s.Cells(w), "flow": s.Flow(1, w),
		"matrix": s.Matrix(w, 50), "groups": s.Groups(w), "talkers": s.Talkers(w, 50), "mgen": s.MGEN(w),
	}
	for i, f := range s.MGEN(w).Flows {
		m[fmt.Sprint("series ", i)] = s.MGENSeries(f.ID, f.Tuple, w)
	}
	return m
}

func sameAnswers(t *testing.T, what string, got, want map[string]any) {
	t.Helper()
	for name := range want {
		if !reflect.DeepEqual(got[name], want[name]) {
			g, w := jsonLike(got[name]), jsonLike(want[name])
			at := 0
			for at < min(len(g), len(w)) && g[at] == w[at] {
				at++
			}
			at = max(0, at-200)
			t.Errorf("%s, %s: ... %.400s\nwant ... %.400s", what, name, g[at:], w[at:])
		}
	}
}

func jsonLike(v any) string { return strings.ReplaceAll(fmt.Sprintf("%+v", v), "\n", " ") }

// arrivals are what scene.run would feed a store with.
func arrivals(seed uint64, hosts, seconds, perSecond int) (list []arrival) {
	sc := &scene{rng: rand.New(rand.NewPCG(seed, 1)), seq: make(map[uint32]uint32)}
	for sec := range seconds {
		for i := range perSecond {
			t := (base+int64(sec))*1e9 + (int64(i)*1e9+sc.rng.Int64N(1e9))/int64(perSecond)
			list = append(list, sc.packet(t, hosts)...)
		}
	}
	slices.SortStableFunc(list, func(a, b arrival) int { return int(a.at - b.at) })
	return list
}

// An archive that was closed and opened again answers as a store that has it all
// in memory.
func TestArchiveAnswersAsMemory(t *testing.T) {
	const seconds = 200
	list := arrivals(7, 3, seconds, 60) // no more conversations than a frame keeps
	cfg := testArchive
	cfg.Dir = t.TempDir()
	cfg.Hosts = cfg.Hosts[:3]
	memory := New(testConfig(3))
	disk, end := openArchived(t, cfg)
	now := int64(0)
	for _, r := range list {
		memory.Add(r.at, r.host, &r.Record)
		disk.Add(r.at, r.host, &r.Record)
		now = r.at
	}
	now += 30e9
	memory.Tick(now)
	windows := []Window{
		{From: base - 10, To: base + seconds + 30, Step: 1}, {From: base + 20, To: base + 100, Step: 10},
		{From: base - 20, To: base + seconds + 40, Step: 60}, {From: base + 50, To: base + 51, Step: 1}, {From: base, To: base + seconds},
	}
	live := settle(t, disk, now)
	for _, w := range windows {
		sameAnswers(t, fmt.Sprintf("while it runs, %v", w), answers(live, w), answers(memory.Snapshot(), w))
	}
	// That no frame is left in memory must not make a difference.
	for i := range disk.tiers {
		disk.tiers[i].frames = nil
	}
	disk.Tick(now)
	for _, w := range windows {
		sameAnswers(t, fmt.Sprintf("all from disk, %v", w), answers(disk.Snapshot(), w), answers(memory.Snapshot(), w))
	}
	end()
	again, _ := openArchived(t, cfg)
	again.Tick(now)
	snap := again.Snapshot()
	if snap.Oldest == 0 || snap.Oldest > base {
		t.Errorf("oldest: %d", snap.Oldest)
	}
	for _, w := range windows {
		want := answers(memory.Snapshot(), w)
		got := answers(snap, w)
		// Whose addresses these are has been learned from what they sent.
		sameAnswers(t, fmt.Sprintf("after a restart, %v", w), got, want)
	}
	if snap.Archive.Damaged != 0 || snap.Archive.Lost != 0 || snap.Archive.Cut {
		t.Errorf("status: %+v", snap.Archive)
	}
}

// What was counted by two runs adds up, also in the seconds and spans that both
// have seen.
func TestArchiveRestarts(t *testing.T) {
	const seconds = 150
	list := arrivals(8, 5, seconds, 40)
	whole := New(testConfig(5))
	cfg := testArchive
	cfg.Dir = t.TempDir()
	disk, end := openArchived(t, cfg)
	var now int64
	for i, r := range list {
		if i > 0 && i%(len(list)/4) == 0 {
			end()
			disk, end = openArchived(t, cfg)
		}
		whole.Add(r.at, r.host, &r.Record)
		disk.Add(r.at, r.host, &r.Record)
		now = r.at
	}
	end()
	now += 30e9
	whole.Tick(now)
	again, _ := openArchived(t, cfg)
	again.Tick(now)
	for _, step := range []int64{1, 10, 60} {
		w := Window{From: base - 20, To: base + seconds + 40, Step: step}
		// Packets that are late or from the future go into the seconds that are open.
		got, want := again.Snapshot().Cells(w), whole.Snapshot().Cells(w)
		if len(got.Cells) != len(want.Cells) {
			t.Fatalf("step %d: %d cells, want %d", step, len(got.Cells), len(want.Cells))
		}
		for i := range want.Cells {
			if got.Cells[i].CellCounts != want.Cells[i].CellCounts {
				t.Errorf("step %d: %+v, want %+v", step, got.Cells[i].CellCounts, want.Cells[i].CellCounts)
			}
		}
	}
}

// traffic adds n packets of a second from host to port.
func traffic(s *Store, sec int64, host, n int, port uint16) {
	for i := range n {
		s.Add(sec*1e9+int64(i), host, &wire.Record{
			Time: sec*1e9 + int64(i), Src: hostAddr(host), Dst: hostAddr(host + 1), Length: 100,
			Proto: wire.ProtoUDP, SrcPort: 4000, DstPort: port, Flags: wire.Outgoing,
		})
	}
}

func packets(n int64) int { return int(n%7) + 1 }

// Coarser and coarser spans are made of the ones before, also over restarts and
// times when nothing was written, which are gaps.
func TestArchiveLongSpans(t *testing.T) {
	cfg := testArchive
	cfg.Dir = t.TempDir()
	start := floorTo(base, day) - 12*hour
	sum := uint64(0)
	var now int64
	for part := range int64(4) {
		s, end := openArchived(t, cfg)
		for sec := start + part*14*hour; sec < start+part*14*hour+12*hour; sec += 40 {
			for len(s.cfg.Archive.jobs) > queue/2 {
				time.Sleep(time.Millisecond)
			}
			traffic(s, sec, 0, packets(sec), 5001)
			sum += uint64(packets(sec))
			now = sec * 1e9
			if sec%hour == 0 {
				s.Tick(now) // as the clock would
			}
		}
		s.Tick(now)
		end()
	}
	s, _ := openArchived(t, cfg)
	s.Tick(now + 100e9)
	snap := s.Snapshot()
	for _, step := range []int64{0, 60, 600, 3600, 6 * hour, day} {
		w := Window{From: start, To: now/1e9 + 1, Step: step}
		o := snap.Overview(w)
		if o.Total.Packets != sum || step != 0 && o.Window.Step != step {
			t.Errorf("step %d: %d packets, want %d; %+v", step, o.Total.Packets, sum, o.Window)
		}
		if m := snap.Matrix(w, 10); len(m.Cells) != 1 || m.Cells[0].Once.Packets != sum || m.Cells[0].SrcHost != 0 {
			t.Errorf("step %d: matrix %+v", step, m)
		}
	}
	gaps := snap.Gaps(Window{From: start - 5*day, To: now / 1e9})
	if len(gaps) != 3 || snap.Oldest != start { // and not when the day began in which that is
		t.Fatalf("gaps: %v", gaps)
	}
	for i, g := range gaps {
		if length := g.To - g.From; length < 2*hour-10 || length > 2*hour+100 {
			t.Errorf("gap %d: %d s, want two hours", i, length)
		}
	}
	// The finest steps are given up first.
	if fit := snap.Fit(Window{From: start, To: start + hour, Step: 1}); fit.Step < 10 {
		t.Errorf("two days ago there still are steps of %d s", fit.Step)
	}
}

// A host or flow that is no longer configured keeps its name and numbers; one that
// moved within the configuration is still the same.
func TestArchiveAfterNewConfiguration(t *testing.T) {
	dir := t.TempDir()
	s, end := openArchived(t, ArchiveConfig{Dir: dir, Hosts: labels("old", "moved", "stays"), Rows: rowNames("5", "6", "X")})
	for sec := base; sec < base+70; sec++ {
		traffic(s, sec, 0, 3, 5000)  // old, flow 5
		traffic(s, sec, 1, 4, 5001)  // moved, flow 6
		traffic(s, sec, 2, 5, 12345) // stays, no flow; row 2 is X here
	}
	end()
	moved := labels("stays", "new", "moved")
	moved[2].Address = "elsewhere:1"
	cfg := ArchiveConfig{Dir: dir, Hosts: moved, Rows: rowNames("6", "7", "X")}
	for range 2 { // the list of names, and without it
		s, end = openArchived(t, cfg)
		a := s.cfg.Archive
		if h := a.Hosts(); len(h) != 4 || h[3].Label != "old" || !h[3].Former || h[2].Former {
			t.Fatalf("hosts: %+v", h)
		}
		if r := a.Rows(); len(r) != 4 || r[2].Name != "5" || !r[2].Former || r[3].Name != "X" || r[2].Detail != "port of 5" {
			t.Fatalf("rows: %+v", r)
		}
		traffic(s, base+80, 0, 1, 1)
		s.Tick((base + 81) * 1e9)
		o := s.Snapshot().Overview(Window{From: base, To: base + 70, Step: 10})
		got := make(map[[2]int]uint64)
		for _, h := range o.Hosts {
			for _, f := range h.Flows {
				got[[2]int{h.Host, f.Row}] += f.Primary.Packets
			}
		}
		want := map[[2]int]uint64{{3, 2}: 210, {2, 0}: 280, {0, 3}: 350}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("packets by host and flow: %v, want %v", got, want)
		}
		m := s.Snapshot().Matrix(Window{From: base, To: base + 70, Step: 10}, 10)
		for _, c := range m.Cells {
			if c.Src == netip.AddrFrom16(hostAddr(0)).Unmap() && c.SrcHost != 3 && c.SrcHost != 0 {
				t.Errorf("matrix: %+v", c)
			}
		}
		end()
		if err := os.Remove(filepath.Join(dir, namesFile)); err != nil {
			t.Fatal(err)
		}
	}
}

// Wherever the end of a file is cut off, what is before is there, and it goes on.
func TestArchiveTorn(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	cfg := testArchive
	cfg.Dir = t.TempDir()
	s, end := openArchived(t, cfg)
	for sec := base; sec < base+30; sec++ {
		traffic(s, sec, int(sec%3), packets(sec), uint16(5000+sec%4))
	}
	end()
	names, _ := filepath.Glob(filepath.Join(cfg.Dir, "1s", "*.roll"))
	whole, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	for cut := 0; cut < len(whole); cut += 13 {
		if err := os.WriteFile(names[0], whole[:cut], 0o640); err != nil {
			t.Fatal(err)
		}
		s, end := openArchived(t, cfg)
		last := s.cfg.Archive.LastSecond()
		s.Tick((base + 100) * 1e9)
		for sec := base; sec <= last; sec++ {
			if n := s.Snapshot().Overview(Window{sec, sec + 1, 1}).Total.Packets; n != uint64(packets(sec)) {
				t.Fatalf("cut at %d of %d: second %d has %d packets, want %d", cut, len(whole), sec-base, n, packets(sec))
			}
		}
		// Sums that were written are not made smaller by what is gone.
		if n := s.Snapshot().Overview(Window{base, base + 60, 60}).Total.Packets; n < 100 {
			t.Fatalf("cut at %d: the minute has %d packets", cut, n)
		}
		traffic(s, base+120, 0, 5, 5000)
		end()
		s, end = openArchived(t, cfg)
		s.Tick((base + 130) * 1e9)
		if n := s.Snapshot().Overview(Window{base + 120, base + 121, 1}).Total.Packets; n != 5 {
			t.Fatalf("cut at %d: what came after has %d packets, want 5", cut, n)
		}
		end()
		more, _ := filepath.Glob(filepath.Join(cfg.Dir, "*s", "*"))
		for _, name := range more {
			if strings.Contains(name, "/1s/") && name != names[0] {
				os.Remove(name)
			}
		}
	}
}

// A process that is killed has lost the seconds that were open, and no others.
func TestArchiveKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	if dir := os.Getenv("ROLLUP_ARCHIVE"); dir != "" {
		cfg := testArchive
		cfg.Dir = dir
		s, _ := openArchived(t, cfg)
		from := max(base, s.cfg.Archive.LastSecond()+1)
		for sec := from; ; sec++ {
			for len(s.cfg.Archive.jobs) > 20 {
				time.Sleep(time.Millisecond)
			}
			traffic(s, sec, int(sec%3), packets(sec), 5001)
			s.Tick(sec * 1e9)
		}
	}
	cfg := testArchive
	cfg.Dir = t.TempDir()
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 3))
	before := int64(0)
	for round := range 6 {
		child := exec.Command(os.Args[0], "-test.run=^TestArchiveKilled$")
		child.Env = append(os.Environ(), "ROLLUP_ARCHIVE="+cfg.Dir)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(100+rng.IntN(300)) * time.Millisecond)
		child.Process.Kill()
		child.Wait()

		s, end := openArchived(t, cfg)
		a := s.cfg.Archive
		last := a.LastSecond()
		if last <= before {
			end()
			continue // killed before there was anything
		}
		before = last
		if len(a.Missing(0)) == 0 {
			t.Errorf("round %d: not said to have been cut off", round)
		}
		s.Tick((last + 1000) * 1e9)
		sum := uint64(0)
		for sec := base; sec <= last; sec++ {
			sum += uint64(packets(sec))
		}
		snap := s.Snapshot()
		for _, step := range []int64{10, 60, 600} {
			w := Window{From: floorTo(base, 600), To: floorTo(last, 600) + 600, Step: step}
			if n := snap.Overview(w).Total.Packets; n != sum {
				t.Errorf("round %d, step %d: %d packets up to the last second %d, want %d", round, step, n, last-base, sum)
			}
		}
		end()
	}
}

// What a killed run has not kept comes back from its records.
func TestArchiveRefill(t *testing.T) {
	cfg := testArchive
	cfg.Dir = t.TempDir()
	a, err := OpenArchive(cfg)
	if err != nil {
		t.Fatal(err)
	}
	go a.Run()
	s := New(Config{Hosts: a.Hosts(), Rows: 3, Classify: testRows, Archive: a})
	var all []wire.Record
	for sec := base; sec < base+100; sec++ {
		traffic(s, sec, 0, 2, 5001)
		for i := range 2 {
			all = append(all, wire.Record{Time: sec*1e9 + int64(i), Src: hostAddr(0), Dst: hostAddr(1), Length: 100, Proto: wire.ProtoUDP, SrcPort: 4000, DstPort: 5001, Flags: wire.Outgoing})
		}
	}
	settle(t, s, (base+99)*1e9)
	cfg.Dir = filepath.Join(t.TempDir(), "crashed") // what a crash would leave
	if err := os.CopyFS(cfg.Dir, os.DirFS(a.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s, _ = openArchived(t, cfg)
	last := s.cfg.Archive.LastSecond()
	if last >= base+99 {
		t.Fatalf("nothing is missing: %d", last-base)
	}
	holes := s.cfg.Archive.Missing(0)
	if len(holes) != 1 {
		t.Fatalf("missing: %+v, want one hole", holes)
	}
	from, to := holes[0].From, holes[0].To
	if from != last+1 || to < base+99 || to > base+105 {
		t.Errorf("missing: %d to %d; the last second is %d", from-base, to-base, last-base)
	}
	traffic(s, base+500, 0, 2, 5001) // it goes on meanwhile
	s.Tick((base + 510) * 1e9)
	refill := s.cfg
	s.cfg.Archive.Refill(refill, holes[0], base+100, func(yield func(int, *wire.Record) bool) {
		for i := len(all) - 1; i >= 0; i-- {
			if all[i].Time >= from*1e9 && !yield(0, &all[i]) {
				return
			}
		}
	})
	snap := settle(t, s, (base+530)*1e9)
	for _, step := range []int64{1, 10, 60} {
		if n := snap.Overview(Window{floorTo(base, 60), floorTo(base+160, 60), step}).Total.Packets; n != 200 {
			t.Errorf("step %d: %d packets, want 200", step, n)
		}
	}
	if n := snap.Overview(Window{floorTo(base, 600), floorTo(base+160, 600) + 600, 600}).Total.Packets; n != 200 {
		t.Errorf("step 600: %d packets, want 200", n)
	}
	if gaps := snap.Gaps(Window{base, base + 530, 1}); len(gaps) != 1 || gaps[0] != (Run{base + 100, base + 500}) {
		t.Errorf("gaps: %v; base %d", gaps, base)
	}
}

// A full disk costs what could not be written, which is counted; then it goes on.
func TestArchiveDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=200k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	cfg := testArchive
	cfg.Dir = dir
	s, end := openArchived(t, cfg)
	sec := base
	until := func(what string, ok func(*ArchiveStatus) bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; sec++ {
			traffic(s, sec, int(sec%3), 50, uint16(sec))
			s.Tick(sec * 1e9)
			if ok(s.Snapshot().Archive) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", what, s.Snapshot().Archive)
			}
			time.Sleep(time.Millisecond)
		}
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 120<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	until("full", func(st *ArchiveStatus) bool { return st.Full && st.Lost > 0 && st.Err != "" })
	for at := sec + 1300; sec < at; sec++ { // it is full for so long
		traffic(s, sec, int(sec%3), 50, uint16(sec))
		if sec%20 == 0 {
			s.Tick(sec * 1e9)
			time.Sleep(time.Millisecond)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	until("not full any more", func(st *ArchiveStatus) bool { return !st.Full && st.Err == "" })
	full := sec
	until("written to again", func(*ArchiveStatus) bool { return sec > full+30 })
	end()
	s, _ = openArchived(t, cfg)
	s.Tick((sec + 100) * 1e9)
	if n := s.Snapshot().Overview(Window{floorTo(full+10, 10), floorTo(full+20, 10), 10}).Total.Packets; n != 500 {
		t.Errorf("after the disk was full: %d packets in 10 s, want 500", n)
	}
	// Sums that could not be written are written later.
	w := Window{From: floorTo(base, 600), To: floorTo(sec, 600) + 600, Step: 60}
	minutes := s.Snapshot().Overview(w).Total
	w.Step = 600
	if long := s.Snapshot().Overview(w).Total; long != minutes {
		t.Errorf("in steps of 600 s %v, of 60 s %v", long, minutes)
	}
	if st := s.Snapshot().Archive; st.Damaged != 0 {
		t.Errorf("status: %+v", st)
	}
}

// The oldest goes when there is too much, the finest first; a snapshot that still
// knows a file can read it.
func TestArchiveRetention(t *testing.T) {
	cfg := testArchive
	cfg.Dir = t.TempDir()
	cfg.Size = 300 << 10
	s, _ := openArchived(t, cfg)
	feed := func(from, to int64) {
		for sec := from; sec < to; sec++ {
			for len(s.cfg.Archive.jobs) > 20 {
				time.Sleep(time.Millisecond)
			}
			traffic(s, sec, int(sec%3), 4, uint16(4000+sec%500))
			if sec%100 == 0 {
				s.Tick(sec * 1e9)
			}
		}
	}
	feed(base, base+700)
	old := settle(t, s, (base+700)*1e9)
	w := Window{base, base + 600, 1}
	before := answers(old, w)
	feed(base+700, base+8000)
	now := settle(t, s, (base+8000)*1e9)
	if st := now.Archive; st.Size > cfg.Size || st.Size < cfg.Size/3 {
		t.Errorf("size %d, want at most %d", st.Size, cfg.Size)
	}
	if now.Fit(w).Step == 1 {
		t.Error("the oldest seconds are still there")
	}
	runtime.GC()
	sameAnswers(t, "an old snapshot", answers(old, w), before)
	runtime.KeepAlive(old)
	size := func() (n int64) {
		filepath.Walk(cfg.Dir, func(path string, info os.FileInfo, err error) error {
			if err == nil && strings.HasSuffix(path, ".roll") {
				n += info.Size()
			}
			return nil
		})
		return n
	}
	old = nil
	for deadline := time.Now().Add(20 * time.Second); size() > cfg.Size; time.Sleep(5 * time.Millisecond) {
		runtime.GC()
		if time.Now().After(deadline) {
			t.Fatalf("files have %d bytes, want at most %d", size(), cfg.Size)
		}
	}
}

// Any bytes are refused or read as far as they go.
func FuzzVolume(f *testing.F) {
	dir := f.TempDir()
	cfg := testArchive
	cfg.Dir = dir
	s, end := openArchived(f, cfg)
	traffic(s, base, 0, 3, 5001)
	end()
	names, _ := filepath.Glob(filepath.Join(dir, "1s", "*"))
	good, err := os.ReadFile(names[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, 0)
	f.Add(good, len(good)/2)
	f.Add([]byte(volumeMagic), 0)
	f.Fuzz(func(t *testing.T, data []byte, flip int) {
		data = slices.Clone(data)
		if len(data) > 0 {
			data[uint(flip)%uint(len(data))] ^= 0x10
		}
		n, _, err := openNames(t.TempDir(), cfg.Hosts, cfg.Rows)
		if err != nil {
			t.Fatal(err)
		}
		defer n.file.Close()
		c, err := n.parse(data)
		if err != nil {
			return
		}
		if c.size > int64(len(data)) {
			t.Fatal("more than there is: " + strconv.FormatInt(c.size, 10))
		}
	})
}

// Two runs that were killed one soon after the other, and the second before it had
// counted again what the first one left, have both lost their ends. Both come back,
// each once.
func TestArchiveRefillsAllHoles(t *testing.T) {
	cfg := testArchive
	cfg.Dir = t.TempDir()
	var all []int64 // seconds with two packets each
	for round := range int64(2) {
		s, _ := openArchived(t, cfg)
		start := base + round*25
		for sec := start; sec < start+20; sec++ {
			traffic(s, sec, 0, 2, 5001)
			s.Tick(sec*1e9 + 35e7)
			all = append(all, sec)
		}
		settle(t, s, (start+19)*1e9+5e8)
		crashed := filepath.Join(t.TempDir(), "crashed")
		s.cfg.Archive.writer.beat(false)
		if err := os.CopyFS(crashed, os.DirFS(cfg.Dir)); err != nil {
			t.Fatal(err)
		}
		cfg.Dir = crashed
	}
	for again := range 2 { // the second time there is nothing left to do
		s, end := openArchived(t, cfg)
		holes := s.cfg.Archive.Missing(0)
		if want := 2 * (1 - again); len(holes) != want {
			t.Fatalf("start %d: %d holes, want %d: %+v", again, len(holes), want, holes)
		}
		for _, hole := range holes {
			s.cfg.Archive.Refill(s.cfg, hole, hole.To, func(yield func(int, *wire.Record) bool) {
				for _, sec := range all {
					for i := range int64(2) {
						r := wire.Record{Time: sec*1e9 + i, Src: hostAddr(0), Dst: hostAddr(1), Length: 100, Proto: wire.ProtoUDP, SrcPort: 4000, DstPort: 5001, Flags: wire.Outgoing}
						if sec >= hole.From && sec < hole.To && !yield(0, &r) {
							return
						}
					}
				}
			})
		}
		snap := settle(t, s, (base+100)*1e9)
		for i, c := range snap.Overview(Window{base, base + 45, 1}).Series {
			if want := uint64(2); i < 20 && c.Packets != want || i >= 25 && c.Packets != want {
				t.Errorf("start %d: second %d has %d packets, want %d", again, i, c.Packets, want)
			}
		}
		end()
	}
}
