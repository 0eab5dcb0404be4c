package decode

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/agent/pcapfile"
	"github.com/pcapper/pcapper/wire"
)

// open reads a file of testdata, compressed or not.
func open(t testing.TB, name string) io.Reader {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err == nil {
		return bytes.NewReader(b)
	}
	b, err = os.ReadFile(filepath.Join("testdata", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// captures are the names of all captures, without suffix.
func captures(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*/*.pcap*")
	if err != nil || len(files) == 0 {
		t.Fatalf("captures: %v, %v", files, err)
	}
	var names []string
	for _, f := range files {
		f, _, _ = strings.Cut(f, ".pcap")
		names = append(names, strings.TrimPrefix(f, "testdata/"))
	}
	return names
}

// frames reads a capture.
func frames(t testing.TB, name string) []packet.Frame {
	t.Helper()
	r, err := pcapfile.NewReader(open(t, name+".pcap"), name)
	if err != nil {
		t.Fatal(err)
	}
	var all []packet.Frame
	for {
		var f packet.Frame
		err := r.Next(&f)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Data = bytes.Clone(f.Data)
		all = append(all, f)
	}
}

// truth is one line of a truth file.
type truth struct {
	text string // what the record must say, as fields(r) puts it; empty: no record
	frag string // offset, and + if more follow; empty: no fragment
	kind string
	seq  string
}

func truths(t testing.TB, name string) []truth {
	t.Helper()
	rows, err := csv.NewReader(open(t, name+".truth.csv")).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var all []truth
	for _, row := range rows[1:] {
		tr := truth{frag: row[9], kind: row[12], seq: row[11]}
		if row[3] != "" {
			tr.text = fmt.Sprintf("%s %s:%s > %s:%s len %s proto %s flow %s",
				row[1], row[3], row[4], row[5], row[6], row[7], row[8], row[10])
		}
		all = append(all, tr)
	}
	return all
}

// fields is all of r that a truth file knows.
func fields(r *wire.Record) string {
	return fmt.Sprintf("%d.%06d %s:%d > %s:%d len %d proto %d flow %d", r.Time/1e9, r.Time/1e3%1e6,
		r.SrcAddr(), r.SrcPort, r.DstAddr(), r.DstPort, r.Length, r.Proto, r.Flow())
}

// TestTruth decodes every capture and compares each frame's record with its
// line of truth.
func TestTruth(t *testing.T) {
	for _, name := range captures(t) {
		t.Run(name, func(t *testing.T) {
			fs, ts := frames(t, name), truths(t, name)
			if len(fs) != len(ts) {
				t.Fatalf("%d frames and %d lines of truth", len(fs), len(ts))
			}
			d := New(Config{})
			for i := range fs {
				checkTruth(t, d, i+1, &fs[i], ts[i])
			}
			checkBalance(t, d)
		})
	}
}

func checkTruth(t *testing.T, d *Decoder, frame int, f *packet.Frame, want truth) {
	t.Helper()
	var dst [2]wire.Record
	n := d.Decode(f, dst[:])
	if n > 1 {
		t.Fatalf("frame %d: %d records", frame, n)
	}
	got := ""
	if n == 1 {
		got = fields(&dst[0])
	}
	if got != want.text {
		t.Errorf("frame %d:\n got %q\nwant %q", frame, got, want.text)
		return
	}
	if n == 1 {
		checkMGEN(t, frame, &dst[0], want)
		r := &dst[0]
		if first, later := want.frag == "0+", want.frag != "" && want.frag != "0+"; (r.Flags&wire.Fragment != 0) != (first || later) ||
			(r.Flags&wire.LaterFragment != 0) != later {
			t.Errorf("frame %d: flags %b, fragment %q", frame, r.Flags, want.frag)
		}
	}
}

// checkMGEN compares what the text of a record cannot tell: flow 0 from no
// flow, and the sequence number.
func checkMGEN(t *testing.T, frame int, r *wire.Record, want truth) {
	t.Helper()
	kind, _, _ := strings.Cut(want.kind, ":")
	if got := r.Flags&wire.MGEN != 0; got != (kind != "") {
		t.Errorf("frame %d: MGEN is %v, kind is %q", frame, got, want.kind)
	}
	if got := r.Flags&wire.MGENHeader != 0; got != (kind == "start") {
		t.Errorf("frame %d: header is %v, kind is %q", frame, got, want.kind)
	}
	if kind == "start" && strconv.Itoa(int(r.MGENSeq)) != want.seq {
		t.Errorf("frame %d: sequence number is %d, want %s", frame, r.MGENSeq, want.seq)
	}
	// The frames of crafted-* carry a random fraction of their second.
	if age := r.Time/1e3 - r.MGENTime; kind == "start" && (age < -1e6 || age > 3600e6) {
		t.Errorf("frame %d: message was made %d us before its capture", frame, age)
	}
}

// checkBalance checks that every frame was accounted for.
func checkBalance(t testing.TB, d *Decoder) {
	t.Helper()
	c := d.Counters()
	none := withoutRecord(d)
	if c.Frames+c.Segments != c.Records+none+c.SuperPackets {
		t.Errorf("%d frames, %d records, %d without, %d super-packets cut into %d: %+v",
			c.Frames, c.Records, none, c.SuperPackets, c.Segments, c)
	}
}

// TestTruthSnaplen decodes what a live capture sees of each frame, 256 bytes:
// nothing but frames with longer headers may tell less.
func TestTruthSnaplen(t *testing.T) {
	const snaplen = 256
	for _, name := range captures(t) {
		t.Run(name, func(t *testing.T) {
			fs, ts := frames(t, name), truths(t, name)
			d := New(Config{})
			for i := range fs {
				fs[i].Data = fs[i].Data[:min(snaplen, len(fs[i].Data))]
				var dst [1]wire.Record
				got := ""
				if d.Decode(&fs[i], dst[:]) > 0 {
					got = fields(&dst[0])
				}
				want := ts[i].text
				if got != want && dst[0].Flags&wire.Truncated == 0 {
					t.Errorf("frame %d:\n got %q\nwant %q", i+1, got, want)
				}
			}
			if c := d.Counters(); c.Truncated > 0 && !strings.HasPrefix(name, "edge/crafted-malformed") {
				t.Errorf("%d records truncated", c.Truncated)
			}
		})
	}
}

// TestTruncation cuts every frame at every length. A fresh decoder must tell
// the same of it or less: what it tells is equal, what it does not is zero and
// the record marked.
func TestTruncation(t *testing.T) {
	for _, name := range captures(t) {
		for i, f := range frames(t, name) {
			if i >= 200 {
				break
			}
			checkTruncation(t, fmt.Sprintf("%s frame %d", name, i+1), f, min(len(f.Data), 300))
		}
	}
}

func checkTruncation(t *testing.T, what string, f packet.Frame, longest int) {
	t.Helper()
	var whole, cut [1]wire.Record
	small := Config{FragmentEntries: 1, TCPEntries: 1}
	full := New(small).Decode(&f, whole[:])
	data := f.Data
	f.WireLen = max(f.WireLen, len(data))
	d := New(small)
	for n := range longest {
		f.Data = data[:n:n]
		d.forget()
		if d.Decode(&f, cut[:]) == 0 {
			continue
		}
		if full == 0 {
			t.Fatalf("%s: a record from %d bytes, none from %d", what, n, len(data))
		}
		if err := lessOrEqual(&cut[0], &whole[0]); err != "" {
			t.Fatalf("%s cut at %d: %s:\n cut   %s %b\n whole %s %b", what, n, err,
				fields(&cut[0]), cut[0].Flags, fields(&whole[0]), whole[0].Flags)
		}
	}
}

// forget empties the tables.
func (d *Decoder) forget() {
	d.fragments = newTable[fragment](d.cfg.FragmentEntries)
	d.streams = newStreams(d.cfg.TCPEntries)
}

func withoutMGEN(r *wire.Record) {
	r.Flags &^= wire.MGEN | wire.MGENHeader
	r.FlowID, r.MGENSeq, r.MGENTime = 0, 0, 0
}

// lessOrEqual says in what way cut contradicts whole.
func lessOrEqual(cut, whole *wire.Record) string {
	if cut.Src != whole.Src || cut.Dst != whole.Dst || cut.Time != whole.Time {
		return "addresses or time"
	}
	if cut.Digest != 0 && cut.Digest != whole.Digest {
		return "digest"
	}
	if cut.Flags&wire.Truncated == 0 {
		// Whether a payload is MGEN's shows with its first 24 bytes, and again
		// with its last, which may have a checksum that refuses it.
		if a, b := *cut, *whole; (a.Flags^b.Flags)&wire.MGEN != 0 {
			withoutMGEN(&a)
			withoutMGEN(&b)
			cut, whole = &a, &b
		}
		a := *cut
		if a.Digest == 0 { // what it takes in was cut off
			a.Digest = whole.Digest
		}
		if a != *whole {
			return "not truncated, and not the same"
		}
		return ""
	}
	switch {
	case cut.Length != whole.Length:
		return "length"
	case cut.SrcPort != 0 && cut.SrcPort != whole.SrcPort, cut.DstPort != 0 && cut.DstPort != whole.DstPort:
		return "ports"
	case cut.Proto != whole.Proto && !isExtension[cut.Proto]:
		return "protocol"
	case cut.Flags&wire.MGEN != 0 && cut.FlowID != whole.FlowID:
		return "flow"
	}
	return ""
}

// TestDetector counts on crafted frames: real messages in every disguise, and
// what a careless detector takes for one.
func TestDetector(t *testing.T) {
	for name, want := range map[string]int{"mgen/crafted-positive": 120, "mgen/crafted-negative": 0} {
		d := New(Config{})
		found := 0
		fs := frames(t, name)
		for i := range fs {
			var dst [1]wire.Record
			if d.Decode(&fs[i], dst[:]) == 1 && dst[0].Flags&wire.MGEN != 0 {
				found++
			}
		}
		t.Logf("%s: %d of %d frames", name, found, len(fs))
		if found != want || len(fs) < 120 {
			t.Errorf("%s: %d of %d frames are MGEN's, want %d", name, found, len(fs), want)
		}
	}
}
