package embedded_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/batch"
	"github.com/pcapper/pcapper/internal/bus"
)

// files is a store of segments: files of batches.
type files struct{ dir string }

func (f files) NewSegment(id string) (bus.Segment, error) {
	file, err := os.Create(filepath.Join(f.dir, id+".tmp"))
	if err != nil {
		return nil, err
	}
	return &fileSegment{file: file, w: bufio.NewWriter(file)}, nil
}

func (f files) Pending() (ids []string) {
	list, _ := filepath.Glob(filepath.Join(f.dir, "*.sealed"))
	for _, name := range list {
		ids = append(ids, strings.TrimSuffix(filepath.Base(name), ".sealed"))
	}
	return ids
}

func (f files) Commit(id string) error {
	err := os.Rename(filepath.Join(f.dir, id+".sealed"), filepath.Join(f.dir, id+".kept"))
	if errors.Is(err, os.ErrNotExist) {
		_, err = os.Stat(filepath.Join(f.dir, id+".kept"))
	}
	return err
}

func (f files) Discard(id string) error { return os.Remove(filepath.Join(f.dir, id+".sealed")) }

type fileSegment struct {
	file *os.File
	w    *bufio.Writer
	e    batch.Encoder
	buf  []byte
}

func (s *fileSegment) Add(b *batch.Batch) (err error) {
	if s.buf, err = s.e.Append(s.buf[:0], b); err != nil {
		return err
	}
	if err := binary.Write(s.w, binary.BigEndian, uint32(len(s.buf))); err != nil {
		return err
	}
	_, err = s.w.Write(s.buf)
	return err
}

func (s *fileSegment) Seal() error {
	if err := errors.Join(s.w.Flush(), s.file.Sync(), s.file.Close()); err != nil {
		return err
	}
	return os.Rename(s.file.Name(), strings.TrimSuffix(s.file.Name(), ".tmp")+".sealed")
}

func (s *fileSegment) Abort() {
	s.file.Close()
	os.Remove(s.file.Name())
}

// kept counts how often each record was committed: by agent, boot and number.
func kept(t testing.TB, dir string) map[string]map[uint64]int {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*.kept"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[uint64]int{}
	for _, name := range list {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		count(t, file, all)
		file.Close()
	}
	return all
}

func count(t testing.TB, in io.Reader, all map[string]map[uint64]int) {
	var d batch.Decoder
	var b batch.Batch
	for r := bufio.NewReader(in); ; {
		var n uint32
		if err := binary.Read(r, binary.BigEndian, &n); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(r, data); err != nil {
			t.Fatal(err)
		}
		if err := d.Decode(data, &b); err != nil {
			t.Fatal(err)
		}
		stream := strings.TrimSuffix(b.ID(), b.ID()[strings.LastIndexByte(b.ID(), '/'):])
		if all[stream] == nil {
			all[stream] = map[uint64]int{}
		}
		for i := range b.Records {
			all[stream][b.First+uint64(i)]++
			if got, want := b.Records[i].MGENSeq, uint32(b.First+uint64(i)); got != want {
				t.Fatalf("%s: record %d is where %d should be", stream, got, want)
			}
		}
	}
}
