package feed

import (
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
	"golang.org/x/sys/unix"
)

// counting reads a feed and counts its bytes.
func counting(t *testing.T, conn net.Conn) *atomic.Int64 {
	n := new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 256<<10)
		for {
			k, err := conn.Read(buf)
			n.Add(int64(k))
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return n
}

// While collectors keep up, whoever publishes sends to them: nothing is
// allocated, no page is touched for the first time, and no record is lost.
func TestPromptSending(t *testing.T) {
	b := serve(t, 256)
	var got []*atomic.Int64
	for _, says := range []string{"bulk\n", ""} {
		got = append(got, counting(t, b.dial(says)))
	}
	b.awaitMessage("attached (bulk)")
	b.awaitMessage("attached (records)")
	sent := int64(0)
	write := func(free []wire.Record) int {
		for i := range free {
			free[i] = wire.Record{Time: 1e18, Length: 100, Proto: wire.ProtoUDP}
		}
		sent += int64(len(free)) * wire.Size
		return len(free)
	}
	round := func() {
		for range 4 {
			b.hub.Fill(write)
		}
		for _, n := range got {
			for n.Load() < sent {
				runtime.Gosched()
			}
		}
	}
	for range 20 { // all chunks, and the kernel's buffers
		round()
	}
	if !nettest.Eventually(10*time.Second, func() bool { round(); return b.server.prompt.Load() == 2 }) {
		t.Fatalf("%d collectors are served by who publishes", b.server.prompt.Load())
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if n := testing.AllocsPerRun(50, round); n != 0 {
		t.Errorf("%v allocations a round", n)
	}
	least := int64(1 << 62) // a page may have been taken from us since it was used
	if raceDetector {       // it touches pages of its own; scripts/test runs this also without
		least = 0
	}
	for range 5 {
		before := faults(t)
		for range 50 {
			round()
		}
		least = min(least, faults(t)-before)
	}
	if least != 0 {
		t.Errorf("at least %d page faults in 50 rounds", least)
	}
	for _, c := range b.server.Collectors() {
		if s := c.Reader.Status(); s.Lost != 0 || s.Pending != 0 {
			t.Errorf("%v: %+v", c, s)
		}
	}
}

func faults(t *testing.T) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		t.Fatal(err)
	}
	return int64(u.Minflt)
}

// A collector that stalls leaves the publisher alone, gets what it missed once
// it reads again, and is then served by the publisher as before.
func TestPromptAgain(t *testing.T) {
	b := serve(t, 4096)
	conn := b.dial("bulk\n")
	b.awaitMessage("attached (bulk)")
	if !nettest.Eventually(10*time.Second, func() bool { return b.server.prompt.Load() == 1 }) {
		t.Fatal("not served by the publisher")
	}
	n := 0
	for b.server.prompt.Load() == 1 && n < 3_000_000 {
		b.hub.Fill(func(free []wire.Record) int {
			for i := range free {
				free[i] = wire.Record{Time: 1e18, SrcPort: uint16(n + i)}
			}
			n += len(free)
			return len(free)
		})
	}
	if b.server.prompt.Load() != 0 {
		t.Fatalf("it took %d records without being read", n)
	}
	var buf [wire.Size]byte
	for i := range n {
		if _, err := io.ReadFull(conn, buf[:]); err != nil {
			t.Fatal(err)
		}
		var r wire.Record
		if err := wire.DecodeBinary(buf[:], &r); err != nil || r.SrcPort != uint16(i) {
			t.Fatalf("record %d of %d: %+v, %v", i, n, r, err)
		}
	}
	if !nettest.Eventually(10*time.Second, func() bool { return b.server.prompt.Load() == 1 }) {
		t.Error("never served by the publisher again")
	}
}
