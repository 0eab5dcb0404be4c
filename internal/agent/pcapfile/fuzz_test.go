package pcapfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"testing/iotest"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// fuzzPackets is as far as the fuzz targets read: records of no bytes make
// frames cheap to invent.
const fuzzPackets = 1000

// fuzzBuffers are used again and again: clearing new ones would take most of
// the time, and old bytes in them must not matter.
var fuzzBuffers = [2][]byte{make([]byte, bufferSize), make([]byte, bufferSize)}

// drain reads at most fuzzPackets frames and checks each. It reports how the
// file ended; nil if there was more.
func drain(t *testing.T, r *Reader) (frames []packet.Frame, err error) {
	t.Helper()
	for len(frames) < fuzzPackets {
		var f packet.Frame
		if err = r.Next(&f); err != nil {
			break
		}
		if err := plausible(&f); err != nil {
			t.Fatal(err)
		}
		f.Data = bytes.Clone(f.Data)
		frames = append(frames, f)
	}
	if len(r.in.buf) != bufferSize || len(r.links) > maxLinks {
		t.Fatalf("memory: buffer of %d bytes, %d link types", len(r.in.buf), len(r.links))
	}
	return frames, err
}

// checkEnd: a file ends well or with damage at a place inside it.
func checkEnd(t *testing.T, r *Reader, size int, err error) {
	t.Helper()
	if err == nil || err == io.EOF {
		return
	}
	var damage *DamageError
	if !errors.As(err, &damage) {
		t.Fatalf("error of type %T: %v", err, err)
	}
	if damage.Offset < 0 || !r.unpacked && damage.Offset > int64(size) || damage.Packet != r.packets+1 {
		t.Fatalf("%+v in a file of %d bytes after %d packets", damage, size, r.packets)
	}
}

// fuzzFile reads a file at once and byte by byte: both must give the same
// frames and the same end.
func fuzzFile(t *testing.T, file []byte) []packet.Frame {
	t.Helper()
	r, err := newReader(bytes.NewReader(file), "fuzz", fuzzBuffers[0])
	slow, slowErr := newReader(iotest.OneByteReader(bytes.NewReader(file)), "fuzz", fuzzBuffers[1])
	if (err == nil) != (slowErr == nil) {
		t.Fatalf("opened: %v, byte by byte: %v", err, slowErr)
	}
	if err != nil {
		return nil
	}
	frames, err := drain(t, r)
	checkEnd(t, r, len(file), err)
	slowFrames, slowErr := drain(t, slow)
	if !reflect.DeepEqual(frames, slowFrames) || r.Skipped() != slow.Skipped() {
		t.Fatalf("%d frames, byte by byte %d", len(frames), len(slowFrames))
	}
	if (err == io.EOF) != (slowErr == io.EOF) || err != nil && err.Error() != slowErr.Error() {
		t.Fatalf("end: %v, byte by byte: %v", err, slowErr)
	}
	return frames
}

// prefix checks that what is before the damage is delivered: a good file
// followed by anything gives its frames first.
func prefix(t *testing.T, good []byte, whole []packet.Frame, tail []byte) {
	t.Helper()
	frames := fuzzFile(t, append(bytes.Clone(good), tail...))
	if len(frames) < len(whole) || !reflect.DeepEqual(frames[:len(whole)], whole) {
		t.Fatalf("%d frames are not the %d of the good part", len(frames), len(whole))
	}
}

// fuzzGood are the frames of a file without damage.
func fuzzGood(f *testing.F, good []byte) []packet.Frame {
	f.Helper()
	whole, _, err := readAll(f, bytes.NewReader(good))
	if err != nil || len(whole) != 2 {
		f.Fatalf("%d frames, error %v", len(whole), err)
	}
	return whole
}

// seed adds the captures of testdata that are of one kind, without those that
// are large for a seed.
func seed(f *testing.F, pattern string) {
	f.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(names) == 0 {
		f.Fatalf("no %s in testdata, error %v", pattern, err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:min(len(b), 1500)])
	}
}

// FuzzPcap reads classic files, and damage after a good one.
func FuzzPcap(f *testing.F) {
	seed(f, "*.pcap")
	for _, b := range samples() {
		f.Add(b)
	}
	good := newPcap(binary.BigEndian, magicNano, linkEthernet).
		packet(1, 2, payload(60, 1), 60).packet(2, 3, payload(9, 2), 90).b
	whole := fuzzGood(f, good)
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzFile(t, b)
		prefix(t, good, whole, b)
		if len(b) > pcapHeaderLen {
			prefix(t, good, whole, b[pcapHeaderLen:])
		}
	})
}

// FuzzPcapng is FuzzPcap for pcapng.
func FuzzPcapng(f *testing.F) {
	seed(f, "*.pcapng")
	for _, b := range samples() {
		f.Add(b)
	}
	p := newNG(binary.BigEndian).iface(linkEthernet, 0)
	good := p.enhanced(0, 1, payload(60, 1), 60, p.flags(2)).simple(payload(9, 2), 9).b
	whole := fuzzGood(f, good)
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzFile(t, b)
		prefix(t, good, whole, b)
	})
}

// FuzzGzip unpacks files that are mostly no gzip, and reads good packed ones.
func FuzzGzip(f *testing.F) {
	for _, b := range samples() {
		f.Add(gzipped(f, b))
	}
	f.Fuzz(func(t *testing.T, b []byte) { fuzzFile(t, b) })
}

// FuzzClock compares with arithmetic of any precision.
func FuzzClock(f *testing.F) {
	f.Add(uint8(6), int64(0), uint64(1_700_000_000_000_000))
	f.Add(uint8(9), int64(-3600), uint64(1_700_000_000_000_000_000))
	f.Add(uint8(0x80|30), int64(5), uint64(1)<<62)
	f.Fuzz(func(t *testing.T, resolution uint8, offset int64, stamp uint64) {
		c := newClock(resolution, offset)
		if got, want := c.ns(stamp), exactNS(resolution, offset, stamp); !near(got, want) {
			t.Fatalf("%d, want %d", got, want)
		}
	})
}
