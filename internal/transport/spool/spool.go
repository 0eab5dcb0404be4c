// Package spool is a first-in, first-out queue of byte entries that outlives the
// process: entries that its reader has not acknowledged are on disk. It is meant for
// batches of records whose receiver is away.
//
// An entry that is acknowledged quickly never reaches the disk: entries are first kept
// in memory, and are written when they are [FlushAge] old or amount to [FlushBytes],
// and synchronized (fsync) as a group. A process that is killed therefore loses at most
// what was not yet written, unless it has called [Queue.Sync]. What was acknowledged
// shortly before the kill may be returned again.
//
// A queue has two bounds: on disk the size set by its user, and in memory [Memory],
// which matters while the disk fails or is too slow. The oldest entries are dropped to
// make room for new ones, and counted. Append never waits for the disk.
//
// # Files
//
// A [Dir] contains the files of several queues, and "lock", which keeps other processes
// out. NAME-NUMBER.seg, where NUMBER is 16 hexadecimal digits, is a segment: a run of
// entries that is removed as a whole. All numbers are unsigned and big-endian:
//
//	bytes  meaning, at the beginning of a segment
//	4      "PCS" and the version, 1
//	4      CRC-32C (Castagnoli) of the 16 bytes after it
//	8      number of the first entry, as in the file's name
//	8      weight of all entries before it
//
//	bytes  meaning, for each entry
//	4      CRC-32C of everything after it in this entry
//	4      length of the data
//	8      number; consecutive
//	4      weight
//	...    data
//
// NAME.state has two slots of 64 bytes that are written alternately; the one with the
// higher serial number holds:
//
//	bytes  meaning
//	4      "PCQ" and the version, 1
//	4      CRC-32C of the 56 bytes after it
//	8      serial number
//	8      number of the first entry that was neither acknowledged nor dropped
//	8      weight of all entries before it
//	8      entries dropped since the queue was created
//	8      their weight
//	8      disk errors since the queue was created
//	8      zero
package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/host/option"
)

const (
	// FlushAge and FlushBytes limit the age and size of entries in memory.
	FlushAge   = 100 * time.Millisecond
	FlushBytes = 1 << 20
	// Memory is the maximum number of bytes in memory.
	Memory = 16 << 20
	// MaxEntry is the maximum size of an entry, in bytes.
	MaxEntry = 4 << 20
	// MinSize is the minimum size of a queue on disk, in bytes.
	MinSize = 1 << 20
	// retryAfter is the pause before a failed disk is tried again.
	retryAfter = time.Second
	// calm is how long a disk must work after an error before that is reported.
	calm = 10 * time.Second
	// groupBytes is the maximum number of bytes written at once.
	groupBytes = 256 << 10
)

// A segment is a thirty-second of the queue, within these bounds: little should be
// dropped at once to make room, but there should be few files.
const (
	segmentsPerQueue = 32
	minSegment       = 64 << 10
	maxSegment       = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Spec is a parsed "DIR:SIZE".
type Spec struct {
	Dir  string // "" means no spool
	Size int64  // bytes
}

// Parse parses DIR:SIZE; option.ParseSize parses the size.
func Parse(text string) (Spec, error) {
	at := strings.LastIndexByte(text, ':')
	if at < 1 {
		return Spec{}, fmt.Errorf("%q: want DIR:SIZE, such as /var/spool/pcapper:2GB", text)
	}
	size, err := option.ParseSize(text[at+1:])
	if err == nil && size < MinSize {
		err = fmt.Errorf("want at least %d bytes", MinSize)
	}
	if err != nil {
		return Spec{}, fmt.Errorf("%q: size %q: %w", text, text[at+1:], err)
	}
	return Spec{Dir: text[:at], Size: size}, nil
}

// Dir is a directory of queues, locked for this process.
type Dir struct {
	path string

	mu   sync.Mutex
	lock *os.File
}

// ErrInUse means that another process uses the directory.
var ErrInUse = errors.New("another process uses it")

// OpenDir opens and locks a directory, and creates it if necessary. The error is
// ErrInUse, or the operating system's.
func OpenDir(path string) (*Dir, error) {
	if err := os.Mkdir(path, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return &Dir{path: path, lock: lock}, nil
}

// revive makes and locks the directory anew if somebody has removed it.
func (d *Dir) revive() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if linked(d.lock) {
		return nil
	}
	again, err := OpenDir(d.path)
	if err != nil {
		return err
	}
	d.lock.Close()
	d.lock = again.lock
	return nil
}

// Close unlocks the directory. Its queues must have been closed.
func (d *Dir) Close() error { return d.lock.Close() }

// Others returns the sizes, in bytes, of queues that are not among names.
func (d *Dir) Others(names ...string) (bytes map[string]int64) {
	bytes = map[string]int64{}
	entries, _ := os.ReadDir(d.path) // unreadable entries are not reported here
	for _, e := range entries {
		name, _, ok := parseSegment(e.Name())
		if info, err := e.Info(); ok && err == nil && !slices.Contains(names, name) {
			bytes[name] += info.Size()
		}
	}
	return bytes
}

func (d *Dir) segment(name string, first uint64) string {
	return filepath.Join(d.path, fmt.Sprintf("%s-%016x.seg", name, first))
}

// parseSegment splits a segment's file name.
func parseSegment(file string) (name string, first uint64, ok bool) {
	base, ok := strings.CutSuffix(file, ".seg")
	at := len(base) - 17
	if !ok || at < 1 || base[at] != '-' {
		return "", 0, false
	}
	first, err := strconv.ParseUint(base[at+1:], 16, 64)
	return base[:at], first, err == nil
}

// sync makes names in the directory durable.
func (d *Dir) sync() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
