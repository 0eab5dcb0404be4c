package rollup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"sync"
)

// A volume is a file of frames of one tier. It begins with volumeMagic; then
// come blocks, each of
//
//	kind     1 byte
//	length   4 bytes, little endian: of the payload
//	CRC-32C  4 bytes, little endian: of all that but itself
//	payload
//
// Hosts, rows and keys are lists that the file's frames refer to by number, from 0;
// a later block goes on where the one before ended. So a file is complete in
// itself, whatever the configuration was and has become. Of frames with the same
// start the last one counts. Files are only ever added to: what a snapshot knows of
// one stays as it is.
const volumeMagic = "pcroll1\n"

// Kinds of blocks.
const (
	hostsBlock = 'H' // label and address as strings
	rowsBlock  = 'R' // name and detail as strings
	keysBlock  = 'K'
	frameBlock = 'F'
)

const (
	blockHead = 9
	// maxBlock is more than any block has.
	maxBlock = 1 << 28
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendBlock adds a block whose payload write appends.
func appendBlock(b []byte, kind byte, write func([]byte) []byte) []byte {
	at := len(b)
	b = append(b, kind, 0, 0, 0, 0, 0, 0, 0, 0)
	b = write(b)
	binary.LittleEndian.PutUint32(b[at+1:], uint32(len(b)-at-blockHead))
	binary.LittleEndian.PutUint32(b[at+5:], blockSum(b[at:]))
	return b
}

func blockSum(block []byte) uint32 {
	return crc32.Update(crc32.Checksum(block[:5], castagnoli), castagnoli, block[blockHead:])
}

// nextBlock takes a block off the front of b. It is not ok where b is cut off
// or damaged.
func nextBlock(b []byte) (kind byte, payload, rest []byte, ok bool) {
	if len(b) < blockHead {
		return 0, nil, b, false
	}
	end := blockHead + int64(binary.LittleEndian.Uint32(b[1:]))
	if end > maxBlock || end > int64(len(b)) || blockSum(b[:end]) != binary.LittleEndian.Uint32(b[5:]) {
		return 0, nil, b, false
	}
	return b[0], b[blockHead:end], b[end:], true
}

// appendTo is the frame as a block's payload.
func (f *frame) appendTo(b []byte) []byte {
	b = binary.AppendVarint(b, f.start)
	b = binary.AppendUvarint(b, uint64(f.span))
	for _, c := range [...]Counts{f.total, f.other.pairs, f.other.talks, f.other.mgens} {
		b = appendCounts(b, c)
	}
	for _, end := range [...]uint32{f.rows, f.cells, f.pairs, f.talks} {
		b = binary.AppendUvarint(b, uint64(end))
	}
	return append(b, f.data...)
}

// frame reads what appendTo has written; its data stay where they are.
func (u *unpacker) frame() (*frame, bool) {
	f := &frame{start: u.int(), span: int64(u.uint())}
	f.total, f.other.pairs, f.other.talks, f.other.mgens = u.counts(), u.counts(), u.counts(), u.counts()
	f.rows, f.cells, f.pairs, f.talks = uint32(u.uint()), uint32(u.uint()), uint32(u.uint()), uint32(u.uint())
	f.data = u.b
	return f, f.rows <= f.cells && f.cells <= f.pairs && f.pairs <= f.talks && int64(f.talks) <= int64(len(f.data))
}

var errNoVolume = errors.New("not a file of rollups")

// parse reads a volume as far as it is whole.
func (n *names) parse(b []byte) (*contents, error) {
	if len(b) < len(volumeMagic) || string(b[:len(volumeMagic)]) != volumeMagic {
		return nil, errNoVolume
	}
	c := &contents{}
	rest := b[len(volumeMagic):]
	for {
		kind, payload, after, ok := nextBlock(rest)
		if !ok || !n.addBlock(c, kind, payload) {
			break
		}
		rest = after
	}
	c.size = int64(len(b) - len(rest))
	slices.SortStableFunc(c.frames, func(a, b *frame) int { return int(a.start - b.start) })
	c.frames = lastOfEach(c.frames)
	return c, nil
}

// addBlock adds a block to c.
func (n *names) addBlock(c *contents, kind byte, payload []byte) bool {
	u := unpacker{payload}
	switch kind {
	case hostsBlock:
		for len(u.b) > 0 {
			c.hosts = append(c.hosts, n.host(Host{Label: u.string(), Address: u.string()}))
		}
	case rowsBlock:
		for len(u.b) > 0 {
			c.rows = append(c.rows, n.row(Row{Name: u.string(), Detail: u.string()}))
		}
	case keysBlock:
		c.keyBlocks = append(c.keyBlocks, payload)
	case frameBlock:
		f, ok := u.frame()
		if !ok {
			return false
		}
		f.in = c
		c.frames = append(c.frames, f)
	}
	return true // a kind that a later version has is passed over
}

// lastOfEach keeps of frames with the same start the last one.
func lastOfEach(frames []*frame) []*frame {
	kept := frames[:0]
	for i, f := range frames {
		if i+1 == len(frames) || frames[i+1].start != f.start {
			kept = append(kept, f)
		}
	}
	return kept
}

// volume names a file; while anything refers to it, the file is there.
type volume struct {
	path  string
	first int64 // the start of its first frame
}

// part is a volume as far as it is known.
type part struct {
	*volume
	size int64
}

// buffers are for files that are being read: as many as readers, of 10 MB or so.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// load reads a part. release gives its buffer back.
func (n *names) load(p part) (c *contents, release func(), err error) {
	buf := buffers.Get().(*[]byte)
	release = func() { buffers.Put(buf) }
	if *buf, err = readFile(*buf, p); err == nil {
		c, err = n.parse(*buf)
	}
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("%s: %w", p.path, err)
	}
	return c, release, nil
}

// readFile reads into buf, or a larger one.
func readFile(buf []byte, p part) ([]byte, error) {
	f, err := os.Open(p.path)
	if err != nil {
		return buf, err
	}
	defer f.Close()
	buf = slices.Grow(buf[:0], int(p.size))[:p.size]
	n, err := io.ReadFull(f, buf)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil // parse says how far it is whole
	}
	return buf[:n], err
}
