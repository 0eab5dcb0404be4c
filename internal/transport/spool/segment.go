package spool

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"
)

const (
	segmentMagic  = "PCS\x01"
	segmentHeader = 24
	entryHeader   = 20
)

// segment is a file of entries.
type segment struct {
	path        string
	first, next uint64 // numbers
	before      uint64 // weight of all entries before it
	weight      uint64 // of its own
	size        int64  // of the file
}

// end returns the weight of all entries up to its last.
func (s *segment) end() uint64 { return s.before + s.weight }

func appendSegmentHeader(b []byte, first, before uint64) []byte {
	at := len(b)
	b = append(b, segmentMagic+"\x00\x00\x00\x00"...)
	b = binary.BigEndian.AppendUint64(b, first)
	b = binary.BigEndian.AppendUint64(b, before)
	binary.BigEndian.PutUint32(b[at+4:], crc32.Checksum(b[at+8:], castagnoli))
	return b
}

var (
	errHeader  = errors.New("no header of a segment")
	errDamaged = errors.New("a damaged entry")
)

func readSegmentHeader(b []byte) (first, before uint64, err error) {
	if len(b) < segmentHeader || string(b[:4]) != segmentMagic ||
		crc32.Checksum(b[8:segmentHeader], castagnoli) != binary.BigEndian.Uint32(b[4:]) {
		return 0, 0, errHeader
	}
	return binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:]), nil
}

// entry is an entry in memory. Its number is set when it is written.
type entry struct {
	b      []byte // header and data
	weight uint32
	at     time.Time // when it was appended
}

func (e *entry) data() []byte { return e.b[entryHeader:] }

// seal completes the header.
func (e *entry) seal(number uint64) {
	binary.BigEndian.PutUint32(e.b[4:], uint32(len(e.b)-entryHeader))
	binary.BigEndian.PutUint64(e.b[8:], number)
	binary.BigEndian.PutUint32(e.b[16:], e.weight)
	binary.BigEndian.PutUint32(e.b, crc32.Checksum(e.b[4:], castagnoli))
}

// readEntry appends the data of r's next entry, which must have this number, to dst.
// The error is io.EOF at the end, errDamaged, or r's.
func readEntry(r *bufio.Reader, number uint64, dst []byte) (data []byte, weight uint32, err error) {
	head, err := r.Peek(entryHeader)
	if len(head) == 0 && err == io.EOF {
		return dst, 0, io.EOF
	}
	if err == io.EOF {
		return dst, 0, fmt.Errorf("%w: it is cut off", errDamaged)
	}
	if err != nil {
		return dst, 0, err
	}
	h := [entryHeader]byte(head)
	n := binary.BigEndian.Uint32(h[4:])
	if got := binary.BigEndian.Uint64(h[8:]); n > MaxEntry || got != number {
		return dst, 0, fmt.Errorf("%w: number %d of %d bytes where number %d should be", errDamaged, got, n, number)
	}
	r.Discard(entryHeader)
	at := len(dst)
	dst = append(dst, make([]byte, n)...)
	if _, err := io.ReadFull(r, dst[at:]); err == io.EOF || err == io.ErrUnexpectedEOF {
		return dst[:at], 0, fmt.Errorf("%w: it is cut off", errDamaged)
	} else if err != nil {
		return dst[:at], 0, err
	}
	sum := crc32.Update(crc32.Checksum(h[4:], castagnoli), castagnoli, dst[at:])
	if sum != binary.BigEndian.Uint32(h[:]) {
		return dst[:at], 0, fmt.Errorf("%w: its check sum is %08x instead of %08x", errDamaged, sum, binary.BigEndian.Uint32(h[:]))
	}
	return dst, binary.BigEndian.Uint32(h[16:]), nil
}

// scan reads a segment to its end or its first damaged entry, and returns the position.
func scan(r io.Reader) (s segment, err error) {
	b := bufio.NewReaderSize(r, 256<<10)
	head, err := b.Peek(segmentHeader)
	if err != nil && err != io.EOF {
		return s, err
	}
	if s.first, s.before, err = readSegmentHeader(head); err != nil {
		return s, err
	}
	b.Discard(segmentHeader)
	s.next, s.size = s.first, segmentHeader
	var data []byte
	for {
		var weight uint32
		if data, weight, err = readEntry(b, s.next, data[:0]); err != nil {
			if err == io.EOF {
				err = nil
			}
			return s, err
		}
		s.next++
		s.weight += uint64(weight)
		s.size += int64(entryHeader + len(data))
	}
}

// reader reads entries of segments, usually one after another.
type reader struct {
	file  *os.File // nil if none is open
	buf   *bufio.Reader
	first uint64 // of the open segment
	next  uint64 // next entry to be read
	at    int64  // position in the file where buf ends
	size  int64  // of the final contents: what follows may still change
}

// Read is the source of buf.
func (r *reader) Read(p []byte) (int, error) {
	if r.at >= r.size {
		return 0, io.EOF
	}
	n, err := r.file.Read(p[:min(int64(len(p)), r.size-r.at)])
	r.at += int64(n)
	return n, err
}

// entry appends the data of the entry with this number, which is in s, to dst.
func (r *reader) entry(s *segment, number uint64, dst []byte) (data []byte, weight uint32, err error) {
	if r.file == nil || r.first != s.first || r.next > number {
		if err := r.open(s); err != nil {
			return dst, 0, err
		}
	}
	r.size = s.size
	at := len(dst)
	for {
		if dst, weight, err = readEntry(r.buf, r.next, dst[:at]); err != nil {
			r.close()
			if err == io.EOF {
				err = fmt.Errorf("%w: it is not there", errDamaged)
			}
			return dst, 0, err
		}
		r.next++
		if r.next > number {
			return dst, weight, nil
		}
	}
}

func (r *reader) open(s *segment) error {
	r.close()
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	if r.buf == nil {
		r.buf = bufio.NewReaderSize(nil, 64<<10)
	}
	r.buf.Reset(r)
	r.file, r.first, r.next, r.at, r.size = f, s.first, s.first, 0, s.size
	head, err := r.buf.Peek(segmentHeader)
	if err == nil || err == io.EOF {
		var first uint64
		if first, _, err = readSegmentHeader(head); err == nil && first != s.first {
			err = errHeader
		}
	}
	if err != nil {
		r.close()
		return err
	}
	r.buf.Discard(segmentHeader)
	return nil
}

func (r *reader) close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}
