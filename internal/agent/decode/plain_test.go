package decode

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/pcapper/pcapper/wire"
)

// The short way and the long one give the same records and count the same, for
// every frame of testdata and for ones that are a few bytes off.
func TestPlainAsFrame(t *testing.T) {
	short, long := New(Config{MarkRelayed: true}), New(Config{MarkRelayed: true})
	rng := rand.New(rand.NewPCG(1, 4))
	taken, changed := 0, 0
	for _, name := range captures(t) {
		for _, f := range frames(t, name) {
			if rng.IntN(50) == 0 && len(f.Data) >= ethernetLen {
				l := Local{MAC: net.HardwareAddr(bytes.Clone(f.Data[6:12])), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(9))})}}
				short.SetLocal(l)
				long.SetLocal(l)
			}
			original := f.Data
			for i := range 8 {
				f.Data = bytes.Clone(original)
				if i > 0 && len(f.Data) > 0 {
					f.Data[rng.IntN(min(len(f.Data), 80))] = byte(rng.IntN(256))
					f.Data = f.Data[:len(f.Data)-rng.IntN(min(len(f.Data), 60))*rng.IntN(2)]
				}
				var got, want wire.Record
				before := short.c
				if !short.plain(&f, &got) {
					if short.c != before || got != (wire.Record{}) {
						t.Fatalf("%s: a frame that it leaves alone changes something", name)
					}
					continue
				}
				taken++
				if i > 0 {
					changed++
				}
				if !long.frame(&f, &want) || got != want || long.rest.left > 0 {
					t.Fatalf("%s: % x:\n%+v by plain\n%+v by frame", name, f.Data, got, want)
				}
				if short.c != long.c {
					t.Fatalf("%s: % x:\n%+v by plain\n%+v by frame", name, f.Data, short.c, long.c)
				}
			}
		}
	}
	if taken < 10_000 || changed < 5_000 {
		t.Errorf("only %d frames went the short way, %d of them changed", taken, changed)
	}
}
