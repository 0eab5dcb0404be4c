package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
)

const (
	stateMagic = "PCQ\x01"
	slotSize   = 64
)

// state is what a queue remembers beside its segments.
type state struct {
	serial  uint64
	head    uint64 // first entry that was neither acknowledged nor given up
	before  uint64 // weight of all entries before it
	dropped Amount // given up since the queue was made
	errors  uint64 // disk errors, likewise
}

func (s *state) append(b []byte) []byte {
	at := len(b)
	b = append(b, stateMagic+"\x00\x00\x00\x00"...)
	for _, n := range [...]uint64{s.serial, s.head, s.before, s.dropped.Entries, s.dropped.Weight, s.errors, 0} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	binary.BigEndian.PutUint32(b[at+4:], crc32.Checksum(b[at+8:], castagnoli))
	return b
}

// read takes a slot; it reports whether that holds something.
func (s *state) read(b []byte) bool {
	if len(b) < slotSize || string(b[:4]) != stateMagic ||
		crc32.Checksum(b[8:slotSize], castagnoli) != binary.BigEndian.Uint32(b[4:]) {
		return false
	}
	for i, p := range []*uint64{&s.serial, &s.head, &s.before, &s.dropped.Entries, &s.dropped.Weight, &s.errors} {
		*p = binary.BigEndian.Uint64(b[8+8*i:])
	}
	return true
}

// stateFile is where it is kept.
type stateFile struct {
	*os.File
	state
}

var errState = errors.New("its state is damaged; what was sent already may be sent again")

// openState opens the file, or makes it. With errState it is good, but
// begins anew.
func openState(path string) (*stateFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	s := &stateFile{File: f}
	var b [2 * slotSize]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && err != io.EOF {
		f.Close()
		return nil, err
	}
	for _, slot := range [][]byte{b[:slotSize], b[slotSize:]} {
		var found state
		if found.read(slot) && found.serial > s.serial {
			s.state = found
		}
	}
	if n > 0 && s.serial == 0 {
		return s, errState
	}
	return s, nil
}

// write replaces the older slot: one write in place, which survives the
// process at once.
func (s *stateFile) write() error {
	s.serial++
	var b [slotSize]byte
	_, err := s.WriteAt(s.append(b[:0]), int64(s.serial%2)*slotSize)
	return err
}
