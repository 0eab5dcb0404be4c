package sink

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// numbered are lines from to to-1: their numbers, of a width that lets no
// power of two be a multiple of it.
func numbered(from, to int) []byte {
	var b []byte
	for i := from; i < to; i++ {
		b = fmt.Appendf(b, "line %012d\n", i)
	}
	return b
}

// logged returns the numbers of a log's lines, which must all be whole.
func logged(t *testing.T, text []byte) (numbers []int) {
	t.Helper()
	for line := range bytes.Lines(text) {
		var n int
		if _, err := fmt.Sscanf(string(line), "line %d\n", &n); err != nil || !bytes.Equal(line, numbered(n, n+1)) {
			t.Fatalf("line %d of the file is %q", len(numbers)+1, line)
		}
		numbers = append(numbers, n)
	}
	return numbers
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantLines(t *testing.T, l *LogFile, written, lost uint64) {
	t.Helper()
	if w, n := l.Lines(); w != written || n != lost {
		t.Fatalf("%d lines written, %d lost; want %d and %d", w, n, written, lost)
	}
}

// healthy is the report of a log that must not fail.
func healthy(t *testing.T) func(error) {
	return func(err error) { t.Errorf("reported: %v", err) }
}

// reports collects what a log reports.
type reports struct{ all []error }

func (r *reports) add(err error) { r.all = append(r.all, err) }

// tmpfs mounts a file system of 64 KiB, and leaves a file of 40 KiB in it.
func tmpfs(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("mounting a tmpfs needs CAP_SYS_ADMIN")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(ballast(dir), make([]byte, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func ballast(dir string) string { return filepath.Join(dir, "ballast") }

func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := NewLogFile(path, healthy(t))
	l.Flush()
	l.Close()
	l.Write(numbered(0, 10), 10)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the file is there before its time: %v", err)
	}
	wantLines(t, l, 0, 0)
	l.Flush()
	wantLines(t, l, 10, 0)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&^0o644 != 0 || info.Mode().Perm()&0o600 != 0o600 {
		t.Fatalf("file %v, error %v", info, err)
	}
	l.Write(numbered(10, 20), 10)
	l.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l.Flush()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the file was created for nothing: %v", err)
	}
	l.Write(numbered(20, 30), 10)
	l.Close()
	if got := read(t, path); !bytes.Equal(got, numbered(20, 30)) {
		t.Errorf("after being used again: %q", got)
	}
	wantLines(t, l, 30, 0)
}

func TestLogFileAppends(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, numbered(0, 3), 0o600); err != nil {
		t.Fatal(err)
	}
	l := NewLogFile(path, healthy(t))
	l.Write(numbered(3, 5), 2)
	l.Close()
	if got := read(t, path); !bytes.Equal(got, numbered(0, 5)) {
		t.Errorf("%q", got)
	}
}

// TestLogFileBuffer: a full buffer is written without being told to, and any
// number of lines can be given at once.
func TestLogFileBuffer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := NewLogFile(path, healthy(t))
	total := 0
	for _, n := range []int{1, 2000, 3000, 100_000, 5} {
		l.Write(numbered(total, total+n), n)
		total += n
		if len(l.buf) >= logBuffer {
			t.Errorf("%d bytes wait", len(l.buf))
		}
	}
	wantLines(t, l, uint64(total-5), 0)
	l.Close()
	if got := read(t, path); !bytes.Equal(got, numbered(0, total)) {
		t.Errorf("%d bytes are not the %d lines", len(got), total)
	}
}

// TestLogFileFullDisk fills a disk in the middle of a line, again and again,
// and gives it room again.
func TestLogFileFullDisk(t *testing.T) {
	dir := tmpfs(t)
	path := filepath.Join(dir, "log")
	var told reports
	synctest.Test(t, func(t *testing.T) {
		l := NewLogFile(path, told.add)
		given := 0
		write := func(n int) {
			l.Write(numbered(given, given+n), n)
			given += n
			l.Flush()
			written, lost := l.Lines()
			if in := logged(t, read(t, path)); len(in) != int(written) || written+lost != uint64(given) {
				t.Fatalf("%d lines in the file, %d written, %d lost, %d given", len(in), written, lost, given)
			}
			time.Sleep(logRetry)
		}
		for range 30 {
			write(101)
		}
		full, lost := l.Lines()
		if full < 1000 || lost == 0 || len(told.all) != 1 || !errors.Is(told.all[0], unix.ENOSPC) {
			t.Fatalf("full disk: %d lines written, %d lost, reported %v", full, lost, told.all)
		}
		if err := os.Remove(ballast(dir)); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			write(101)
		}
		if again, still := l.Lines(); again != full+5*101 || still != lost {
			t.Fatalf("with room: %d lines written, %d lost; before %d and %d", again, still, full, lost)
		}
		l.Close()
		in := logged(t, read(t, path))
		for i := range in[1:] {
			if in[i+1] <= in[i] {
				t.Fatalf("line %d comes after line %d", in[i+1], in[i])
			}
		}
		if last := in[len(in)-1]; last != given-1 {
			t.Errorf("the last line is %d, want %d", last, given-1)
		}
	})
}

// TestLogFileHalfLine: where the half line cannot be taken back (the file may
// only be appended to) it is completed before anything else is written.
func TestLogFileHalfLine(t *testing.T) {
	for _, how := range []string{"by the next lines", "by Close", "never"} {
		t.Run(how, func(t *testing.T) {
			dir := tmpfs(t)
			path := filepath.Join(dir, "log")
			appendOnly(t, path)
			var told reports
			synctest.Test(t, func(t *testing.T) {
				l := NewLogFile(path, told.add)
				const given = 2000
				l.Write(numbered(0, given), given)
				l.Flush()
				written, lost := l.Lines()
				if len(l.half) == 0 || written+lost != given || len(told.all) != 1 {
					t.Fatalf("half a line %q, %d written, %d lost, reported %v", l.half, written, lost, told.all)
				}
				if how == "never" {
					l.Close()
					wantLines(t, l, written-1, lost+1)
					return
				}
				if err := os.Remove(ballast(dir)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(logRetry)
				want := numbered(0, int(written))
				if how == "by the next lines" {
					l.Write(numbered(given, given+5), 5)
					l.Flush()
					written += 5
					want = append(want, numbered(given, given+5)...)
				}
				l.Close()
				wantLines(t, l, written, lost)
				if got := read(t, path); !bytes.Equal(got, want) {
					t.Errorf("the log is not what was written: %d bytes, want %d", len(got), len(want))
				}
			})
		})
	}
}

// appendOnly makes a file that can be appended to but not shortened.
func appendOnly(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const appendFlag = 0x20 // FS_APPEND_FL, linux/fs.h
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, appendFlag); err != nil {
		t.Skipf("chattr +a needs CAP_LINUX_IMMUTABLE, and Linux 6.6 on a tmpfs: %v", err)
	}
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Fatalf("an append-only file was truncated: %v", err)
	}
}

// TestLogFileOtherWriter: what another program wrote behind a half line is not
// cut away.
func TestLogFileOtherWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := NewLogFile(path, healthy(t))
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	defer l.file.Close()
	l.buf = numbered(0, 3)
	const n = 25 // inside the second line
	if _, err := l.file.Write(l.buf[:n]); err != nil {
		t.Fatal(err)
	}
	other, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.WriteString("other\n"); err != nil {
		t.Fatal(err)
	}
	if done := l.repair(n); done != 2 || !bytes.Equal(l.half, l.buf[n:36]) {
		t.Errorf("%d lines done, %q to be completed", done, l.half)
	}
	if got, want := read(t, path), string(l.buf[:n])+"other\n"; string(got) != want {
		t.Errorf("the file is %q, want %q", got, want)
	}
}

// TestLogFileMissingDirectory: it recovers when the directory is made.
func TestLogFileMissingDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	recover := func() error { return os.Mkdir(dir, 0o755) }
	recovers(t, filepath.Join(dir, "log"), fs.ErrNotExist, recover)
}

// TestLogFileReadOnly: so it does when a file system can be written to again.
func TestLogFileReadOnly(t *testing.T) {
	dir := tmpfs(t)
	remount := func(flags uintptr) error { return unix.Mount("", dir, "", unix.MS_REMOUNT|flags, "") }
	if err := remount(unix.MS_RDONLY); err != nil {
		t.Fatal(err)
	}
	recovers(t, filepath.Join(dir, "log"), unix.EROFS, func() error { return remount(0) })
}

// TestLogFilePath: a path that can never work is reported and hurts nothing.
func TestLogFilePath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	recovers(t, path, unix.EISDIR, func() error { return os.Remove(path) })
}

// recovers writes a line per second to a log that fails for 95 s with cause,
// until it is made to work: a report in every 30 s, every line counted.
func recovers(t *testing.T, path string, cause error, repair func() error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var told reports
		l := NewLogFile(path, told.add)
		second := func(i int) {
			l.Write(numbered(i, i+1), 1)
			l.Flush()
			time.Sleep(time.Second)
		}
		for i := range 95 {
			second(i)
		}
		wantLines(t, l, 0, 95)
		if len(told.all) != 4 { // at 0, 30, 60 and 90 s
			t.Errorf("%d reports: %v", len(told.all), told.all)
		}
		for _, err := range told.all {
			if !errors.Is(err, cause) || !strings.Contains(err.Error(), "cannot open it: ") {
				t.Errorf("reported %v, want %v", err, cause)
			}
		}
		if err := repair(); err != nil {
			t.Fatal(err)
		}
		for i := 95; i < 100; i++ {
			second(i)
		}
		l.Close()
		wantLines(t, l, 5, 95)
		if got := read(t, path); !bytes.Equal(got, numbered(95, 100)) {
			t.Errorf("%q", got)
		}
	})
}

// TestLogFilePause: a log that failed is not tried for every batch.
func TestLogFilePause(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	synctest.Test(t, func(t *testing.T) {
		var told reports
		l := NewLogFile(filepath.Join(dir, "log"), told.add)
		write := func() {
			l.Write(numbered(0, 1), 1)
			l.Flush()
		}
		write()
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write() // too soon
		wantLines(t, l, 0, 2)
		time.Sleep(logRetry)
		write()
		wantLines(t, l, 1, 2)
		l.Close()
	})
}

// TestLogFileRotation renames the file again and again while it is written to,
// as logrotate does: no line is lost, none is there twice, all are in order.
func TestLogFileRotation(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const rotations, batch = 200, 37
	path := filepath.Join(t.TempDir(), "log")
	l := NewLogFile(path, healthy(t))
	old := func(i int) string { return fmt.Sprintf("%s.%d", path, i) }

	stop := make(chan struct{})
	var given int
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			select {
			case <-stop:
				l.Close()
				return
			default:
			}
			l.Write(numbered(given, given+batch), batch)
			given += batch
			if given%(10*batch) == 0 {
				l.Flush()
			}
		}
	})
	for i := range rotations {
		rotate(t, path, old(i))
		l.Reopen()
		if written, lost := l.Lines(); lost != 0 {
			t.Fatalf("%d lines written, %d lost", written, lost)
		}
	}
	close(stop)
	writer.Wait()

	var all []byte
	for i := range rotations {
		all = append(all, read(t, old(i))...)
	}
	if rest, err := os.ReadFile(path); err == nil {
		all = append(all, rest...)
	}
	if !bytes.Equal(all, numbered(0, given)) {
		t.Errorf("%d lines given, the files hold %d bytes of other text", given, len(all))
	}
	wantLines(t, l, uint64(given), 0)
}

// rotate renames the log as soon as there is one.
func rotate(t *testing.T, path, to string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := os.Rename(path, to)
		if err == nil {
			return
		}
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
			t.Fatalf("no log to rotate: %v", err)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// TestLogFileReopen: lines from before Reopen go to the old file, later ones to
// the new.
func TestLogFileReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := NewLogFile(path, healthy(t))
	l.Write(numbered(0, 2), 2)
	l.Flush()
	l.Write(numbered(2, 4), 2)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	l.Write(numbered(4, 6), 2)
	l.Close()
	if got := read(t, path+".1"); !bytes.Equal(got, numbered(0, 4)) {
		t.Errorf("the old file is %q", got)
	}
	if got := read(t, path); !bytes.Equal(got, numbered(4, 6)) {
		t.Errorf("the new file is %q", got)
	}
}

func TestLogFileNoAllocation(t *testing.T) {
	l := NewLogFile(filepath.Join(t.TempDir(), "log"), healthy(t))
	defer l.Close()
	lines := numbered(0, 100)
	l.Write(lines, 100)
	l.Flush()
	if n := testing.AllocsPerRun(1000, func() { l.Write(lines, 100) }); n != 0 {
		t.Errorf("%v allocations per write", n)
	}
}

// BenchmarkLogFile writes batches of 64 typical lines to a tmpfs, if /dev/shm
// is one; the time is that of a line.
func BenchmarkLogFile(b *testing.B) {
	dir, err := os.MkdirTemp("/dev/shm", "logfile")
	if err != nil {
		b.Skipf("no tmpfs to write to: %v", err)
	}
	defer os.RemoveAll(dir)
	l := NewLogFile(filepath.Join(dir, "log"), func(err error) { b.Error(err) })
	lines := bytes.Repeat([]byte("1560390672.895279:10.0.0.1:5001:10.0.0.2:5002:732:1000:17\n"), 64)
	b.SetBytes(int64(len(lines) / 64))
	for i := 0; i < b.N; i += 64 {
		l.Write(lines, 64)
		if i%(1<<20) == 0 {
			l.Flush()
			if err := os.Truncate(l.path, 0); err != nil {
				b.Fatal(err)
			}
		}
	}
	l.Close()
}

// Space is reserved ahead while much is written; nobody sees it: the file is as
// long as its lines at every moment, and nothing is left of it at the end.
func TestLogFileReserves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := NewLogFile(path, func(err error) { t.Error(err) })
	lines := bytes.Repeat([]byte("a line of thirty-two characters\n"), 3000)
	space := func() (size, taken int64) {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Size, st.Blocks * 512
	}
	ahead := int64(0)
	for i := range 30 {
		l.Write(lines, 3000)
		size, taken := space()
		if want := int64((i + 1) * len(lines)); size != want {
			t.Fatalf("%d bytes, want %d", size, want)
		}
		ahead = max(ahead, taken-size)
	}
	if l.reserved < 0 {
		t.Skip("this file system reserves no space")
	}
	if ahead < logReserve/2 {
		t.Errorf("at most %d bytes reserved", ahead)
	}
	l.Close()
	if size, taken := space(); size != int64(30*len(lines)) || taken > size+64<<10 {
		t.Errorf("%d bytes take %d", size, taken)
	}
	if written, lost := l.Lines(); written != 90_000 || lost != 0 {
		t.Errorf("%d lines written, %d lost", written, lost)
	}
}

// TestLogFailing: why nothing can be written, and since when, is known until it can be written again.
func TestLogFailing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	l := NewLogFile(path, func(error) {})
	defer l.Close()
	if why, _ := l.Failing(); why != "" {
		t.Errorf("got %q before anything was written, want nothing", why)
	}
	l.Write([]byte("a\n"), 1)
	l.Flush()
	why, since := l.Failing()
	if why != "no space left on device" || time.Since(since) > time.Minute {
		t.Errorf("got %q since %v, want no space left on device, since now", why, since)
	}
	l.skip = time.Time{}
	l.Write([]byte("b\n"), 1)
	l.Flush()
	if _, again := l.Failing(); !again.Equal(since) {
		t.Errorf("got a failure since %v, want since %v", again, since)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l.skip = time.Time{}
	l.Write([]byte("c\n"), 1)
	l.Flush()
	if why, _ := l.Failing(); why != "" {
		t.Errorf("got %q, want nothing: it was written", why)
	}
	if written, lost := l.Lines(); written != 1 || lost != 2 {
		t.Errorf("got %d lines written and %d lost, want 1 and 2", written, lost)
	}
}
