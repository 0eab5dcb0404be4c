package replay

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/pcapper/pcapper/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const second = int64(time.Second)

// line is a log line at t; the flow tells lines apart.
func line(t int64, flow uint32) string {
	r := wire.Record{Time: t, FlowID: flow, Flags: wire.MGEN, Length: 100, Proto: wire.ProtoUDP}
	r.SetSrc4([4]byte{10, 0, 0, 1})
	r.SetDst4([4]byte{10, 0, 0, 2})
	return string(wire.AppendLine(nil, &r))
}

func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func packed(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text))
	z.Close()
	return b.String()
}

// got is what a player has given out.
type got struct {
	files  []int
	flows  []uint32
	times  []int64
	again  []bool
	wall   []time.Time
	played []int64
	said   []string
}

func (g *got) config(files ...File) Config {
	return Config{
		Files: files,
		Records: func(file int, records []wire.Record, played []int64, again bool) {
			g.played = append(g.played, played...)
			for i := range records {
				g.files = append(g.files, file)
				g.flows = append(g.flows, records[i].FlowID)
				g.times = append(g.times, records[i].Time)
				g.again = append(g.again, again)
				g.wall = append(g.wall, time.Now())
			}
		},
		Say: func(format string, args ...any) { g.said = append(g.said, fmt.Sprintf(format, args...)) },
	}
}

// TestMerge: any number of files, plain and packed, come out as one sorted
// stream, whatever the batches; equal times in the order of the files.
func TestMerge(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 3, 17} {
		dir := t.TempDir()
		type entry struct {
			t    int64
			file int
			flow uint32
		}
		var want []entry
		for f := range n {
			var text strings.Builder
			now := rng.Int64N(1000)
			for range rng.IntN(3000) {
				now += rng.Int64N(3) * rng.Int64N(2)
				flow := rng.Uint32N(1<<31) + 1
				text.WriteString(line(now*1000, flow))
				want = append(want, entry{now * 1000, f, flow})
			}
			name, data := fmt.Sprintf("n%02d.log", f), text.String()
			if f%3 == 2 {
				name, data = name+".gz", packed(data)
			}
			write(t, dir, name, data)
		}
		slices.SortStableFunc(want, func(a, b entry) int {
			if a.t != b.t {
				return int(a.t - b.t)
			}
			return a.file - b.file
		})
		var g got
		files := make([]File, n)
		for f := range n {
			files[f].Path = filepath.Join(dir, fmt.Sprintf("n%02d.log", f))
			if f%3 == 2 {
				files[f].Path += ".gz"
			}
		}
		p := New(g.config(files...))
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(g.flows) != len(want) || len(g.said) != 0 {
			t.Fatalf("%d files: %d records of %d, %q", n, len(g.flows), len(want), g.said)
		}
		for i, w := range want {
			if (entry{g.times[i], g.files[i], g.flows[i]}) != w {
				t.Fatalf("%d files: record %d is %d of file %d at %d, want %v", n, i, g.flows[i], g.files[i], g.times[i], w)
			}
		}
		sum := uint64(0)
		for f := range files {
			sum += p.Count(f).Records
		}
		if s := p.Status(); sum != uint64(len(want)) || !s.Ended || s.Part() != 1 || slices.Contains(g.again, true) {
			t.Errorf("%d files: %d counted, %+v", n, sum, s)
		}
	}
}

// TestForeignLines: what is no record is counted, named once, and costs nothing else.
func TestForeignLines(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("x", 3*readSize) + "\n"
	whole := line(1*second, 1) + "junk\n" + long + "\n" + line(2*second, 2) + strings.Repeat("\x00", 100) + "\n" + line(3*second, 3)
	torn := whole + line(4*second, 4)[:39]
	for name, want := range map[string]struct {
		text  string
		count Count
		flows []uint32
	}{
		"whole":    {whole, Count{3, 4, false}, []uint32{1, 2, 3}},
		"torn":     {torn, Count{3, 4, true}, []uint32{1, 2, 3}},
		"packed":   {packed(torn), Count{3, 4, true}, []uint32{1, 2, 3}},
		"cut":      {packed(line(1*second, 1) + randomLines(2000))[:9000], Count{0, 0, true}, nil},
		"longtorn": {line(1*second, 1) + strings.Repeat("y", 3*readSize), Count{1, 0, true}, []uint32{1}},
	} {
		var g got
		p := New(g.config(File{Path: write(t, dir, name, want.text)}))
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		count := p.Count(0)
		if name == "cut" { // how far gzip comes is its own affair
			if count.Records == 0 || !count.Torn || count.Foreign != 0 {
				t.Errorf("%s: %+v", name, count)
			}
			continue
		}
		if count != want.count || !slices.Equal(g.flows, want.flows) {
			t.Errorf("%s: %+v, records %v; want %+v %v", name, count, g.flows, want.count, want.flows)
		}
		if want.count.Foreign > 0 && (len(g.said) != 1 || !strings.Contains(g.said[0], fmt.Sprintf("%q, line 2: not a log line", filepath.Join(dir, name)))) {
			t.Errorf("%s: said %q", name, g.said)
		}
	}
}

func randomLines(n int) string {
	var b strings.Builder
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range n {
		b.WriteString(line(int64(i+2)*second, rng.Uint32()|1))
	}
	return b.String()
}

// TestBadGzip: a checksum that is wrong is told, with the file.
func TestBadGzip(t *testing.T) {
	data := []byte(packed(line(1*second, 1)))
	data[len(data)-8] ^= 1
	var g got
	p := New(g.config(File{Path: write(t, t.TempDir(), "n.log.gz", string(data))}))
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := p.Count(0); c != (Count{1, 0, true}) || len(g.said) != 1 || !strings.Contains(g.said[0], `n.log.gz" cannot be read on after line 1: gzip: invalid checksum`) {
		t.Errorf("%+v, said %q", c, g.said)
	}
}

// TestPace: records come when they are due, at any speed, and a clock that was
// set back holds nothing up.
func TestPace(t *testing.T) {
	text := line(100*second, 1) + line(101*second, 2) + line(50*second, 3) + line(103*second, 4)
	path := write(t, t.TempDir(), "n.log", text)
	for speed, want := range map[float64][]time.Duration{
		1:   {0, time.Second, time.Second, 3 * time.Second},
		4:   {0, time.Second / 4, time.Second / 4, 3 * time.Second / 4},
		0.5: {0, 2 * time.Second, 2 * time.Second, 6 * time.Second},
		Max: {0, 0, 0, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			var g got
			cfg := g.config(File{Path: path})
			cfg.Speed = speed
			begin := time.Now()
			if err := New(cfg).Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			for i, w := range want {
				// The player looks at the clock each millisecond at most.
				if d := g.wall[i].Sub(begin) - w; d < 0 || d > 10*time.Millisecond {
					t.Errorf("speed %v: record %d comes after %v, want %v", speed, i, g.wall[i].Sub(begin), w)
				}
			}
		})
	}
}

// TestSlowTaker: nothing is lost, and what was late is not made up for in a burst.
func TestSlowTaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		for i := range 1000 {
			text.WriteString(line(int64(i)*second/10, uint32(i)+1))
		}
		var g got
		cfg := g.config(File{Path: write(t, t.TempDir(), "n.log", text.String())})
		cfg.Speed = 1
		stalled := false
		cfg.Wait = func(context.Context) error {
			if len(g.flows) == 100 && !stalled {
				stalled = true
				time.Sleep(time.Hour)
			}
			return nil
		}
		begin := time.Now()
		if err := New(cfg).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); len(g.flows) != 1000 || d < time.Hour+95*time.Second || d > time.Hour+101*time.Second {
			t.Errorf("%d records in %v", len(g.flows), d)
		}
	})
}

// TestFrom begins in the middle, also far behind marks and in a packed file.
func TestFrom(t *testing.T) {
	dir := t.TempDir()
	var text strings.Builder
	for i := range 60_000 { // 3.4 MB, so that there are marks
		text.WriteString(line(int64(i)*second, uint32(i)+1))
	}
	plain := write(t, dir, "a.log", text.String())
	gz := write(t, dir, "b.log.gz", packed(text.String()))
	for _, at := range []int64{0, 1, 30_000, 59_999} {
		var g got
		cfg := g.config(File{Path: plain}, File{Path: gz})
		cfg.From = Place{sinceEpoch, at * second}
		p := New(cfg)
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := 2 * (60_000 - int(at)); len(g.flows) != n || g.flows[0] != uint32(at)+1 || g.flows[n-1] != 60_000 {
			t.Errorf("from %d: %d records, want %d", at, len(g.flows), n)
		}
		if s := p.Status(); s.First != at*second || s.Position != 59_999*second {
			t.Errorf("from %d: %+v", at, s)
		}
	}
	var g got
	cfg := g.config(File{Path: plain})
	cfg.From = Place{sinceEpoch, 60_000 * second}
	if err := New(cfg).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "nothing to replay from ") {
		t.Errorf("behind the end: %v", err)
	}
	cfg = g.config(File{Path: write(t, dir, "empty", "")})
	if err := New(cfg).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "nothing to replay: the logs are empty") {
		t.Errorf("nothing: %v", err)
	}
}

// TestSeek goes forth and back, and everything is given out as new exactly once.
func TestSeek(t *testing.T) {
	dir := t.TempDir()
	const n = 40_000
	var text strings.Builder
	for i := range n {
		text.WriteString(line(int64(i)*second, uint32(i)+1))
	}
	plain := write(t, dir, "a.log", text.String())
	gz := write(t, dir, "b.log.gz", packed(text.String()))
	synctest.Test(t, func(t *testing.T) {
		var g got
		cfg := g.config(File{Path: plain}, File{Path: gz})
		cfg.Speed, cfg.Stay = 1, true
		p := New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		at := func(want time.Duration) {
			t.Helper()
			time.Sleep(200 * time.Millisecond)
			synctest.Wait()
			s := p.Status()
			if d := time.Duration(s.Position) - want; d < -time.Second || d > time.Second {
				t.Errorf("at %v, want %v: %+v", time.Duration(s.Position), want, s)
			}
		}
		time.Sleep(10 * time.Second)
		at(10 * time.Second)
		p.Step(time.Hour)
		at(time.Hour + 10*time.Second)
		if len(g.flows) != 2*(3600+11) {
			t.Errorf("%d records after a step forward", len(g.flows))
		}
		p.Step(-time.Minute)
		at(59*time.Minute + 10*time.Second)
		p.Step(-time.Minute)
		at(58*time.Minute + 10*time.Second)
		p.Pause()
		time.Sleep(time.Hour)
		at(58*time.Minute + 10*time.Second)
		if s := p.Status(); !s.Paused {
			t.Errorf("not paused: %+v", s)
		}
		p.Pause()
		p.Step(-24 * time.Hour)
		at(0)
		p.Step(8 * time.Hour)
		p.Step(time.Hour) // two at once add up
		at(9 * time.Hour)
		p.Restart()
		at(0)
		for range 11 {
			p.Faster()
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if s := p.Status(); !s.Ended || s.Speed != Max {
			t.Errorf("at the highest speed: %+v", s)
		}
		p.Slower()
		p.Step(-time.Hour)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if s := p.Status(); s.Ended || s.Speed != 1024 {
			t.Errorf("back from the end: %+v", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		seen := map[[2]uint32]bool{}
		for i := range g.flows {
			key := [2]uint32{uint32(g.files[i]), g.flows[i]}
			if g.again[i] != seen[key] {
				t.Fatalf("record %v is given out again: %v, and was before: %v", key, g.again[i], seen[key])
			}
			seen[key] = true
		}
		if len(seen) != 2*n || p.Count(0).Records != n {
			t.Errorf("%d records given out, %d counted", len(seen), p.Count(0).Records)
		}
	})
}

// TestNextOverGap: hours without traffic can be left out.
func TestNextOverGap(t *testing.T) {
	path := write(t, t.TempDir(), "n.log", line(1*second, 1)+line(36_000*second, 2))
	synctest.Test(t, func(t *testing.T) {
		var g got
		cfg := g.config(File{Path: path})
		cfg.Speed = 1
		p := New(cfg)
		begin := time.Now()
		time.AfterFunc(2*time.Second, p.Next)
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d > 3*time.Second || len(g.flows) != 2 {
			t.Errorf("%d records in %v", len(g.flows), d)
		}
	})
}

// TestGrowing: a file that is written to while it is played is played on, also
// in the middle of a line.
func TestGrowing(t *testing.T) {
	text := line(1*second, 1) + line(2*second, 2) + line(3*second, 3)
	cut := len(line(1*second, 1)) + 20
	path := write(t, t.TempDir(), "n.log", text[:cut])
	synctest.Test(t, func(t *testing.T) {
		var g got
		cfg := g.config(File{Path: path})
		cfg.Stay = true
		p := New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		time.Sleep(time.Second)
		synctest.Wait()
		if c := p.Count(0); c != (Count{1, 0, true}) {
			t.Errorf("before: %+v", c)
		}
		f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		f.WriteString(text[cut:])
		f.Close()
		time.Sleep(time.Second)
		synctest.Wait()
		if c := p.Count(0); c != (Count{3, 0, false}) || !reflect.DeepEqual(g.flows, []uint32{1, 2, 3}) {
			t.Errorf("after: %+v, %v", c, g.flows)
		}
		cancel()
		<-done
	})
}

// BenchmarkPlay is files to records on one core, merged.
func BenchmarkPlay(b *testing.B) {
	for _, n := range []int{1, 10, 200} {
		b.Run(fmt.Sprintf("%d files", n), func(b *testing.B) {
			dir := b.TempDir()
			var files []File
			const total = 1_000_000
			for f := range n {
				var text strings.Builder
				for i := range total / n {
					text.WriteString(line(1560390672*second+int64(i*n+f)*1000, uint32(i)+1))
				}
				files = append(files, File{Path: write(b, dir, fmt.Sprint(f), text.String())})
			}
			records := 0
			for b.Loop() {
				p := New(Config{Files: files, Records: func(_ int, r []wire.Record, _ []int64, _ bool) { records += len(r) }})
				if err := p.Run(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(records)/b.Elapsed().Seconds()/1e6, "Mrecords/s")
		})
	}
}

// FuzzPlay: every whole line of a file is either played or counted as none, at
// any place that a buffer ends; what has no end is told; and from the middle on
// comes what was there from the beginning.
func FuzzPlay(f *testing.F) {
	f.Add([]byte(line(1*second, 1)+"junk\n"+line(2*second, 2)+"torn"), uint8(1))
	f.Add([]byte(line(3*second, 3)+"x"), uint8(3))
	f.Add([]byte(strings.Repeat("x", 300)), uint8(255))
	f.Fuzz(func(t *testing.T, text []byte, repeat uint8) {
		if bytes.HasPrefix(text, []byte{0x1f, 0x8b}) || isIPFIX(text) { // they have tests of their own
			return
		}
		text = bytes.Repeat(text, 1+int(repeat))
		path := write(t, t.TempDir(), "n.log", string(text))
		play := func(from Place) ([]uint32, Count) {
			var g got
			cfg := g.config(File{Path: path})
			cfg.From = from
			p := New(cfg)
			if err := p.Run(t.Context()); err != nil && !errors.Is(err, errNothing) {
				t.Fatal(err)
			}
			return g.flows, p.Count(0)
		}
		all, count := play(Place{})
		whole := bytes.Count(text, []byte("\n"))
		if len(all) > 0 && (count.Records != uint64(len(all)) || count.Records+count.Foreign != uint64(whole) ||
			count.Torn != (len(text) > 0 && text[len(text)-1] != '\n')) {
			t.Errorf("%d lines: %+v", whole, count)
		}
		some, _ := play(Place{sinceFirst, second})
		if len(some) > len(all) || !slices.Equal(some, all[len(all)-len(some):]) && sorted(text) {
			t.Errorf("from the middle on: %d of %d", len(some), len(all))
		}
	})
}

// sorted reports whether the times of the lines do not go back.
func sorted(text []byte) bool {
	last := int64(minTime)
	for l := range bytes.Lines(text) {
		if tm, ok := wire.LineTime(l); ok {
			if tm < last {
				return false
			}
			last = tm
		}
	}
	return true
}

// TestPlayed: records say when they are played: from now on, as far apart as the
// speed makes them; at once without a pace; and never back, whatever the log
// does or who goes back in it.
func TestPlayed(t *testing.T) {
	var text strings.Builder
	for i := range 40 {
		text.WriteString(line(int64(i)*second/10, uint32(i+1)))
	}
	name := write(t, t.TempDir(), "n1.log", text.String()+line(0, 41)) // the clock was set back
	for _, speed := range []float64{8, Max} {
		var g got
		cfg := g.config(File{Path: name})
		cfg.Speed = speed
		start := time.Now()
		if err := New(cfg).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(g.played) != 41 || g.played[0] < start.UnixNano() || !slices.IsSorted(g.played) {
			t.Fatalf("speed %v: played %v from %d on", speed, g.played, start.UnixNano())
		}
		for i := range g.played {
			if g.played[i] > g.wall[i].UnixNano() {
				t.Errorf("speed %v: record %d is played at %d and given out before, at %d", speed, i, g.played[i], g.wall[i].UnixNano())
			}
		}
		took := time.Duration(g.played[39] - g.played[0])
		if want := 3900 * time.Millisecond / 8; speed == 8 && (took < want || took > want+want/10) {
			t.Errorf("3.9 s at speed 8 are played in %v", took)
		}
		if speed == Max && took > time.Second/4 {
			t.Errorf("without a pace it takes %v", took)
		}
	}
}

// TestPlayedAfterSteps: what is played while somebody goes forward has the time
// of that; what is seen again after going back has a new one.
func TestPlayedAfterSteps(t *testing.T) {
	var text strings.Builder
	for i := range 3000 {
		text.WriteString(line(int64(i)*second, uint32(i+1)))
	}
	var g got
	cfg := g.config(File{Path: write(t, t.TempDir(), "n1.log", text.String())})
	cfg.Speed = 1000
	p := New(cfg)
	start := time.Now()
	p.Step(2000 * time.Second) // at 1000 times: 2 s
	p.do(func(ctx context.Context) error { p.setSpeed(10_000); return nil })
	p.do(func(ctx context.Context) error { return nil })
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(g.played) || g.played[0] < start.UnixNano() {
		t.Error("times go back")
	}
	if d := time.Duration(g.played[1999] - g.played[0]); d > time.Second {
		t.Errorf("going forward took %v by its lines", d)
	}
	if d := time.Duration(g.played[2999] - g.played[2001]); d < 90*time.Millisecond || d > time.Second {
		t.Errorf("the last 998 s at 10,000 times took %v", d)
	}

	g = got{}
	seen := 0
	cfg.Speed, cfg.Stay = Max, false
	records := cfg.Records
	cfg.Records = func(file int, recs []wire.Record, played []int64, again bool) {
		records(file, recs, played, again)
		if seen++; seen == 3 {
			p.Step(-time.Hour)
		}
	}
	p = New(cfg)
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(g.again, true) || !slices.IsSorted(g.played) {
		t.Errorf("records again: %v, times in order: %v", slices.Contains(g.again, true), slices.IsSorted(g.played))
	}
}
