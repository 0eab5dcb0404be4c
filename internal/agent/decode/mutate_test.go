package decode

import (
	"flag"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

var (
	mutations     = flag.Uint64("mutations", 1_000_000, "how many mutated frames TestMutate decodes")
	mutationsSeed = flag.Uint64("mutations.seed", 0, "seed of TestMutate; 0: by the clock")
)

// TestMutate decodes frames of all captures with random damage, as fast as it
// can and on every CPU, and checks what must hold of any frame. For a long run:
//
//	go test ./internal/agent/decode -run TestMutate -mutations 1000000000 -timeout 1h -v
func TestMutate(t *testing.T) {
	seed := *mutationsSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	seeds := mutationSeeds(t)
	workers := runtime.GOMAXPROCS(0)
	var records atomic.Uint64
	var wg sync.WaitGroup
	start := time.Now()
	for w := range workers {
		wg.Go(func() {
			m := newMutator(seeds, seed+uint64(w))
			if err := m.run(*mutations / uint64(workers)); err != nil {
				t.Errorf("-mutations.seed %d: %v", seed, err)
			}
			records.Add(m.d.Counters().Records)
		})
	}
	wg.Wait()
	took := time.Since(start)
	t.Logf("%d frames, %d records, seed %d, %d workers: %.1f million frames/s each", *mutations, records.Load(), seed,
		workers, float64(*mutations)/float64(workers)/took.Seconds()/1e6)
	if records.Load() < *mutations/4 {
		t.Errorf("only %d records: the damage is too great to test anything", records.Load())
	}
}

// maxMutated is the most bytes of a frame that are mutated: a live capture's
// snapshot length.
const maxMutated = 256

// mutationSeeds are the beginnings of frames of all captures, not too many
// of a kind, and the benchmarks'.
func mutationSeeds(t testing.TB) []packet.Frame {
	var seeds []packet.Frame
	add := func(f packet.Frame) {
		f.Data = f.Data[:min(len(f.Data), maxMutated)]
		seeds = append(seeds, f)
	}
	for _, name := range captures(t) {
		fs := frames(t, name)
		for i := 0; i < len(fs); i += 1 + len(fs)/40 {
			add(fs[i])
		}
	}
	for _, w := range workloads() {
		for _, f := range w.frames {
			add(f)
		}
	}
	for _, f := range wifiSeeds() {
		add(f)
	}
	seg := tcp(4101, 5001, 1, 0x10, message(60000, 1, 1))
	vxlan := join([]byte{8, 7: 0}, ether(etherIPv4, ip4(6, 1, 0, seg)))
	geneve := join([]byte{1, 0, 0x65, 0x58, 8: 1, 11: 4}, ether(etherIPv6, ip6(6, seg)))
	for kind := range uint8(6) { // super-packets, plain and in tunnels
		add(gso(ether(etherIPv4, ip4(6, 1, 0, seg)), kind, 1448, maxMutated))
		add(gso(ether(etherIPv6, jumbo(6, join(seg, seg))), kind, 1428, maxMutated))
		add(gso(ether(etherIPv4, ip4(17, 1, 0, udp(4001, 5001, join(message(60, 1, 1), message(60, 1, 2), noise(4000))))), kind, 60, maxMutated))
		add(gso(ether(etherIPv4, ip4(17, 1, 0, udp(50000, portVXLAN, vxlan))), kind, 1398, maxMutated))
		add(gso(ether(etherIPv4, ip4(17, 1, 0, udp(50000, portGeneve, geneve))), kind, 1398, maxMutated))
		add(gso(ether(etherIPv6, ip6(protoGRE, join([]byte{0xb0, 0, 8, 0, 15: 0}, ip4(6, 1, 0, seg)))), kind, 1400, maxMutated))
	}
	return seeds
}

// mutator makes damaged frames and decodes them.
type mutator struct {
	seeds []packet.Frame
	d     *Decoder
	state uint64 // of the random numbers (splitmix64)
	buf   [maxMutated]byte
	dst   [4]wire.Record
	f     packet.Frame
	now   int64
}

func newMutator(seeds []packet.Frame, seed uint64) *mutator {
	m := &mutator{
		seeds: seeds, state: seed, now: 1795415000e9,
		d: New(Config{FragmentEntries: 64, TCPEntries: 64, BMF: seed&1 != 0, Inner: seed>>2&1 != 0, MarkRelayed: true, Fragments: Fragments(seed >> 1 & 1)}),
	}
	m.state = m.rand() // or neighbouring seeds would give the same numbers, one later
	return m
}

func (m *mutator) rand() uint64 {
	m.state += 0x9e3779b97f4a7c15
	z := (m.state ^ m.state>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// run decodes n frames; what panics is part of the error.
func (m *mutator) run(n uint64) (err error) {
	i := uint64(0)
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("frame %d: %v: %+v", i, r, m.f)
		}
	}()
	for ; i < n; i++ {
		m.next()
		if err := m.decode(); err != nil {
			return fmt.Errorf("frame %d: %w: %+v", i, err, m.f)
		}
	}
	return nil
}

// next makes the next frame: a copy of a seed with up to four bytes changed,
// mostly in its headers, sometimes cut, sometimes called a super-packet.
func (m *mutator) next() {
	x := m.rand()
	m.f = m.seeds[(x>>40)*uint64(len(m.seeds))>>24]
	n := copy(m.buf[:], m.f.Data)
	m.now += int64(x & 0xfffff)
	m.f.Time = m.now
	for k := x >> 62; ; k-- {
		y := m.rand()
		at := int(y>>8) & 63
		if y&0x3000000000 == 0 {
			at += 64
		}
		if at < n {
			m.change(at, y)
		}
		if k == 0 {
			break
		}
	}
	y := m.rand()
	if y&7 == 0 {
		n = int(y>>32) * (n + 1) >> 32
	}
	m.f.Data = m.buf[:n:n]
	if y>>3&15 == 0 {
		m.f.WireLen = int(y >> 44) // up to a million: super-packets, and less than was captured
	}
	if y>>7&15 == 0 {
		m.f.GSOType, m.f.GSOSize = uint8(y>>11&7), uint16(y>>44)
	}
	if y>>20&15 == 0 {
		m.f.Link, m.f.Protocol = packet.LinkType(y>>24&15%packet.LinkTypes), []uint16{etherIPv4, etherIPv6, etherVLAN, etherMPLS}[y>>26&3]
	}
	m.f.Direction = packet.Direction(y >> 28 & 3)
}

// change puts a value that is likely to hurt, or any, at a byte.
func (m *mutator) change(at int, y uint64) {
	switch y & 7 {
	case 0:
		m.buf[at] = 0
	case 1:
		m.buf[at] = 0xff
	case 2:
		m.buf[at] = []byte{0, 43, 44, 51, 60, 135, 6, 17}[y>>16&7]
	case 3:
		m.buf[at]++
	case 4:
		m.buf[at]--
	case 5:
		m.buf[at] ^= 1 << (y >> 16 & 7)
	default:
		m.buf[at] = byte(y >> 16)
	}
}

// decode decodes the frame and checks the records. Of a super-packet that is
// cut into very many it fetches some, and forgets the others.
func (m *mutator) decode() error {
	dst := m.dst[:m.now&3+1]
	before, segments := withoutRecord(m.d), m.d.c.Segments
	n := m.d.Decode(&m.f, dst)
	// Every frame gives records or has one reason why it gives none, but for
	// those of an A-MSDU, which are several.
	if reasons := withoutRecord(m.d) - before; m.d.c.Segments == segments && ((n > 0) != (reasons == 0) || reasons > 1) {
		return fmt.Errorf("%d records, %d reasons for none", n, reasons)
	}
	for round := 0; ; round++ {
		for i := range dst[:n] {
			if err := checkRecord(&m.f, &dst[i]); err != nil {
				return err
			}
		}
		if !m.d.Pending() {
			return nil
		}
		if n != len(dst) {
			return fmt.Errorf("%d records in %d places, and more pending", n, len(dst))
		}
		if round == 4 {
			m.d.rest.left = min(m.d.rest.left, m.d.rest.size)
		}
		n = m.d.Drain(dst)
	}
}

// withoutRecord is how many frames gave no record, by the reasons.
func withoutRecord(d *Decoder) (sum uint64) {
	c := d.Counters()
	c.WithoutRecord(func(_ string, n uint64) { sum += n })
	return sum
}

// checkRecord checks what must hold of any record.
func checkRecord(f *packet.Frame, r *wire.Record) error {
	flags := r.Flags
	header := 20
	if flags&wire.IPv6 != 0 {
		header = 40
	}
	switch {
	case r.Time != f.Time:
		return fmt.Errorf("time %d", r.Time)
	case int(r.Length) < header:
		return fmt.Errorf("length %d", r.Length)
	case int(r.Length) > max(header+0xffff, f.WireLen, len(f.Data)):
		return fmt.Errorf("length %d", r.Length)
	case flags&wire.MGEN == 0 && (r.FlowID != 0 || flags&wire.MGENHeader != 0):
		return fmt.Errorf("flow %d without MGEN", r.FlowID)
	case flags&wire.MGENHeader == 0 && (r.MGENSeq != 0 || r.MGENTime != 0):
		return fmt.Errorf("number %d, time %d without header", r.MGENSeq, r.MGENTime)
	case flags&wire.MGEN != 0 && r.Proto != wire.ProtoUDP && r.Proto != wire.ProtoTCP:
		return fmt.Errorf("MGEN in protocol %d", r.Proto)
	case flags&wire.LaterFragment != 0 && flags&(wire.Fragment|wire.MGENHeader) != wire.Fragment:
		return fmt.Errorf("later fragment with flags %b", flags)
	case r.MGENTime < 0:
		return fmt.Errorf("MGEN time %d", r.MGENTime)
	case r.SrcPort|r.DstPort != 0 && !hasPorts[r.Proto]:
		return fmt.Errorf("ports in protocol %d", r.Proto)
	case flags&wire.IPv6 == 0 && [12]byte(r.Src[:]) != [12]byte{10: 0xff, 11: 0xff}:
		return fmt.Errorf("IPv4 source %v", r.Src)
	}
	return nil
}

var hasPorts = [256]bool{
	wire.ProtoTCP: true, wire.ProtoUDP: true, wire.ProtoSCTP: true, wire.ProtoDCCP: true, wire.ProtoUDPLite: true,
}
