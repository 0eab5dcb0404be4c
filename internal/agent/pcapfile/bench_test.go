package pcapfile

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// benchPackets in a benchmark's file: 80 to 100 MB, well beyond every cache.
const benchPackets = 1_000_000

// benchFiles are the files that the benchmarks read, all with 64-byte packets.
var benchFiles = []struct {
	name  string
	build func() []byte
}{
	{"pcap", func() []byte { return benchPcap(binary.LittleEndian) }},
	{"pcap-big-endian", func() []byte { return benchPcap(binary.BigEndian) }},
	{"pcapng", func() []byte { return benchNG() }},
	{"pcapng-flags", func() []byte { return benchNG((&ngFile{order: binary.LittleEndian}).flags(1)) }},
}

func benchPcap(order byteOrder) []byte {
	p := newPcap(order, magicMicro, linkEthernet)
	data := payload(64, 1)
	for i := range uint32(benchPackets) {
		p.packet(1_700_000_000+i/1000, i%1000*1000, data, len(data))
	}
	return p.b
}

func benchNG(options ...option) []byte {
	p := newNG(binary.LittleEndian).iface(linkEthernet, 262144)
	data := payload(64, 1)
	for i := range uint64(benchPackets) {
		p.enhanced(0, 1_700_000_000_000_000+i, data, len(data), options...)
	}
	return p.b
}

// onFile runs read on a file in the page cache, as often as b.N packets need,
// and reports the time per packet.
func onFile(b *testing.B, content []byte, read func(io.Reader) int) {
	name := filepath.Join(b.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.SetBytes(int64(len(content) / benchPackets))
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			b.Fatal(err)
		}
		n := read(f)
		if n != benchPackets {
			b.Fatalf("%d packets, want %d", n, benchPackets)
		}
		done += n
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mpackets/s")
}

func BenchmarkRead(b *testing.B) {
	for _, file := range benchFiles {
		b.Run(file.name, func(b *testing.B) {
			content := file.build()
			onFile(b, content, func(src io.Reader) int {
				r, err := NewReader(src, "bench")
				if err != nil {
					b.Fatal(err)
				}
				var f packet.Frame
				n := 0
				for r.Next(&f) == nil {
					n++
				}
				return n
			})
		})
	}
}

// BenchmarkPcapgo is what the package comment compares with.
func BenchmarkPcapgo(b *testing.B) {
	for _, file := range benchFiles {
		b.Run(file.name, func(b *testing.B) {
			content := file.build()
			ng := isPcapng(content[:4])
			onFile(b, content, func(src io.Reader) int { return pcapgoCount(b, src, ng) })
		})
	}
}

func pcapgoCount(b *testing.B, src io.Reader, ng bool) (n int) {
	if ng {
		r, err := pcapgo.NewNgReader(src, pcapgo.NgReaderOptions{WantMixedLinkType: true})
		if err != nil {
			b.Fatal(err)
		}
		for ; err == nil; n++ {
			_, _, err = r.ZeroCopyReadPacketData()
		}
		return n - 1
	}
	r, err := pcapgo.NewReader(src)
	if err != nil {
		b.Fatal(err)
	}
	for ; err == nil; n++ {
		_, _, err = r.ZeroCopyReadPacketData()
	}
	return n - 1
}

// BenchmarkReadGzip is bound by decompression.
func BenchmarkReadGzip(b *testing.B) {
	content := gzipped(b, benchPcap(binary.LittleEndian))
	b.SetBytes(80)
	b.ResetTimer()
	for done := 0; done < b.N; done += benchPackets {
		r, err := NewReader(bytes.NewReader(content), "bench")
		if err != nil {
			b.Fatal(err)
		}
		var f packet.Frame
		for r.Next(&f) == nil {
		}
	}
}
