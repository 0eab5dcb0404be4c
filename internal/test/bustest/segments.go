package bustest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/wire/batch"
)

// Files is a store of segments in a directory: files of batches.
type Files struct{ Dir string }

// NewSegment begins one.
func (f Files) NewSegment(id string) (bus.SegmentWriter, error) {
	file, err := os.Create(filepath.Join(f.Dir, id+".tmp"))
	if err != nil {
		return nil, err
	}
	return &segment{file: file, w: bufio.NewWriter(file)}, nil
}

// Pending are those that were sealed.
func (f Files) Pending() (ids []string) {
	list, _ := filepath.Glob(filepath.Join(f.Dir, "*.sealed")) // the pattern is right
	for _, name := range list {
		ids = append(ids, strings.TrimSuffix(filepath.Base(name), ".sealed"))
	}
	return ids
}

// Commit renames it.
func (f Files) Commit(id string) error {
	err := os.Rename(filepath.Join(f.Dir, id+".sealed"), filepath.Join(f.Dir, id+".kept"))
	if errors.Is(err, os.ErrNotExist) {
		_, err = os.Stat(filepath.Join(f.Dir, id+".kept"))
	}
	return err
}

// Discard removes it.
func (f Files) Discard(id string) error { return os.Remove(filepath.Join(f.Dir, id+".sealed")) }

type segment struct {
	file *os.File
	w    *bufio.Writer
	e    batch.Encoder
	buf  []byte
}

func (s *segment) Add(b *batch.Batch) (err error) {
	if s.buf, err = s.e.Append(s.buf[:0], b); err != nil {
		return err
	}
	if err := binary.Write(s.w, binary.BigEndian, uint32(len(s.buf))); err != nil {
		return err
	}
	_, err = s.w.Write(s.buf)
	return err
}

func (s *segment) Seal() error {
	if err := errors.Join(s.w.Flush(), s.file.Sync(), s.file.Close()); err != nil {
		return err
	}
	return os.Rename(s.file.Name(), strings.TrimSuffix(s.file.Name(), ".tmp")+".sealed")
}

func (s *segment) Abort() {
	s.file.Close()
	os.Remove(s.file.Name())
}

// Kept is what was committed.
type Kept struct {
	times map[string][]uint8 // of each record, by stream (agent/boot) and number
	read  map[string]bool    // files
}

// NewKept returns a Kept.
func NewKept() *Kept { return &Kept{times: map[string][]uint8{}, read: map[string]bool{}} }

// Read adds what was committed in a directory since it was read last. Each record
// must have its number as MGEN sequence number.
func (k *Kept) Read(dir string) error {
	list, err := filepath.Glob(filepath.Join(dir, "*.kept"))
	if err != nil {
		return err
	}
	for _, name := range list {
		if k.read[name] {
			continue
		}
		if err := k.readFile(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		k.read[name] = true
	}
	return nil
}

// ReadHistory adds all that a history has.
func (k *Kept) ReadHistory(ctx context.Context, dir string) error {
	stats, err := history.Read(ctx, dir, &history.Query{}, func(rows []history.Row) error {
		for i := range rows {
			r := &rows[i].Record
			if err := k.count(rows[i].Host, uint64(r.FlowID), uint64(r.MGENSeq), r.MGENSeq); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(append(stats.Damaged, err)...)
}

func (k *Kept) readFile(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	var d batch.Decoder
	var b batch.Batch
	for r := bufio.NewReader(file); ; {
		var n uint32
		if err := binary.Read(r, binary.BigEndian, &n); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(r, data); err != nil {
			return err
		}
		if err := d.Decode(data, &b); err != nil {
			return err
		}
		for i := range b.Records {
			if err := k.count(b.Agent, b.Boot, b.First+uint64(i), b.Records[i].MGENSeq); err != nil {
				return err
			}
		}
	}
}

func (k *Kept) count(agent string, boot, number uint64, is uint32) error {
	if is != uint32(number) {
		return fmt.Errorf("record %d of %s is where %d should be", is, agent, number)
	}
	stream := streamName(agent, boot)
	list := k.times[stream]
	for uint64(len(list)) <= number {
		list = append(list, 0)
	}
	list[number] = min(list[number], 254) + 1
	k.times[stream] = list
	return nil
}

func streamName(agent string, boot uint64) string { return fmt.Sprintf("%s/%x", agent, boot) }

// Check compares what was kept with what was acknowledged, the first so many of
// each stream. What was published and not acknowledged may have been kept.
func (k *Kept) Check(acknowledged map[string]uint64) (lost, double uint64) {
	for stream, n := range acknowledged {
		list := k.times[stream]
		for i := range n {
			if i >= uint64(len(list)) || list[i] == 0 {
				lost++
			}
		}
	}
	for _, list := range k.times {
		for _, times := range list {
			double += uint64(max(times, 1) - 1)
		}
	}
	return lost, double
}
