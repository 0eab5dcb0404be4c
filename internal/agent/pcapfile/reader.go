// Package pcapfile reads capture files: pcap and pcapng in either byte order, with any
// time resolution, plain or gzip'd, from a file or a pipe. It yields frames as a live
// capture would, without copying their bytes or allocating memory for them, and uses
// the same amount of memory (half a mebibyte, slightly more than twice as much for
// gzip) whatever the file contains.
//
// It does not write files, does not decode anything above the link layer, and does not
// resynchronize in a damaged file: it reports where the damage is.
//
// It exists because gopacket's pcapgo (v1.7) handles well-formed files of little-endian
// machines only: it trusts lengths (data may extend past its block, and the length at a
// block's end is ignored), reads the flags of big-endian files as little-endian,
// allocates for packets with options, rejects packets that are longer in the file than
// on the wire, and costs two to three times as much per packet. The benchmarks compare
// both.
package pcapfile

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/host/filetype"
)

// Stdin is the name for which Open reads standard input.
const Stdin = "-"

// stdinName is its name in errors.
const stdinName = "standard input"

// gzipBuffer is how much of a compressed file is read at a time.
const gzipBuffer = 128 << 10

// DamageError explains why a file cannot be read further. Everything before the damage
// has been returned.
type DamageError struct {
	// Name of the file.
	Name string
	// Offset in bytes from the start of the file to the packet or block that
	// cannot be read.
	Offset int64
	// Unpacked means that Offset counts in the unpacked data of a gzip'd file.
	Unpacked bool
	// Packet is the number of the packet that cannot be read, from 1.
	Packet uint64
	// Err is the cause. It wraps io.ErrUnexpectedEOF if the file ends too early, or the
	// error of reading or unpacking it.
	Err error
}

func (e *DamageError) Error() string {
	where := "byte"
	if e.Unpacked {
		where = "unpacked byte"
	}
	return fmt.Sprintf("capture file %q: damaged at %s %d, packet %d: %v", e.Name, where, e.Offset, e.Packet, e.Err)
}

func (e *DamageError) Unwrap() error { return e.Err }

// format is one of the two file formats. next reads a record into f, as it is in the
// file, and returns its link type.
type format interface {
	next(f *packet.Frame) (link uint16, err error)
}

// A Reader reads the frames of a capture file. It must not be used by several
// goroutines at once.
type Reader struct {
	name     string
	in       buffer
	format   format
	file     io.Closer // nil if not ours to close
	unpacked bool
	err      error // final error, io.EOF included
	packets  uint64
	skipped  uint64
	short    uint64
	links    []uint16 // of skipped frames, at most maxLinks
}

// maxLinks is the maximum number of link types that SkippedLinks returns.
const maxLinks = 8

// Open opens a capture file, or standard input if the name is "-". The caller must
// Close it.
func Open(name string) (*Reader, error) {
	if name == Stdin {
		return NewReader(os.Stdin, stdinName)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read capture file: %w", err)
	}
	if info, err := file.Stat(); err == nil && info.IsDir() {
		file.Close()
		return nil, &ForeignError{Name: name, What: "a directory", Next: "name one of the files in it"}
	}
	r, err := NewReader(file, name)
	if err != nil {
		file.Close()
		return nil, err
	}
	r.file = file
	return r, nil
}

// NewReader reads a capture file from src; the name is for errors. It blocks until it
// has read the file's header.
func NewReader(src io.Reader, name string) (*Reader, error) {
	return newReader(src, name, make([]byte, bufferSize))
}

// newReader is NewReader with a buffer of bufferSize bytes, whose contents do not
// matter.
func newReader(src io.Reader, name string, buf []byte) (*Reader, error) {
	r := &Reader{name: name, in: buffer{src: src, buf: buf}}
	if isGzip(r.in.peek(3)) {
		if err := r.unpack(); err != nil {
			return nil, r.damage(err)
		}
	}
	magic := r.in.peek(4)
	if magic == nil {
		if r.in.atEnd() {
			return nil, &ForeignError{Name: name, What: "empty", Next: "a capture may write its first bytes late: tcpdump does so at once with -U"}
		}
		return nil, r.damage(r.in.cut("the file header", pcapHeaderLen))
	}
	if p, ok := isPcap(magic); ok {
		r.format = &p
		if err := p.open(&r.in); err != nil {
			return nil, r.damage(err)
		}
		return r, nil
	}
	if !isPcapng(magic) {
		// The bytes so far are sufficient, and waiting for more could block forever.
		return nil, foreign(name, r.in.buf[r.in.pos:r.in.end], r.unpacked)
	}
	p := &pcapng{in: &r.in}
	r.format = p
	if err := p.section(); err != nil {
		return nil, r.damage(err)
	}
	return r, nil
}

// ForeignError means that a file is not a capture file, or not of a supported kind.
type ForeignError struct {
	Name string // of the file
	What string // completes a sentence that begins with "it is"; "" if unknown
	Head []byte // the first bytes
	Next string // the next step, or ""
}

func (e *ForeignError) Error() string {
	if e.What == "" {
		return fmt.Sprintf("%q is not a capture file: it begins with the bytes % x, unlike pcap and pcapng files", e.Name, e.Head)
	}
	return fmt.Sprintf("cannot read %q as a capture file: it is %s", e.Name, e.What)
}

// Hint returns the next step for the user, or "".
func (e *ForeignError) Hint() string { return e.Next }

// foreign returns an error that identifies a file by its first bytes, unpacked or not.
func foreign(name string, head []byte, unpacked bool) error {
	t := filetype.Of(head)
	e := &ForeignError{Name: name, What: t.Name, Head: bytes.Clone(head[:min(len(head), 4)])}
	if unpacked && t.Name != "" {
		e.What = "compressed by gzip, and what is in it is " + t.Name
	}
	switch {
	case t.Kind == filetype.Records:
		e.Next = "recollect -replay " + filetype.Quote(name) + " plays it"
	case t.Kind == filetype.Unknown:
	case unpacked || name == stdinName:
		e.Next = "in a pipe: " + strings.Replace(t.Command("FILE"), " FILE", "", 1) + " | pcapper -read -"
		if t.Kind == filetype.Foreign {
			e.Next = "to make a pcap file of it: " + t.Command("FILE")
		}
	default:
		e.Next = t.Command(name) + " | pcapper -read -"
	}
	return e
}

// isGzip reports whether a stream begins with the header of RFC 1952, section 2.3.1,
// with the only compression method that is defined.
func isGzip(b []byte) bool {
	return len(b) == 3 && b[0] == 0x1f && b[1] == 0x8b && b[2] == 8
}

// unpack puts a decompressor between the source and the buffer. Bytes already read from
// the source are moved out of the buffer, to make room for what they unpack to.
func (r *Reader) unpack() error {
	begun := bytes.Clone(r.in.buf[r.in.pos:r.in.end])
	packed := io.MultiReader(bytes.NewReader(begun), &rest{r.in.src, r.in.err})
	z, err := gzip.NewReader(bufio.NewReaderSize(packed, gzipBuffer))
	if err != nil {
		return err
	}
	r.in = buffer{src: z, buf: r.in.buf}
	r.unpacked = true
	return nil
}

// rest is the remainder of a source that has been read partially, including the error
// that came with the part read.
type rest struct {
	src io.Reader
	err error
}

func (r *rest) Read(b []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	return r.src.Read(b)
}

// Next reads the next frame into f. f.Data is valid until the next call. The error is
// io.EOF at the clean end of the file, and a *DamageError where the file cannot be read
// further; further calls return the same error. Next blocks on the source only, and
// only if the Buffered bytes do not contain a whole packet.
//
// Packets without a time in the file (pcapng's simple packets) have the time 0.
func (r *Reader) Next(f *packet.Frame) error {
	if r.err != nil {
		return r.err
	}
	for {
		link, err := r.format.next(f)
		if err != nil {
			r.err = r.damage(err)
			return r.err
		}
		r.packets++
		if unwrap(link, f) {
			return nil
		}
		r.skip(link)
	}
}

// damage adds the position to an error, unless it is the clean end.
func (r *Reader) damage(err error) error {
	if err == io.EOF {
		return err
	}
	return &DamageError{
		Name: r.name, Offset: r.in.mark, Unpacked: r.unpacked, Packet: r.packets + 1, Err: err,
	}
}

// Buffered returns the number of bytes that have been read from the source but not yet
// returned. A program that collects its output should flush it when this is 0, because
// the next frame of a pipe may take long to arrive.
func (r *Reader) Buffered() int { return r.in.end - r.in.pos }

// Name returns the name of the file, for messages.
func (r *Reader) Name() string { return r.name }

// Packets returns the number of packets read so far, including skipped ones.
func (r *Reader) Packets() uint64 { return r.packets }

// Skipped returns the number of frames that Next skipped because their link type is
// unknown.
func (r *Reader) Skipped() uint64 { return r.skipped }

// Short returns the number of frames that Next skipped because they end inside their
// link header.
func (r *Reader) Short() uint64 { return r.short }

// SkippedLinks returns the link types of skipped frames, each once, in order of
// appearance; if there are many, the first few.
func (r *Reader) SkippedLinks() []uint16 { return r.links }

func (r *Reader) skip(link uint16) {
	if known(link) {
		r.short++
		return
	}
	r.skipped++
	if len(r.links) < maxLinks && !slices.Contains(r.links, link) {
		r.links = append(r.links, link)
	}
}

// Close closes the file that Open opened. It does not close standard input.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
