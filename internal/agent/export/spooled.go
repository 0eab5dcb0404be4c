package export

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Spool is where records wait while a receiver is away: a spool.Queue. One goroutine
// appends and another removes.
type Spool interface {
	// Append adds an entry that stands for this number of packets. It never blocks.
	Append(data []byte, packets uint32) error
	// Wait blocks until there is an entry for Next, which appends the entry's data to
	// dst.
	Wait(context.Context) error
	Next(dst []byte) (data []byte, packets uint32, ok bool)
	// Ack removes the oldest n entries returned by Next; Rewind makes Next return the
	// others again.
	Ack(n int)
	Rewind()
}

// An entry of the spool holds as many data records as fit in a message, without
// anything that depends on the session in which they are sent:
//
//	bytes  meaning
//	1      1
//	2      number of records, big-endian
//	1 each their lengths
//	...    the records
const (
	entryVersion = 1
	entryHeader  = 3
	// entryCells leaves room for the headers of the message and its sets. A new set
	// begins whenever records switch between IPv4 and IPv6.
	entryCells = streamMessage * 9 / 10
)

// appendEntry appends an entry with the first n records of buf; ends has their
// boundaries, starting with the position of buf itself. Empty records are left out.
func appendEntry(dst, buf []byte, ends []uint32, n int) (entry []byte, records int) {
	at := len(dst)
	dst = append(dst, entryVersion, 0, 0)
	for i := range n {
		if size := ends[i+1] - ends[i]; size > 0 {
			dst = append(dst, byte(size))
			records++
		}
	}
	binary.BigEndian.PutUint16(dst[at+1:], uint16(records))
	return append(dst, buf[:ends[n]-ends[0]]...), records
}

// take returns the number of records that fit in an entry, at least one.
func take(ends []uint32) (n int) {
	for n = 1; n < len(ends)-1 && ends[n+1]-ends[0] <= entryCells; n++ {
	}
	return n
}

var errEntry = errors.New("an entry of another version")

// readEntry decodes an entry.
func readEntry(b []byte, ends []uint32) (cells []byte, _ []uint32, err error) {
	if len(b) < entryHeader || b[0] != entryVersion {
		return nil, ends, errEntry
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	if len(b) < entryHeader+n {
		return nil, ends, errEntry
	}
	ends = append(ends, 0)
	end := uint32(0)
	for _, size := range b[entryHeader : entryHeader+n] {
		end += uint32(size)
		ends = append(ends, end)
	}
	if cells = b[entryHeader+n:]; len(cells) != int(end) {
		return nil, ends, errEntry
	}
	return cells, ends, nil
}

// fill moves the reader's stream into the spool until it ends.
func (e *Exporter) fill() {
	defer e.filled()
	for {
		ended := e.awaitRecords()
		if e.table != nil {
			e.fillFlows(ended)
		} else {
			e.fillPackets()
		}
		if ended {
			return
		}
	}
}

// awaitRecords waits for records, or until flows are due.
func (e *Exporter) awaitRecords() (ended bool) {
	ctx := context.Background()
	if e.table != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, flowDelay)
		defer cancel()
	}
	return errors.Is(e.cfg.Reader.Wait(ctx), io.EOF)
}

func (e *Exporter) fillPackets() {
	for {
		buf, ends := e.cfg.Reader.Encoded(e.cfg.Format)
		if len(ends) == 0 {
			return
		}
		n := take(ends)
		var records int
		if e.entry, records = appendEntry(e.entry[:0], buf, ends, n); records > 0 {
			e.spool(uint32(records))
		}
		e.cfg.Reader.Advance(n)
	}
}

// fillFlows aggregates the available records, and puts the flows of completed seconds,
// or all flows, into the spool.
func (e *Exporter) fillFlows(all bool) {
	for {
		items := e.cfg.Reader.Items()
		if len(items) == 0 {
			break
		}
		for i := range items {
			e.table.Add(&items[i])
		}
		e.cfg.Reader.Advance(len(items))
		e.note()
		e.fillCells() // there are some if the table was full
	}
	e.flush(all)
	e.fillCells()
}

func (e *Exporter) fillCells() {
	for len(e.ends) > 1 {
		n := take(e.ends)
		e.entry, _ = appendEntry(e.entry[:0], e.cells[e.ends[0]:], e.ends, n)
		packets := sum(e.packs[:n])
		e.spool(uint32(packets))
		e.unpack(n, packets)
	}
	e.cells, e.ends, e.packs = e.cells[:0], append(e.ends[:0], 0), e.packs[:0]
}

func sum(list []uint32) (n uint64) {
	for _, v := range list {
		n += uint64(v)
	}
	return n
}

// spool appends e.entry. That fails only if the entry is too long, which it never is.
func (e *Exporter) spool(packets uint32) {
	if err := e.queue.Append(e.entry, packets); err != nil {
		e.counters.failed.Add(uint64(packets))
		e.counters.lost.Add(uint64(packets))
	}
}

// flown is an entry that has been sent but not yet confirmed.
type flown struct {
	end                        uint64 // number of bytes written to the connection up to its end
	messages, records, packets uint64
	lost                       uint64 // packets of an entry that cannot be read
}

// confirmEvery is the interval at which the kernel is asked what has arrived while
// there is nothing to send.
const confirmEvery = 20 * time.Millisecond

// forward sends the contents of the spool until the transport fails, or until the
// stream has ended and everything has arrived (io.EOF).
func (s *session) forward(ctx context.Context) (err error) {
	defer s.part()
	for {
		if err := s.announce(time.Now()); err != nil {
			return err
		}
		full := s.e.filling.Err() != nil // checked before looking for more entries
		data, packets, ok := s.e.queue.Next(s.entry[:0])
		if ok {
			s.entry = data
			err = s.sendEntry(packets)
		}
		if err != nil {
			return err
		}
		s.confirm()
		switch {
		case ok:
		case full && len(s.flight) == 0:
			s.due = time.Time{}
			return cmp.Or(s.announce(time.Now()), io.EOF) // the final counts
		default:
			if err := s.idle(ctx, full); err != nil {
				return err
			}
		}
	}
}

// idle waits for entries, or until something else is due. It fails if the agent is
// stopping and what was sent does not arrive.
func (s *session) idle(ctx context.Context, full bool) error {
	if s.gone() {
		return errClosed
	}
	now := time.Now()
	if ctx.Err() != nil {
		if s.ending.IsZero() {
			s.ending = now
		}
		if now.Sub(s.ending) > farewell {
			return os.ErrDeadlineExceeded
		}
	}
	until := s.due
	if len(s.flight) > 0 || ctx.Err() != nil {
		until = now.Add(confirmEvery)
	}
	if full {
		sleep(context.Background(), time.Until(until))
		return nil
	}
	waiting, cancel := context.WithDeadline(s.e.filling, until)
	defer cancel()
	s.e.queue.Wait(waiting)
	return nil
}

// sendEntry sends an entry as one message, or as several if it does not fit.
func (s *session) sendEntry(packets uint32) error {
	e := s.e
	cells, ends, err := readEntry(s.entry, s.ends[:0])
	s.ends = ends
	f := flown{packets: uint64(packets)}
	if err != nil {
		f.packets, f.lost = 0, uint64(packets)
		e.cfg.Say("%v: %v in the spool is left out", e, err)
		ends = ends[:0]
	}
	for len(ends) > 1 {
		msg, n := s.writer.Message(e.msg[:0], time.Now(), s.t.limit(), cells[ends[0]:], ends)
		e.msg = msg[:0]
		if err := s.t.send(msg, len(msg)); err != nil {
			return err
		}
		f.messages++
		f.records += uint64(n)
		ends = ends[n:]
	}
	f.end = s.t.(*stream).carried()
	s.flight = append(s.flight, f)
	return nil
}

// confirm acknowledges the entries that have arrived.
func (s *session) confirm() {
	n := 0
	arrived := s.t.(*stream).arrived()
	for n < len(s.flight) && s.flight[n].end <= arrived {
		c, f := &s.e.counters, &s.flight[n]
		c.messages.Add(f.messages)
		c.records.Add(f.records)
		c.packets.Add(f.packets)
		c.failed.Add(f.lost)
		c.lost.Add(f.lost)
		n++
	}
	if n > 0 {
		s.e.queue.Ack(n)
		s.flight = append(s.flight[:0], s.flight[n:]...)
	}
}

// lastWords is how long data in flight may take to arrive once nothing more can be
// sent.
const lastWords = time.Second

// part ends a session without sending anything twice that has arrived: as long as the
// receiver's kernel accepts the data in flight it waits for that, and takes the rest
// back.
func (s *session) part() {
	t := s.t.(*stream)
	s.confirm()
	for until := time.Now().Add(lastWords); len(s.flight) > 0 && t.alive() && time.Now().Before(until); s.confirm() {
		time.Sleep(confirmEvery / 4)
	}
	if len(s.flight) > 0 {
		t.raw.SetLinger(0) // otherwise the kernel would keep sending
		s.confirm()
	}
	s.e.queue.Rewind()
}

// gone reports whether the receiver has closed the connection.
func (s *session) gone() bool { return s.t.(*stream).closed.Load() }

// carried returns the number of bytes written, including the overhead of TLS.
func (s *stream) carried() uint64 { return s.raw.written.Load() }

// alive reports whether what was written may still arrive.
func (s *stream) alive() (alive bool) {
	raw, err := s.raw.SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		alive = err == nil && info.State != unix.BPF_TCP_CLOSE
	})
	return alive
}

// arrived returns how many of them the receiver's kernel has acknowledged (SIOCOUTQ,
// tcp(7)); its program may not have read them yet. After the connection has ended, the
// number no longer changes.
func (s *stream) arrived() uint64 {
	written := s.raw.written.Load()
	raw, err := s.raw.SyscallConn()
	if err != nil {
		return s.known
	}
	raw.Control(func(fd uintptr) {
		if queued, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil && uint64(queued) <= written {
			s.known = max(s.known, written-uint64(queued))
		}
	})
	return s.known
}
