package pcapfile

import (
	"errors"
	"fmt"
	"io"
)

// bufferSize is the memory for a file's bytes, whatever the file is like. It
// holds the largest record (see maxCaptured, maxBlock), is large enough to
// make the cost of a read call vanish and small enough to stay in the cache
// of a core.
const bufferSize = 512 << 10

// maxEmptyReads is how often in a row a source may give neither bytes nor an
// error before it is called broken.
const maxEmptyReads = 100

// buffer is a window on a stream. Records are parsed where they lie in it: a
// slice that peek or take returned is valid until the next call of peek, take
// or skip.
type buffer struct {
	src      io.Reader
	buf      []byte
	pos, end int   // unread are buf[pos:end]
	base     int64 // offset in the stream of buf[0]
	mark     int64 // offset of the record that is being read, see begin
	err      error // what the source said last; once set it stays
}

// begin notes that a record begins with the first unread byte: errors tell its
// place.
func (b *buffer) begin() { b.mark = b.base + int64(b.pos) }

// peek returns the next n bytes without consuming them, or nil if the stream
// ends before: then cut tells why. n must not exceed bufferSize. It reads from
// the source only if it must, and only until it has n bytes, so that a live
// stream (a pipe) is seen at once.
func (b *buffer) peek(n int) []byte {
	if b.end-b.pos < n && !b.fill(n) {
		return nil
	}
	return b.buf[b.pos : b.pos+n]
}

// consume is peek and consumes what it returns.
func (b *buffer) consume(n int) []byte {
	p := b.peek(n)
	b.pos += len(p)
	return p
}

// fill moves what is unread to the start of the buffer and reads until n bytes
// are there.
func (b *buffer) fill(n int) bool {
	if b.pos > 0 {
		b.base += int64(b.pos)
		b.end = copy(b.buf, b.buf[b.pos:b.end])
		b.pos = 0
	}
	for empty := 0; b.end < n && b.err == nil; {
		got, err := b.src.Read(b.buf[b.end:])
		b.end += got
		b.err = err
		if got > 0 {
			empty = 0
		} else if empty++; empty == maxEmptyReads && err == nil {
			b.err = io.ErrNoProgress
		}
	}
	return b.end >= n
}

// skip consumes n bytes of any number, reading over what does not fit in the
// buffer. It reports false if the stream ends before.
func (b *buffer) skip(n int64) bool {
	for n > 0 {
		part := int(min(n, int64(len(b.buf))))
		if b.consume(part) == nil {
			return false
		}
		n -= int64(part)
	}
	return true
}

// atEnd reports whether the stream ended well, right here.
func (b *buffer) atEnd() bool {
	return b.pos == b.end && b.err == io.EOF
}

// endOr is for where a record may begin: io.EOF if the stream ends well, else
// what cut says.
func (b *buffer) endOr(what string, want uint32) error {
	if b.atEnd() {
		return io.EOF
	}
	return b.cut(what, want)
}

// cut says why the stream had fewer than want bytes for the record that begin
// noted, which is named.
func (b *buffer) cut(what string, want uint32) error {
	if b.err != io.EOF && !errors.Is(b.err, io.ErrUnexpectedEOF) {
		return b.err
	}
	return &cutError{what: what, have: b.base + int64(b.end) - b.mark, want: want}
}

// cutError is io.ErrUnexpectedEOF with the details.
type cutError struct {
	what string
	have int64
	want uint32
}

func (e *cutError) Error() string {
	return fmt.Sprintf("the file is cut off: %d of %d bytes of %s", e.have, e.want, e.what)
}

func (e *cutError) Unwrap() error { return io.ErrUnexpectedEOF }
