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

// state is what a queue stores in addition to its segments.
type state struct {
	serial  uint64
	head    uint64 // first entry that was neither acknowledged nor dropped
	before  uint64 // weight of all entries before it
	dropped Amount // since the queue was created
	errors  uint64 // disk errors, likewise
	missed  uint64 // weight that was lost before it could be appended, likewise
}

func (s *state) append(b []byte) []byte {
	at := len(b)
	b = append(b, stateMagic+"\x00\x00\x00\x00"...)
	for _, n := range [...]uint64{s.serial, s.head, s.before, s.dropped.Entries, s.dropped.Weight, s.errors, s.missed} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	binary.BigEndian.PutUint32(b[at+4:], crc32.Checksum(b[at+8:], castagnoli))
	return b
}

// read decodes a slot, and reports whether it is valid.
func (s *state) read(b []byte) bool {
	if len(b) < slotSize || string(b[:4]) != stateMagic ||
		crc32.Checksum(b[8:slotSize], castagnoli) != binary.BigEndian.Uint32(b[4:]) {
		return false
	}
	for i, p := range []*uint64{&s.serial, &s.head, &s.before, &s.dropped.Entries, &s.dropped.Weight, &s.errors, &s.missed} {
		*p = binary.BigEndian.Uint64(b[8+8*i:])
	}
	return true
}

// stateFile is the file with the state.
type stateFile struct {
	*os.File
	state
}

var errState = errors.New("its state is damaged; what was sent already may be sent again")

// openState opens the file, or creates it. With errState, the file can be used but
// starts anew.
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

// write replaces the older slot with a single write in place, which takes effect even
// if the process is then killed.
func (s *stateFile) write() error {
	s.serial++
	var b [slotSize]byte
	_, err := s.WriteAt(s.append(b[:0]), int64(s.serial%2)*slotSize)
	return err
}
