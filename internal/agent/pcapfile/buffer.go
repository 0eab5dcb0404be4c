package pcapfile

import (
	"errors"
	"fmt"
	"io"
)

// bufferSize is the memory for a file's bytes, whatever the file contains. It holds the
// largest record (see maxCaptured, maxBlock), is large enough to make the cost of read
// calls negligible, and small enough to stay in a core's cache.
const bufferSize = 512 << 10

// maxEmptyReads is how often in a row a source may return neither bytes nor an error
// before it is considered broken.
const maxEmptyReads = 100

// buffer is a window on a stream. Records are parsed in place: a slice returned by peek
// or take is valid until the next call of peek, take, or skip.
type buffer struct {
	src      io.Reader
	buf      []byte
	pos, end int   // unread bytes are buf[pos:end]
	base     int64 // offset in the stream of buf[0]
	mark     int64 // offset of the current record, see begin
	err      error // the source's error; once set it stays
}

// begin marks the first unread byte as the start of a record, whose position errors
// report.
func (b *buffer) begin() { b.mark = b.base + int64(b.pos) }

// peek returns the next n bytes without consuming them, or nil if the stream ends
// before that; cut then returns the reason. n must not exceed bufferSize. It reads from
// the source only if necessary, and only until it has n bytes, so that the data of a
// live stream (a pipe) is available immediately.
func (b *buffer) peek(n int) []byte {
	if b.end-b.pos < n && !b.fill(n) {
		return nil
	}
	return b.buf[b.pos : b.pos+n]
}

// consume is peek, and consumes what it returns.
func (b *buffer) consume(n int) []byte {
	p := b.peek(n)
	b.pos += len(p)
	return p
}

// fill moves the unread bytes to the start of the buffer and reads until there are n
// bytes.
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

// skip consumes any number n of bytes, reading past what does not fit in the buffer. It
// reports false if the stream ends before that.
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

// atEnd reports whether the stream ended cleanly at this position.
func (b *buffer) atEnd() bool {
	return b.pos == b.end && b.err == io.EOF
}

// endOr is for positions where a record may begin: it returns io.EOF if the stream ends
// cleanly, otherwise the error of cut.
func (b *buffer) endOr(what string, want uint32) error {
	if b.atEnd() {
		return io.EOF
	}
	return b.cut(what, want)
}

// cut returns an error that says why the stream has fewer than want bytes for the
// record that begins at the mark; what names that record.
func (b *buffer) cut(what string, want uint32) error {
	if b.err != io.EOF && !errors.Is(b.err, io.ErrUnexpectedEOF) {
		return b.err
	}
	return &cutError{what: what, have: b.base + int64(b.end) - b.mark, want: want}
}

// cutError is io.ErrUnexpectedEOF with details.
type cutError struct {
	what string
	have int64
	want uint32
}

func (e *cutError) Error() string {
	return fmt.Sprintf("the file is cut off: %d of %d bytes of %s", e.have, e.want, e.what)
}

func (e *cutError) Unwrap() error { return io.ErrUnexpectedEOF }
