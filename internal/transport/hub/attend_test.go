package hub

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"
)

// counter attends to a reader: it reads all, or nothing more after give up.
type counter struct {
	r      *Reader[int]
	got    []int
	giveUp atomic.Bool
	over   chan struct{}
}

func newCounter(h *Hub[int]) *counter {
	return &counter{r: h.NewReader(), over: make(chan struct{}, 1)}
}

func (c *counter) attend() bool {
	return c.r.Attend(func() bool {
		if c.giveUp.Load() {
			return false
		}
		c.got = append(c.got, readAll(c.r)...)
		return true
	}, func() { c.over <- struct{}{} })
}

// Who publishes has the attendants read before Publish returns.
func TestAttendantsReadAtOnce(t *testing.T) {
	h := small()
	a, b := newCounter(h), newCounter(h)
	defer a.r.Close()
	defer b.r.Close()
	if !a.attend() || !b.attend() {
		t.Fatal("not taken on")
	}
	for i := range 100 {
		publish(h, i, i+1)
		wantRange(t, a.got, 0, i+1)
		wantRange(t, b.got, 0, i+1)
	}
	b.r.Dismiss()
	publish(h, 100, 105)
	wantRange(t, a.got, 0, 105)
	wantRange(t, b.got, 0, 100)
	wantRange(t, readAll(b.r), 100, 105)
	if len(b.over) > 0 {
		t.Error("dismissed, and told that it is over")
	}
	if s := a.r.Status(); s.Delivered != 105 || s.Pending != 0 {
		t.Errorf("%+v", s)
	}
}

// An attendant that gives up is told once, and then reads by itself.
func TestAttendantGivesUp(t *testing.T) {
	h := small()
	a := newCounter(h)
	defer a.r.Close()
	publish(h, 0, 1)
	if a.attend() {
		t.Error("taken on although there is something to read")
	}
	readAll(a.r)
	if !a.attend() {
		t.Fatal("not taken on")
	}
	publish(h, 1, 3)
	a.giveUp.Store(true)
	publish(h, 3, 6)
	publish(h, 6, 7)
	if len(a.over) != 1 {
		t.Errorf("told %d times", len(a.over))
	}
	wantRange(t, a.got, 1, 3)
	wantRange(t, readAll(a.r), 3, 7)
}

func TestCloseEndsAttendance(t *testing.T) {
	h := small()
	a := newCounter(h)
	defer a.r.Close()
	if !a.attend() {
		t.Fatal("not taken on")
	}
	publish(h, 0, 3)
	h.Close()
	<-a.over
	if a.attend() {
		t.Error("taken on by a closed hub")
	}
	if err := a.r.Wait(context.Background()); err != io.EOF {
		t.Errorf("%v", err)
	}
}

// A reader changes between the publisher and its own goroutine all the time,
// and reads each item once, in order.
func TestAttendanceChangesHands(t *testing.T) {
	h := New(Config[int]{Chunk: 64, Chunks: 1024})
	const n = 50_000
	a := newCounter(h)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer a.r.Close()
		for {
			if a.attend() {
				select {
				case <-a.over:
					a.giveUp.Store(false)
				case <-time.After(time.Duration(len(a.over)) + 50*time.Microsecond):
					a.r.Dismiss()
					select {
					case <-a.over:
					default:
					}
				}
			}
			a.got = append(a.got, readAll(a.r)...)
			if a.r.Wait(context.Background()) == io.EOF {
				return
			}
		}
	}()
	for i := range n {
		if i%7 == 0 {
			a.giveUp.Store(true)
		}
		publish(h, i, i+1)
	}
	h.Close()
	<-read
	s := a.r.Status()
	if s.Delivered+s.Lost != n || s.Lost == 0 && len(a.got) != n {
		t.Fatalf("%+v, %d items", s, len(a.got))
	}
	for i := 1; i < len(a.got); i++ {
		if a.got[i] <= a.got[i-1] {
			t.Fatalf("item %d is %d, after %d", i, a.got[i], a.got[i-1])
		}
	}
}

// While readers keep up, publishing and reading allocate nothing; and when one
// has been late, its chunks are used again.
func TestNoAllocations(t *testing.T) {
	h := New(Config[int]{Chunk: 64, Chunks: 64, Encodings: []Encoding[int]{Each(func(dst []byte, i *int) ([]byte, bool) {
		return append(dst, byte(*i)), true
	})}, Sizes: []int{1}})
	prompt, late := h.NewReader(), h.NewReader()
	defer prompt.Close()
	defer late.Close()
	serve := func() bool {
		for {
			_, ends := prompt.Encoded(0)
			if len(ends) == 0 {
				return true
			}
			prompt.Advance(len(ends) - 1)
		}
	}
	if !prompt.Attend(serve, func() {}) {
		t.Fatal("not taken on")
	}
	write := func(free []int) int { return len(free) }
	round := func() {
		for range 20 {
			h.Fill(write)
		}
		for {
			_, ends := late.Encoded(0)
			if len(ends) == 0 {
				return
			}
			late.Advance(len(ends) - 1)
		}
	}
	round()
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations a round", n)
	}
}

// Chunks that nobody has needed for a while are given up.
func TestChunksAreGivenUp(t *testing.T) {
	h := New(Config[int]{Chunk: 8, Chunks: 64})
	r := h.NewReader()
	publish(h, 0, 8*60)
	readAll(r)
	publish(h, 0, 8)
	if n := len(h.spare); n < 50 {
		t.Errorf("%d chunks kept for the next time, want most of 60", n)
	}
	for i := range 8 * trimEvery * 4 {
		publish(h, i, i+1)
		readAll(r)
	}
	if n := len(h.spare); n > fewestKept+1 {
		t.Errorf("%d chunks kept that nobody needs", n)
	}
	r.Close()
}
