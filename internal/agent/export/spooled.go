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

// Spool is where records wait for a receiver that is away: a spool.Queue. One
// goroutine appends, another one takes.
type Spool interface {
	// Append adds an entry that stands for so many packets, and never waits.
	Append(data []byte, packets uint32) error
	// Wait blocks until Next has an entry to give, which it appends to dst.
	Wait(context.Context) error
	Next(dst []byte) (data []byte, packets uint32, ok bool)
	// Ack says that the oldest n of those are done with, Rewind that the others
	// are to be given again.
	Ack(n int)
	Rewind()
}

// An entry of the spool is data records, as many as a message takes, without
// what depends on the session that they are sent in:
//
//	bytes  meaning
//	1      1
//	2      how many records, big-endian
//	1 each their lengths
//	...    the records
const (
	entryVersion = 1
	entryHeader  = 3
	// entryCells leaves room for the headers of a message and its sets: a set
	// has a header, and there is one more whenever IPv4 and IPv6 take turns.
	entryCells = streamMessage * 9 / 10
)

// appendEntry makes an entry of the first n records of buf, whose ends are
// given, the first being where buf begins. Records that are empty are left out.
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

// take is how many of the records fit an entry, one at least.
func take(ends []uint32) (n int) {
	for n = 1; n < len(ends)-1 && ends[n+1]-ends[0] <= entryCells; n++ {
	}
	return n
}

var errEntry = errors.New("an entry of another version")

// readEntry takes an entry apart.
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

// fill puts the reader's stream into the spool, to its end.
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

// fillFlows sums up what there is, and puts the flows of seconds that are over,
// or all, into the spool.
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
		e.fillCells() // there are some if the table was full
	}
	e.flush(all)
	e.fillCells()
}

func (e *Exporter) fillCells() {
	for len(e.ends) > 1 {
		n := take(e.ends)
		e.entry, _ = appendEntry(e.entry[:0], e.cells[e.ends[0]:], e.ends, n)
		e.spool(uint32(sum(e.packs[:n])))
		e.ends, e.packs = e.ends[n:], e.packs[n:]
	}
	e.cells, e.ends, e.packs = e.cells[:0], append(e.ends[:0], 0), e.packs[:0]
}

func sum(list []uint32) (n uint64) {
	for _, v := range list {
		n += uint64(v)
	}
	return n
}

// spool appends e.entry. That can fail only if it is too long, which it never
// is.
func (e *Exporter) spool(packets uint32) {
	if err := e.queue.Append(e.entry, packets); err != nil {
		e.counters.failed.Add(uint64(packets))
	}
}

// flown is an entry that was sent, but is not known to have arrived.
type flown struct {
	end                        uint64 // how much the connection has carried then
	messages, records, packets uint64
}

// confirmEvery is how often the kernel is asked what has arrived while there
// is nothing to send.
const confirmEvery = 20 * time.Millisecond

// forward sends what is in the spool until the transport fails or, with io.EOF,
// the stream has ended and all has arrived.
func (s *session) forward(ctx context.Context) (err error) {
	defer s.part()
	for {
		if err := s.announce(time.Now()); err != nil {
			return err
		}
		full := s.e.filling.Err() != nil // before looking whether there is more
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

// idle waits for entries, or until something else is to be done. It fails if
// the agent ends, and what was sent does not arrive.
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

// sendEntry sends an entry as a message, or several if it must.
func (s *session) sendEntry(packets uint32) error {
	e := s.e
	cells, ends, err := readEntry(s.entry, s.ends[:0])
	s.ends = ends
	f := flown{packets: uint64(packets)}
	if err != nil {
		e.counters.failed.Add(uint64(packets))
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

// confirm acknowledges what has arrived.
func (s *session) confirm() {
	n := 0
	arrived := s.t.(*stream).arrived()
	for n < len(s.flight) && s.flight[n].end <= arrived {
		c, f := &s.e.counters, &s.flight[n]
		c.messages.Add(f.messages)
		c.records.Add(f.records)
		c.packets.Add(f.packets)
		n++
	}
	if n > 0 {
		s.e.queue.Ack(n)
		s.flight = append(s.flight[:0], s.flight[n:]...)
	}
}

// lastWords is how long what was sent may take to arrive once nothing more can
// be sent.
const lastWords = time.Second

// part ends a session so that nothing is sent twice that has arrived: while
// the receiver's kernel still takes what is on its way that is waited for, and
// the rest is taken back.
func (s *session) part() {
	t := s.t.(*stream)
	s.confirm()
	for until := time.Now().Add(lastWords); len(s.flight) > 0 && t.alive() && time.Now().Before(until); s.confirm() {
		time.Sleep(confirmEvery / 4)
	}
	if len(s.flight) > 0 {
		t.raw.SetLinger(0) // else the kernel would go on sending
		s.confirm()
	}
	s.e.queue.Rewind()
}

// gone tells that the receiver has closed the connection.
func (s *session) gone() bool { return s.t.(*stream).closed.Load() }

// carried is how many bytes were written, what TLS adds included.
func (s *stream) carried() uint64 { return s.raw.written.Load() }

// alive tells that what was written may still arrive.
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

// arrived is how many of them the receiver's kernel has acknowledged
// (SIOCOUTQ, tcp(7)): its program may not have read them. It stays what it was
// when the connection has ended.
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
