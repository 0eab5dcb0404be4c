package export

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// FuzzEntry: what is taken apart is what was put together, and nothing else is.
func FuzzEntry(f *testing.F) {
	cells, ends := []byte(nil), []uint32{0}
	for i := range 3 {
		r := record(i)
		cells, _ = ipfix.Append(cells, &r)
		ends = append(ends, uint32(len(cells)))
	}
	entry, _ := appendEntry(nil, cells, ends, 3)
	f.Add(entry)
	f.Add(entry[:len(entry)-1])
	f.Add([]byte{entryVersion, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		cells, ends, err := readEntry(data, nil)
		if err != nil {
			return
		}
		again, _ := appendEntry(nil, cells, ends, len(ends)-1)
		if int(ends[len(ends)-1]) != len(cells) {
			t.Fatalf("%d bytes, ends %v", len(cells), ends)
		}
		if !bytes.Equal(again, data) && !bytes.Contains(data[entryHeader:len(data)-len(cells)], []byte{0}) { // empty ones are left out
			t.Fatalf("%x became %x", data, again)
		}
	})
}

// openSpool opens a real one, and closes it at the test's end if nobody has.
func openSpool(t *testing.T, path string, size int64) (q *spool.Queue, closeAll func()) {
	t.Helper()
	dir, err := spool.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if q, err = dir.Open(spool.Config{Name: "x", Size: size, Say: t.Logf}); err != nil {
		t.Fatal(err)
	}
	closeAll = func() { q.Close(); dir.Close() }
	t.Cleanup(closeAll)
	return q, closeAll
}

// publishSlowly outruns neither the exporter, whose hub is small here, nor the
// disk.
func (b *bench) publishSlowly(from, to int) {
	for i := from; i < to; i++ {
		b.hub.Publish(record(i))
		for i%1024 == 0 && (b.hub.Backlog() > 4096 || b.q.Status().InMemory > spool.Memory/2) {
			time.Sleep(100 * time.Microsecond)
		}
	}
}

// freePort is an address of this host where nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	ln := listen(t, "127.0.0.1:0")
	defer ln.Close()
	return ln.Addr().String()
}

func listen(t *testing.T, addr string) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second))
	return ln.(*net.TCPListener)
}

func accept(t *testing.T, ln *net.TCPListener) *net.TCPConn {
	t.Helper()
	conn, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestSpoolHoldsForAbsentCollector: far more than the hub keeps, over two lives
// of the agent; in the third the collector is there.
func TestSpoolHoldsForAbsentCollector(t *testing.T) {
	addr, path := freePort(t), t.TempDir()
	const n = 100_000
	for life := range 2 {
		q, done := openSpool(t, path, 100e6)
		b := beginWith(t, "ipfix+tcp://"+addr, q)
		b.awaitMessage("trying again")
		b.publishSlowly(life*n, (life+1)*n)
		b.end()
		if s := q.Status(); s.WaitingNew != n || s.Waiting.Weight != uint64((life+1)*n) {
			t.Errorf("%+v", s)
		}
		done()
	}
	ln := listen(t, addr)
	defer ln.Close()
	q, _ := openSpool(t, path, 100e6)
	b := beginWith(t, "ipfix+tcp://"+addr, q)
	b.publishSlowly(2*n, 2*n+1000)
	conn := accept(t, ln)
	go b.hub.Close()
	data, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	<-b.done
	var d ipfix.Decoder
	wantRecords(t, messages(t, &d, data), 0, 2*n+1000)
	if c := d.Counts(); c.Lost+c.Late != 0 || d.Statistics().NotSent != 0 {
		t.Errorf("%+v, %+v", c, d.Statistics())
	}
	if s := q.Status(); s.Waiting.Entries != 0 || s.Dropped.Entries != 0 {
		t.Errorf("%+v", s)
	}
	if c := b.x.Counts(); c.Packets != 2*n+1000 || c.Records != 2*n+1000 {
		t.Errorf("%+v", c)
	}
}

// TestSpoolIsNotSentTwice: a collector comes and goes while records flow. What
// it has read when it goes does not come again, and what its kernel has taken
// from ours is all that can be missing.
func TestSpoolIsNotSentTwice(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	defer ln.Close()
	q, _ := openSpool(t, t.TempDir(), 100e6)
	b := beginWith(t, "ipfix+tcp://"+ln.Addr().String(), q)
	const n = 300_000
	go func() {
		b.publishSlowly(0, n)
		b.hub.Close()
	}()
	var got []wire.Record
	for round := 0; ; round++ {
		conn := accept(t, ln)
		if round < 6 {
			conn.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(30)) * time.Millisecond))
		}
		data, err := io.ReadAll(conn)
		if err == nil {
			got = append(got, messages(t, &ipfix.Decoder{}, data)...)
			break
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		// Goes politely: says so, and takes what is on its way.
		conn.CloseWrite()
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		rest, err := io.ReadAll(conn)
		var reset *net.OpError
		if err != nil && !errors.As(err, &reset) {
			t.Fatal(err)
		}
		conn.Close()
		got = append(got, messages(t, &ipfix.Decoder{}, whole(append(data, rest...)))...)
	}
	wantRecords(t, got, 0, n)
}

// whole leaves out a message that is cut off at the end.
func whole(b []byte) []byte {
	at := 0
	for {
		n, err := ipfix.Length(b[at:])
		if err != nil || n == 0 || n > len(b)-at {
			return b[:at]
		}
		at += n
	}
}

// TestSpoolCollectorDies: a collector that reads nothing more and dies. What it
// has read is not sent again.
func TestSpoolCollectorDies(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	defer ln.Close()
	q, _ := openSpool(t, t.TempDir(), 100e6)
	b := beginWith(t, "ipfix+tcp://"+ln.Addr().String(), q)
	conn := accept(t, ln)
	const n = 400_000 // more than both kernels' buffers take
	b.publishSlowly(0, n)
	buf := make([]byte, 1_000_000)
	if _, err := io.ReadFull(conn, buf); err != nil {
		t.Fatal(err)
	}
	read := messages(t, &ipfix.Decoder{}, whole(buf))
	conn.Close() // with unread data: a reset
	conn = accept(t, ln)
	go b.hub.Close()
	data, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	rest := messages(t, &ipfix.Decoder{}, data)
	wantRecords(t, read, 0, len(read))
	wantRecords(t, rest, n-len(rest), n)
	if gap := n - len(rest) - len(read); gap < 0 || gap > 200_000 {
		t.Errorf("%d read, then %d: %d between them", len(read), len(rest), gap)
	} else {
		t.Logf("%d records were in the collector's kernel", gap)
	}
}

// TestSpoolOfFlows: sums of seconds wait, too.
func TestSpoolOfFlows(t *testing.T) {
	addr := freePort(t)
	q, _ := openSpool(t, t.TempDir(), 100e6)
	b := beginWith(t, "ipfix+tcp://"+addr+"?per=1s", q)
	b.awaitMessage("trying again")
	b.publishSlowly(0, 50_000)
	ln := listen(t, addr)
	defer ln.Close()
	conn := accept(t, ln)
	go b.hub.Close()
	data, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	packets := uint64(0)
	got := messages(t, &ipfix.Decoder{}, data)
	for i := range got {
		packets += got[i].Count()
	}
	<-b.done
	if c := b.x.Counts(); packets != 50_000 || c.Packets != 50_000 || len(got) < 10 || int(c.Records) != len(got) {
		t.Errorf("%d records of %d packets; %+v", len(got), packets, c)
	}
}
