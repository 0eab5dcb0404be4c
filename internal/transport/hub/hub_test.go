package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func small(encodings ...Encoding[int]) *Hub[int] {
	return New(Config[int]{Chunk: 8, Chunks: 4, Encodings: encodings})
}

func publish(h *Hub[int], from, to int) {
	for i := from; i < to; i++ {
		h.Publish(i)
	}
}

// readAll takes what there is without waiting.
func readAll(r *Reader[int]) (got []int) {
	for {
		items := r.Items()
		if items == nil {
			return got
		}
		got = append(got, items...)
		r.Advance(len(items))
	}
}

func wantRange(t *testing.T, got []int, from, to int) {
	t.Helper()
	if len(got) != to-from {
		t.Fatalf("got %d items %v, want %d..%d", len(got), got, from, to)
	}
	for i, v := range got {
		if v != from+i {
			t.Fatalf("item %d is %d, want %d", i, v, from+i)
		}
	}
}

func TestBacklog(t *testing.T) {
	h := small()
	publish(h, 0, 3)
	if n := h.Backlog(); n != 0 {
		t.Errorf("nobody reads: %d", n)
	}
	fast, slow := h.NewReader(), h.NewReader()
	publish(h, 3, 10)
	readAll(fast)
	if n := h.Backlog(); n != 7 {
		t.Errorf("the slowest has %d to read, want 7", n)
	}
	slow.Close()
	if n := h.Backlog(); n != 0 {
		t.Errorf("all is read: %d", n)
	}
	fast.Close()
}

func TestReaderStartsAtNow(t *testing.T) {
	h := small()
	publish(h, 0, 11)
	r := h.NewReader()
	defer r.Close()
	publish(h, 11, 20)
	wantRange(t, readAll(r), 11, 20)
	if s := r.Status(); s != (Status{Published: 9, Delivered: 9}) {
		t.Errorf("status %+v", s)
	}
}

func TestSlowReaderLosesOldestAndCounts(t *testing.T) {
	h := small()
	slow, fast := h.NewReader(), h.NewReader()
	defer slow.Close()
	defer fast.Close()
	var got []int
	for i := range 1000 {
		h.Publish(i)
		got = append(got, readAll(fast)...)
	}
	wantRange(t, got, 0, 1000)
	if s := slow.Status(); s != (Status{Published: 1000, Lost: 968, Pending: 32}) {
		t.Errorf("status of the slow reader before it looks %+v", s)
	}
	if s := fast.Status(); s.Lost != 0 {
		t.Errorf("the fast reader lost %d items", s.Lost)
	}
	rest := readAll(slow)
	// 1000 = 125 full chunks; the hub keeps the last four.
	wantRange(t, rest, 1000-4*8, 1000)
	if s := slow.Status(); s != (Status{Published: 1000, Delivered: 32, Lost: 968}) {
		t.Errorf("status of the slow reader %+v", s)
	}
}

func TestHeldItemsStayAsTheyAre(t *testing.T) {
	h := small()
	r := h.NewReader()
	defer r.Close()
	publish(h, 0, 5)
	held := r.Items()
	publish(h, 5, 500)
	wantRange(t, held, 0, 5)
	r.Advance(3)
	// Items 3 and 4 are gone with their chunk.
	wantRange(t, readAll(r), 500-500%8-3*8, 500)
	s := r.Status()
	if s.Delivered+s.Lost != 500 || s.Pending != 0 {
		t.Errorf("status %+v does not add up to 500", s)
	}
}

func TestMemoryFollowsTheSlowestReader(t *testing.T) {
	h := New(Config[int]{Chunk: 8, Chunks: 1000})
	r := h.NewReader()
	defer r.Close()
	kept := func() (n int) {
		for i := range h.slots {
			if h.slots[i].Load() != nil {
				n++
			}
		}
		return n
	}
	for i := range 4000 {
		h.Publish(i)
		readAll(r)
	}
	if n := kept(); n > 2 {
		t.Errorf("%d chunks kept although everything is read", n)
	}
	publish(h, 0, 80)
	if n := kept(); n != 10 {
		t.Errorf("%d chunks kept for 80 unread items, want 10", n)
	}
	readAll(r)
	publish(h, 0, 8)
	if n := kept(); n != 1 {
		t.Errorf("%d chunks kept after the reader caught up, want 1", n)
	}
}

func decimal(calls *atomic.Int64) Encoding[int] {
	return Each(func(dst []byte, item *int) ([]byte, bool) {
		calls.Add(1)
		if *item%3 == 0 {
			return dst, false
		}
		return strconv.AppendInt(dst, int64(*item), 10), true
	})
}

func TestEncodedOncePerFormat(t *testing.T) {
	var calls atomic.Int64
	h := small(decimal(&calls))
	readers := make([]*Reader[int], 50)
	for i := range readers {
		readers[i] = h.NewReader()
		defer readers[i].Close()
	}
	publish(h, 0, 20)
	for _, r := range readers {
		next := 0
		for buf, ends := r.Encoded(0); len(ends) > 0; buf, ends = r.Encoded(0) {
			for i := range len(ends) - 1 {
				cell := string(buf[ends[i]-ends[0] : ends[i+1]-ends[0]])
				want := strconv.Itoa(next)
				if next%3 == 0 {
					want = ""
				}
				if cell != want {
					t.Fatalf("item %d is encoded as %q", next, cell)
				}
				next++
			}
			r.Advance(len(ends) - 1)
		}
		if s := r.Status(); s != (Status{Published: 20, Delivered: 13, Skipped: 7}) {
			t.Fatalf("status %+v", s)
		}
	}
	if n := calls.Load(); n != 20 {
		t.Errorf("20 items were encoded %d times for 50 readers", n)
	}
}

func TestEncodedMayBeTakenInParts(t *testing.T) {
	var calls atomic.Int64
	h := small(decimal(&calls))
	r := h.NewReader()
	defer r.Close()
	publish(h, 0, 7)
	got := ""
	for buf, ends := r.Encoded(0); len(ends) > 0; buf, ends = r.Encoded(0) {
		got += string(buf[:ends[1]-ends[0]])
		r.Advance(1)
		if len(got) == 1 { // more arrives between the parts
			publish(h, 7, 12)
		}
	}
	if got != "1245"+"781011" {
		t.Errorf("got %q", got)
	}
}

func TestWaitAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := small()
		r := h.NewReader()
		defer r.Close()
		start := time.Now()
		time.AfterFunc(time.Second, func() { h.Publish(1) })
		time.AfterFunc(2*time.Second, h.Close)
		if err := r.Wait(t.Context()); err != nil || time.Since(start) != time.Second {
			t.Fatalf("Wait: %v after %v", err, time.Since(start))
		}
		wantRange(t, readAll(r), 1, 2)
		if err := r.Wait(t.Context()); err != io.EOF || time.Since(start) != 2*time.Second {
			t.Fatalf("Wait at the end: %v after %v", err, time.Since(start))
		}
	})
}

func TestWaitGivesUpWithItsContext(t *testing.T) {
	r := small().NewReader()
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
}

func TestDisownedItemsAreLost(t *testing.T) {
	h := small()
	r := h.NewReader()
	defer r.Close()
	publish(h, 0, 5)
	readAll(r)
	r.Disown(1)
	if s := r.Status(); s != (Status{Published: 5, Delivered: 4, Lost: 1}) {
		t.Errorf("status %+v", s)
	}
}

func TestCloseCountsTheUnread(t *testing.T) {
	h := small()
	r := h.NewReader()
	publish(h, 0, 10)
	r.Items()
	r.Advance(4)
	r.Close()
	r.Close()
	publish(h, 10, 100)
	if s := r.Status(); s != (Status{Published: 10, Delivered: 4, Lost: 6}) {
		t.Errorf("status after closing %+v", s)
	}
}

// TestManyReaders lets readers of all speeds read from concurrent publishers:
// whatever each gets is in order, whole, and its counters account for every
// item. Each publisher's items are numbered.
func TestManyReaders(t *testing.T) {
	const publishers, each, readers = 3, 20_000, 12
	type item struct{ publisher, n int }
	h := New(Config[item]{Chunk: 64, Chunks: 8})
	var wg sync.WaitGroup
	for i := range readers {
		r := h.NewReader()
		wg.Go(func() {
			defer r.Close()
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			var last [publishers]int
			taken := uint64(0)
			for r.Wait(context.Background()) == nil {
				items := r.Items()
				if items == nil {
					continue
				}
				n := 1 + rng.IntN(len(items))
				for _, it := range items[:n] {
					if it.n <= last[it.publisher] {
						t.Errorf("reader %d: %v after %d", i, it, last[it.publisher])
						return
					}
					last[it.publisher] = it.n
				}
				taken += uint64(n)
				r.Advance(n)
				if i%3 == 0 {
					time.Sleep(time.Duration(rng.IntN(200)) * time.Microsecond)
				}
			}
			s := r.Status()
			if s.Published != publishers*each || s.Delivered != taken || s.Pending != 0 ||
				s.Delivered+s.Lost != s.Published {
				t.Errorf("reader %d took %d: %+v", i, taken, s)
			}
		})
	}
	var pubs sync.WaitGroup
	for p := range publishers {
		pubs.Go(func() {
			for n := 1; n <= each; n++ {
				h.Publish(item{p, n})
			}
		})
	}
	pubs.Wait()
	h.Close()
	wg.Wait()
}

func TestPublishAndReadDoNotAllocate(t *testing.T) {
	h := New(Config[[9]uint64]{Chunk: 64, Chunks: 8, Encodings: []Encoding[[9]uint64]{
		Each(func(dst []byte, it *[9]uint64) ([]byte, bool) { return append(dst, byte(it[0])), true }),
	}})
	r := h.NewReader()
	defer r.Close()
	fill := func(free [][9]uint64) int { free[0][0]++; return min(48, len(free)) }
	round := func() {
		h.Fill(fill)
		_, ends := r.Encoded(0)
		r.Advance(len(ends) - 1)
	}
	for range 100 {
		round()
	}
	if n := testing.AllocsPerRun(1000, round); n != 0 {
		t.Errorf("%v allocations per batch", n)
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, readers := range []int{0, 1, 3} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			h := New(Config[[9]uint64]{Chunk: 1024, Chunks: 64})
			var wg sync.WaitGroup
			defer wg.Wait()
			defer h.Close()
			for range readers {
				r := h.NewReader()
				wg.Go(func() {
					defer r.Close()
					for r.Wait(context.Background()) == nil {
						r.Advance(len(r.Items()))
					}
				})
			}
			fill := func(free [][9]uint64) int { return min(500, len(free)) }
			b.ResetTimer()
			for h.Published() < uint64(b.N) {
				h.Fill(fill)
			}
		})
	}
}
