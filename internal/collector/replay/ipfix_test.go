package replay

import (
	"slices"
	"testing"
	"time"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// messages is a file of IPFIX with n records, a second apart, and the records.
func messages(n int) (text string, recs []wire.Record) {
	var w ipfix.Writer
	out := w.Templates(nil, time.Unix(0, 0))
	var cells []byte
	ends := []uint32{0}
	for i := range n {
		r := wire.Record{
			Time: int64(i)*second + 123, FlowID: uint32(i + 1), MGENSeq: uint32(i), MGENTime: int64(i), Length: 100, Proto: wire.ProtoUDP,
			Flags: wire.IPv6 | wire.MGEN | wire.MGENHeader, Src: [16]byte{0x20, 1, 15: byte(i)}, Dst: [16]byte{0x20, 2},
		}
		recs = append(recs, r)
		cells, _ = ipfix.Append(cells, &r)
		ends = append(ends, uint32(len(cells)))
	}
	for len(ends) > 1 {
		m, n := w.Message(nil, time.Unix(0, 0), ipfix.MaxDatagram, cells[ends[0]:], ends)
		out, ends = append(out, m...), ends[n:]
	}
	return string(out), recs
}

// TestIPFIX: files of IPFIX are found, played whole, also packed, from any
// place, and with everything that a log line does not say; a torn one as far
// as it goes.
func TestIPFIX(t *testing.T) {
	dir := t.TempDir()
	text, want := messages(1000)
	write(t, dir, "n1.ipfix", text)
	write(t, dir, "n2.ipfix.gz", packed(text))
	write(t, dir, "n3.ipfix", text[:len(text)-1])
	files, skipped, err := Find([]string{dir})
	if err != nil || len(files) != 3 || len(skipped) != 0 || files[0].Label != "n1" || files[1].Label != "n2" {
		t.Fatal(files, skipped, err)
	}
	for _, from := range []int{0, 500} {
		got := make([][]wire.Record, 3)
		cfg := Config{Files: files, Speed: Max, Say: t.Logf, Records: func(file int, recs []wire.Record, _ []int64, _ bool) {
			got[file] = append(got[file], slices.Clone(recs)...)
		}}
		if from > 0 {
			if cfg.From, err = ParsePlace("1970-01-01T00:08:20Z"); err != nil {
				t.Fatal(err)
			}
		}
		p := New(cfg)
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		last := len(got[2]) + from
		if !slices.Equal(got[0], want[from:]) || !slices.Equal(got[1], want[from:]) || !slices.Equal(got[2], want[from:last]) || last < 980 {
			t.Errorf("from %d: %d, %d and %d records of %d, or others", from, len(got[0]), len(got[1]), len(got[2]), len(want)-from)
		}
		if !p.Count(2).Torn || p.Count(0).Torn {
			t.Error("it is not told which file is torn")
		}
	}
}
