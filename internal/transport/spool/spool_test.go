package spool

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("SPOOL_TEST_CHILD"); dir != "" {
		child(dir)
	}
	goleak.VerifyTestMain(m)
}

func TestParse(t *testing.T) {
	for text, want := range map[string]Spec{
		"/var/spool/pcapper:2GB": {"/var/spool/pcapper", 2e9},
		"a:b:500M":               {"a:b", 500e6},
		"x:1048576":              {"x", 1 << 20},
		"x:2000kB":               {"x", 2e6},
		"x:1T":                   {"x", 1e12},
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for text, says := range map[string]string{
		"/var/spool": "want DIR:SIZE", ":2GB": "want DIR:SIZE", "x:": `size ""`, "x:-1": `size "-1"`, "x:1000": "at least 1048576",
		"x:2Gi": `size "2Gi"`, "x:99999999T": `size "99999999T"`, "x:GB": `size "GB"`,
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
}

// bench is a queue in a directory of its own, which may be opened again.
type bench struct {
	t    testing.TB
	path string
	size int64
	dir  *Dir
	*Queue
	mu   sync.Mutex
	said []string
}

func begin(t testing.TB, path string, size int64) *bench {
	t.Helper()
	b := &bench{t: t, path: path, size: size}
	b.open()
	t.Cleanup(b.end)
	return b
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	if b.dir, err = OpenDir(b.path); err != nil {
		b.t.Fatal(err)
	}
	if b.Queue, err = b.dir.Open(Config{Name: "q", Size: b.size, Say: b.say}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) say(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.said = append(b.said, fmt.Sprintf(format, args...))
}

func (b *bench) saidOnce(part string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if text := strings.Join(b.said, "\n"); strings.Count(text, part) != 1 {
		b.t.Errorf("%q was not said once:\n%s", part, text)
	}
}

// TestMissed: what was lost before the queue is remembered with its data, also by one that was killed.
func TestMissed(t *testing.T) {
	b := begin(t, filepath.Join(t.TempDir(), "q"), MinSize)
	want := func(want uint64) {
		t.Helper()
		if got := b.Status().Missed; got != want {
			t.Errorf("got %d missed, want %d", got, want)
		}
	}
	b.Missed(3)
	b.Missed(7)
	want(7)
	b.reopen()
	want(7)
	b.Missed(5)
	if err := b.Append([]byte("entry"), 1); err != nil {
		t.Fatal(err)
	}
	if err := b.Sync(); err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(t.TempDir(), "q")
	if err := os.CopyFS(killed, os.DirFS(b.path)); err != nil {
		t.Fatal(err)
	}
	b = begin(t, killed, MinSize)
	want(12)
}

func (b *bench) end() {
	b.Close()
	b.dir.Close()
}

func (b *bench) reopen() {
	b.t.Helper()
	if err := b.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.dir.Close()
	b.open()
}

// content is an entry of n bytes at least that says which it is.
func content(i, n int) []byte {
	b := make([]byte, max(n, 8))
	binary.BigEndian.PutUint64(b, uint64(i))
	for k := 8; k < len(b); k++ {
		b[k] = byte(i + k)
	}
	return b
}

func (b *bench) append(from, to, size int) {
	b.t.Helper()
	for i := from; i < to; i++ {
		if err := b.Append(content(i, size), uint32(i%5)); err != nil {
			b.t.Fatal(err)
		}
	}
}

// take takes what there is, and acknowledges it if asked to.
func (b *bench) take(ack bool) (got []int) {
	b.t.Helper()
	var buf []byte
	for {
		data, weight, ok := b.Next(buf[:0])
		if !ok {
			return got
		}
		i := int(binary.BigEndian.Uint64(data))
		if !bytes.Equal(data, content(i, len(data))) || weight != uint32(i%5) {
			b.t.Fatalf("entry %d is not as it was", i)
		}
		got, buf = append(got, i), data
		if ack {
			b.Ack(1)
		}
	}
}

func wantRange(t testing.TB, got []int, from, to int) {
	t.Helper()
	if len(got) != to-from {
		t.Fatalf("%d entries, want %d to %d; %v", len(got), from, to, got[:min(len(got), 10)])
	}
	for k, i := range got {
		if i != from+k {
			t.Fatalf("entry %d is number %d", from+k, i)
		}
	}
}

// TestInOrder: memory, disk, and another life of the process.
func TestInOrder(t *testing.T) {
	b := begin(t, t.TempDir(), 100e6)
	b.append(0, 1000, 3000)
	wantRange(t, b.take(true), 0, 1000)
	b.append(1000, 2000, 3000)
	if err := b.Sync(); err != nil {
		t.Fatal(err)
	}
	b.append(2000, 2100, 10)
	wantRange(t, b.take(false), 1000, 2100)
	b.Ack(500)
	b.Rewind()
	wantRange(t, b.take(false), 1500, 2100)
	b.Ack(10)
	b.reopen()
	b.append(2100, 2200, 10)
	if s := b.Status(); s.Waiting.Entries != 690 || s.Dropped != (Amount{}) {
		t.Errorf("%+v", s)
	}
	wantRange(t, b.take(true), 1510, 2200)
	if s := b.Status(); s != (Status{}) {
		t.Errorf("all is taken: %+v", s)
	}
	if left, _ := filepath.Glob(filepath.Join(b.path, "*.seg")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestTakenSoonIsNotWritten: a reader that keeps up costs no disk.
func TestTakenSoonIsNotWritten(t *testing.T) {
	b := begin(t, t.TempDir(), 100e6)
	for i := range 2000 {
		b.append(i, i+1, 1000)
		wantRange(t, b.take(true), i, i+1)
	}
	if left, _ := filepath.Glob(filepath.Join(b.path, "*.seg")); len(left) > 0 || b.Status().Disk > 0 {
		t.Errorf("written: %q", left)
	}
}

// TestWritten: what nobody takes is written after a while, again and again.
func TestWritten(t *testing.T) {
	b := begin(t, t.TempDir(), MinSize)
	for i := range 3 {
		b.append(i, i+1, 100)
		for n := 0; b.Status().InMemory > 0; n++ {
			if n == 1000 {
				t.Fatalf("%+v", b.Status())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	wantRange(t, b.take(true), 0, 3)
}

// TestOverflow: the oldest go, and each that is missing was counted, in
// whatever life of the process.
func TestOverflow(t *testing.T) {
	b := begin(t, t.TempDir(), MinSize)
	const n = 20_000
	b.append(0, n/2, 500)
	if err := b.Sync(); err != nil {
		t.Fatal(err)
	}
	first := b.Status().Dropped
	b.reopen()
	if got := b.Status(); got.Dropped != first || first.Entries == 0 || got.DroppedNew != 0 {
		t.Errorf("%+v, before %+v", got, first)
	}
	b.append(n/2, n, 500)
	if err := b.Sync(); err != nil {
		t.Fatal(err)
	}
	s := b.Status()
	if s.Disk > MinSize || s.Disk < MinSize*8/10 {
		t.Errorf("%d bytes on disk", s.Disk)
	}
	var size int64
	files, _ := filepath.Glob(filepath.Join(b.path, "*.seg"))
	for _, f := range files {
		info, _ := os.Stat(f)
		size += info.Size()
	}
	if size != s.Disk {
		t.Errorf("%d bytes in files, %d counted", size, s.Disk)
	}
	got := b.take(true)
	wantRange(t, got, n-len(got), n)
	weigh := func(from, to int) (sum uint64) {
		for i := from; i < to; i++ {
			sum += uint64(i % 5)
		}
		return sum
	}
	lost := n - len(got)
	if want := (Amount{uint64(lost), weigh(0, lost)}); s.Dropped != want || s.Waiting.Entries != uint64(len(got)) ||
		s.Waiting.Weight != weigh(lost, n) || s.DroppedNew != weigh(n/2, max(lost, n/2)) {
		t.Errorf("%+v, want %+v dropped of %d", s, want, n)
	}
}

// TestRandom compares with what a queue is supposed to do.
func TestRandom(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	rnd := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	seed := rnd.Uint64()
	t.Logf("seed %d", seed)
	rnd = rand.New(rand.NewPCG(2, seed))
	b := begin(t, t.TempDir(), MinSize)
	appended, expect, flight := 0, 0, []int{} // Next gives expect, or a later one if that had to go
	acked := map[int]bool{}
	rewind := func() {
		if len(flight) > 0 {
			expect = flight[0]
		}
		flight = flight[:0]
	}
	for range 3000 {
		switch rnd.IntN(12) {
		case 0, 1, 2, 3:
			k := rnd.IntN(30)
			b.append(appended, appended+k, rnd.IntN(9000))
			appended += k
		case 4, 5, 6, 7:
			data, _, ok := b.Next(nil)
			if !ok {
				continue
			}
			i := int(binary.BigEndian.Uint64(data))
			if i < expect || !bytes.Equal(data, content(i, len(data))) {
				t.Fatalf("got %d, expected %d", i, expect)
			}
			expect = i + 1
			flight = append(flight, i)
		case 8:
			if len(flight) > 0 {
				k := rnd.IntN(len(flight)) + 1
				b.Ack(k)
				for _, i := range flight[:k] {
					acked[i] = true
				}
				flight = flight[k:]
			}
		case 9:
			b.Sync()
		case 10:
			b.Rewind()
			rewind()
		case 11:
			if rnd.IntN(4) == 0 {
				b.reopen()
				rewind()
			}
		}
	}
	b.Rewind()
	rewind()
	for _, i := range b.take(true) {
		if i < expect || acked[i] {
			t.Fatalf("got %d, expected %d", i, expect)
		}
		expect = i + 1
		acked[i] = true
	}
	if s := b.Status(); s.Dropped.Entries != uint64(appended-len(acked)) || s.Waiting != (Amount{}) || s.WaitingNew != 0 {
		t.Errorf("%d of %d are missing; %+v", appended-len(acked), appended, s)
	}
}

// child appends entries of some hundred bytes, says what is safe, takes some
// and says so, until it is killed.
func child(path string) {
	out := bufio.NewWriter(os.Stdout)
	say := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	d, err := OpenDir(path)
	if err != nil {
		panic(err)
	}
	q, err := d.Open(Config{Name: "q", Size: 1e9, Say: say})
	if err != nil {
		panic(err)
	}
	from, _ := strconv.Atoi(os.Getenv("SPOOL_TEST_FROM"))
	for i := from; ; i++ {
		if err := q.Append(content(i, i%3000), uint32(i%5)); err != nil {
			panic(err)
		}
		if i%100 == 0 {
			if err := q.Sync(); err != nil {
				panic(err)
			}
			fmt.Fprintf(out, "safe %d\n", i)
		}
		if i%3 == 0 {
			data, _, ok := q.Next(nil)
			if !ok {
				panic("nothing there")
			}
			fmt.Fprintf(out, "took %d\n", binary.BigEndian.Uint64(data))
			out.Flush()
			q.Ack(1)
		}
	}
}

// TestKilled: what Sync has promised is there after SIGKILL, in order; and what
// was acknowledged comes again at most as far as it was not yet told.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	path := t.TempDir()
	next, taken := 0, -1
	for range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SPOOL_TEST_CHILD="+path, "SPOOL_TEST_FROM="+strconv.Itoa(next))
		var said bytes.Buffer
		cmd.Stderr = &said
		pipe, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Duration(50+rand.IntN(250))*time.Millisecond, func() { cmd.Process.Kill() })
		safe := next - 1
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			word, n, _ := strings.Cut(lines.Text(), " ")
			i, err := strconv.Atoi(n)
			switch {
			case err != nil: // cut off
			case word == "safe":
				safe = i
			case i > taken+1:
				cmd.Process.Kill()
				cmd.Wait()
				t.Fatalf("took %d after %d: %s", i, taken, said.String())
			default:
				taken = i
			}
		}
		cmd.Wait()
		if strings.Contains(said.String(), "panic") {
			t.Fatal(said.String())
		}
		b := begin(t, path, 1e9)
		got := b.take(false)
		if len(got) == 0 {
			t.Fatal("nothing is left")
		}
		// One may have been acknowledged that it could not tell of any more.
		if got[0] > taken+2 || got[0] < taken || got[len(got)-1] < safe {
			t.Errorf("there are %d to %d; %d was safe, %d taken", got[0], got[len(got)-1], safe, taken)
		}
		wantRange(t, got, got[0], got[0]+len(got))
		if s := b.Status(); s.Dropped.Entries > 0 {
			t.Errorf("%+v", s)
		}
		next = got[len(got)-1] + 1
		taken = got[0] - 1
		b.end()
	}
	t.Logf("%d entries in 8 lives", next)
}

// TestTornTail: whatever of the last segment is there, its whole entries are.
func TestTornTail(t *testing.T) {
	path := t.TempDir()
	b := begin(t, path, 1e9)
	b.append(0, 20, 100)
	b.end()
	name := filepath.Join(path, "q-0000000000000000.seg")
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{len(whole) - 1, len(whole) - 100, len(whole) / 2, segmentHeader + 1, segmentHeader, 10, 0} {
		if err := os.WriteFile(name, append(whole[:cut:cut], 0, 0, 0), 0o600); err != nil {
			t.Fatal(err)
		}
		b := begin(t, path, 1e9)
		wantRange(t, b.take(false), 0, max(cut-segmentHeader, 0)/(entryHeader+100))
		b.end()
	}
}

// TestForeign: a file that is no segment is left to its owner, under another name.
func TestForeign(t *testing.T) {
	path := t.TempDir()
	name := filepath.Join(path, "q-0000000000000007.seg")
	os.WriteFile(name, bytes.Repeat([]byte("precious"), 10), 0o600)
	os.WriteFile(filepath.Join(path, "q-0000000000000009.seg"), []byte("PCS"), 0o600)
	b := begin(t, path, MinSize)
	b.append(0, 10, 10)
	b.reopen()
	wantRange(t, b.take(true), 0, 10)
	b.saidOnce("renamed to q-0000000000000007.seg.bad")
	if left, err := os.ReadFile(name + ".bad"); err != nil || len(left) != 80 {
		t.Errorf("%d bytes, %v", len(left), err)
	}
}

// TestDamaged: what cannot be read is counted, what is behind it is read.
func TestDamaged(t *testing.T) {
	path := t.TempDir()
	b := begin(t, path, MinSize)
	b.append(0, 1500, 500) // a dozen segments
	b.end()
	files, _ := filepath.Glob(filepath.Join(path, "*.seg"))
	if len(files) < 5 {
		t.Fatal(files)
	}
	data, _ := os.ReadFile(files[1])
	data[len(data)/2] ^= 1
	os.WriteFile(files[1], data, 0o600)
	os.Remove(files[3])
	b.open()
	got := b.take(true)
	missing := 1500 - len(got)
	if s := b.Status(); s.Dropped.Entries != uint64(missing) || missing < 100 || missing > 300 || got[len(got)-1] != 1499 {
		t.Errorf("%d missing, %+v", missing, s)
	}
}

// TestOnlyOne: a second process, or a second opening, is turned away.
func TestOnlyOne(t *testing.T) {
	b := begin(t, t.TempDir(), MinSize)
	if _, err := OpenDir(b.path); !errors.Is(err, ErrInUse) {
		t.Errorf("%v", err)
	}
	b.append(0, 1, 1)
	b.end()
	d, err := OpenDir(b.path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if left := d.Others(); left["q"] == 0 {
		t.Errorf("%v", left)
	}
	if left := d.Others("q"); len(left) > 0 {
		t.Errorf("%v", left)
	}
}

// TestFullDisk: a file system of 1 MiB that the queue thinks has more. Memory
// holds what it may, then the oldest go.
func TestFullDisk(t *testing.T) {
	path := t.TempDir()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	b := begin(t, path, 1e9)
	const n = 50_000
	for i := range n {
		b.append(i, i+1, 1000)
		if i%1000 == 0 {
			b.Sync() // fails
		}
	}
	s := b.Status()
	if s.Errors == 0 || s.Failing == "" || s.InMemory > Memory || s.InMemory < Memory/4 {
		t.Errorf("%+v", s)
	}
	b.saidOnce("no space left on device; going on in memory")
	got := b.take(true)
	if len(got) < 8000 || got[len(got)-1] != n-1 {
		t.Errorf("%d entries up to %d", len(got), got[len(got)-1])
	}
	if s := b.Status(); s.Dropped.Entries != uint64(n-len(got)) {
		t.Errorf("%d of %d are missing, %+v", n-len(got), n, s)
	}
	b.append(n, n+10, 1000)
	if err := b.Sync(); err != nil {
		t.Errorf("there is room again: %v", err)
	}
	b.reopen()
	wantRange(t, b.take(true), n, n+10)
}

// TestAcknowledgedAfterFailedWrite has a segment that was made, but could not be
// written to before its entry was acknowledged: what comes then is not lost.
func TestAcknowledgedAfterFailedWrite(t *testing.T) {
	path := t.TempDir()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	b := begin(t, path, 1e9)
	b.append(0, 1, 1000)
	if err := b.Sync(); err != nil { // the state has its place on the disk
		t.Fatal(err)
	}
	wantRange(t, b.take(true), 0, 1)
	ballast := filepath.Join(path, "ballast")
	var free unix.Statfs_t
	if err := unix.Statfs(path, &free); err != nil {
		t.Fatal(err)
	}
	room := int(free.Bavail-1) * int(free.Bsize) // a page is left, for the segment's header
	if err := os.WriteFile(ballast, make([]byte, room), 0o600); err != nil {
		t.Fatal(err)
	}
	b.append(1, 2, 1<<16)
	if err := b.Sync(); err == nil {
		t.Fatal("it was written although there is no room")
	}
	wantRange(t, b.take(true), 1, 2)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	b.append(2, 12, 1000)
	if err := b.Sync(); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	wantRange(t, b.take(true), 2, 12)
}

// TestVanished: the directory is removed, together with the one above. Once that is there again, the queue
// makes its own, and nobody else can use it.
func TestVanished(t *testing.T) {
	above := filepath.Join(t.TempDir(), "above")
	if err := os.Mkdir(above, 0o750); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(above, "spool")
	b := begin(t, path, MinSize)
	b.append(0, 100, 1000)
	b.Sync()
	os.RemoveAll(above)
	b.append(100, 200, 1000)
	if err := b.Sync(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	b.saidOnce("no such file or directory; going on in memory")
	wantRange(t, b.take(true), 100, 200)
	if s := b.Status(); s.Dropped.Entries != 100 || s.Errors == 0 {
		t.Errorf("%+v", s)
	}
	b.append(200, 300, 1000)
	os.Mkdir(above, 0o750)
	if err := b.Sync(); err != nil || b.Status().Disk == 0 {
		t.Errorf("%v, %+v", err, b.Status())
	}
	if _, err := OpenDir(path); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v from opening it once more, want %v", err, ErrInUse)
	}
	wantRange(t, b.take(true), 200, 300)
}

// TestConcurrent: one appends, one reads, one watches, for the race detector.
func TestConcurrent(t *testing.T) {
	b := begin(t, t.TempDir(), MinSize)
	const n = 30_000
	var wg sync.WaitGroup
	wg.Go(func() { b.append(0, n, 300) })
	wg.Go(func() {
		for range 50 {
			b.Sync()
			b.Status()
			time.Sleep(time.Millisecond)
		}
	})
	last, count := -1, 0
	for last < n-1 {
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, i := range b.take(true) {
			if i <= last {
				t.Fatalf("%d after %d", i, last)
			}
			last = i
			count++
		}
		time.Sleep(3 * time.Millisecond)
	}
	wg.Wait()
	if s := b.Status(); s.Dropped.Entries != uint64(n-count) {
		t.Errorf("%d of %d are missing, %+v", n-count, n, s)
	}
}

func FuzzSegment(f *testing.F) {
	b := begin(f, f.TempDir(), MinSize)
	b.append(0, 5, 20)
	b.end()
	data, _ := os.ReadFile(filepath.Join(b.path, "q-0000000000000000.seg"))
	f.Add(data)
	f.Add(data[:len(data)-3])
	f.Add(appendSegmentHeader(nil, 1<<63, 1<<63))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := scan(bytes.NewReader(data))
		if err == nil && s.size != int64(len(data)) || s.size > int64(len(data)) {
			t.Fatalf("%d of %d bytes, %v", s.size, len(data), err)
		}
		if s.next-s.first > uint64(len(data))/entryHeader {
			t.Fatalf("%d entries in %d bytes", s.next-s.first, len(data))
		}
		// What is good is read the same way again, to its end.
		if again, err := scan(io.LimitReader(bytes.NewReader(data), s.size)); s.size > 0 && (err != nil || again != s) {
			t.Fatalf("%+v, then %+v, %v", s, again, err)
		}
	})
}

// BenchmarkAway: all goes to disk, and from there to the reader.
func BenchmarkAway(b *testing.B) {
	for _, size := range []int{100, 1000, 32 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			q := begin(b, b.TempDir(), 4e9)
			data := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := range b.N {
				q.Append(data, 1)
				if i%(256<<10/size) == 0 {
					for q.Status().InMemory > Memory/2 {
						time.Sleep(time.Millisecond)
					}
				}
			}
			q.Sync()
			b.StopTimer()
			if s := q.Status(); s.Dropped.Entries > 0 && int64(b.N*size) < 3e9 {
				b.Fatalf("%+v", s)
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{100, 1000, 32 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			q := begin(b, b.TempDir(), 8e9)
			data := make([]byte, size)
			for range b.N {
				q.Append(data, 1)
				for q.Status().InMemory > Memory/2 {
					time.Sleep(time.Millisecond)
				}
			}
			q.Sync()
			b.SetBytes(int64(size))
			b.ResetTimer()
			for range b.N {
				var ok bool
				if data, _, ok = q.Next(data[:0]); !ok {
					b.Fatal("nothing there")
				}
				q.Ack(1)
			}
		})
	}
}

// BenchmarkThrough: the reader keeps up.
func BenchmarkThrough(b *testing.B) {
	for _, size := range []int{1000, 16 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			q := begin(b, b.TempDir(), 1e9)
			data, got := make([]byte, size), make([]byte, 0, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for range b.N {
				q.Append(data, 1)
				q.Next(got[:0])
				q.Ack(1)
			}
		})
	}
}
