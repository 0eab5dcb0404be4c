package decode

import (
	"math/rand/v2"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// Fragments is what to report of a fragmented datagram.
type Fragments uint8

const (
	// EveryFragment gives each fragment a record of its own: its time, its
	// length, and the ports and flow of its datagram if the first fragment
	// came before it.
	EveryFragment Fragments = iota
	// FirstOnly gives one record at the first fragment, with the length of
	// the whole datagram where the first fragment tells it (UDP).
	FirstOnly
)

// Defaults of Config.
const (
	DefaultFragmentEntries = 4096
	DefaultTCPEntries      = 4096
)

// Config of a Decoder. The zero value is ready to use.
type Config struct {
	// Fragments is what to report of fragmented datagrams.
	Fragments Fragments
	// FragmentEntries is how many datagrams' first fragments are remembered;
	// 0 means DefaultFragmentEntries. An entry takes about 100 bytes.
	FragmentEntries int
	// TCPEntries is in how many directions of TCP connections MGEN messages
	// are followed; 0 means DefaultTCPEntries. An entry takes about 140 bytes.
	TCPEntries int
	// BMF looks into the encapsulation of olsrd's BMF plug-in: the record
	// describes the packet inside, in all fields. Fragments of encapsulated
	// packets are left as they are.
	BMF bool
	// Inner looks into tunnels: VXLAN, Geneve, GRE and ERSPAN, IP in IP,
	// EtherIP, L2TPv3 over IP, MPLS in IP or UDP, and what is inside these. The
	// record describes the innermost packet, in all fields. What carries no IP
	// packet, and fragments of tunnels' packets, are left as they are.
	Inner bool
	// MarkRelayed sets wire.MarkRelayed on relayed packets.
	MarkRelayed bool
	// NoDigest leaves the records' digests 0, for outputs that do not carry them.
	NoDigest bool
}

// Inside reports whether the decoder looks inside UDP datagrams for packets,
// and so needs more of some than of others.
func (c *Config) Inside() bool { return c.BMF || c.Inner }

// Decoder turns frames into records. It belongs to one goroutine.
type Decoder struct {
	cfg       Config
	local     local
	inside    bool // cfg.Inside()
	c         Counters
	seed      seed
	fragments table[fragment]
	streams   streams
	rest      super                    // what a super-packet still stands for
	aggregate aggregate                // what is left of an A-MSDU
	wanted    func(*packet.Frame) bool // see SetWanted
}

// New returns a decoder with its tables allocated: it never grows.
func New(cfg Config) *Decoder {
	if cfg.FragmentEntries <= 0 {
		cfg.FragmentEntries = DefaultFragmentEntries
	}
	if cfg.TCPEntries <= 0 {
		cfg.TCPEntries = DefaultTCPEntries
	}
	d := &Decoder{
		cfg:    cfg,
		inside: cfg.Inside(),
		seed:   seed{rand.Uint64(), rand.Uint64(), rand.Uint64()},
	}
	if cfg.Fragments == EveryFragment {
		d.fragments = newTable[fragment](cfg.FragmentEntries)
	}
	d.streams = newStreams(cfg.TCPEntries)
	return d
}

// SetWanted sets the test that says of a first fragment whether its datagram is
// to be reported, and of a later one without its first whether it is by itself.
// It is for filters that let all fragments pass, as they cannot judge later
// ones; nil reports all.
func (d *Decoder) SetWanted(wanted func(*packet.Frame) bool) { d.wanted = wanted }

// leftOut counts a fragment that is not wanted.
func (d *Decoder) leftOut(f *packet.Frame) bool {
	if d.wanted == nil || d.wanted(f) {
		return false
	}
	d.c.FragmentsUnwanted++
	return true
}

// Decode writes the records that f gives to the beginning of dst and returns
// their number: none for what is no IP packet, one for a packet, several for a
// super-packet of which the kernel told how it will be cut. If dst is too
// short the rest is kept and must be fetched with Drain while f.Data is still
// valid, before the next frame: Decode panics if there is anything left.
func (d *Decoder) Decode(f *packet.Frame, dst []wire.Record) int {
	if d.Pending() {
		panic("decode: Decode called with records pending")
	}
	d.c.Frames++
	if len(dst) == 0 {
		d.keep(f)
		return 0
	}
	r := &dst[0]
	if d.plain(f, r) {
		d.c.Records++
		return 1
	}
	if !d.frame(f, r) {
		if d.aggregate.off > 0 {
			return d.Drain(dst)
		}
		return 0
	}
	if d.rest.left > 0 {
		d.rest.rec = *r
		return d.Drain(dst)
	}
	d.c.Records++
	return 1
}

// frame decodes f into r and reports whether it gave a record. The record of a
// super-packet is a pattern for those that d.rest makes of it.
func (d *Decoder) frame(f *packet.Frame, r *wire.Record) bool {
	off, proto, ok := d.link(f)
	if !ok {
		return false
	}
	var p ipPacket // field by field: a literal is built elsewhere and copied
	p.frame = f
	p.data = f.Data[off:]
	p.wire = max(f.WireLen, len(f.Data)) - off
	r.Time = f.Time
	r.MGENTime = 0
	r.FlowID = 0
	r.MGENSeq = 0
	r.Packets = 0
	r.Digest = 0
	r.Reason = 0
	r.SrcPort, r.DstPort = 0, 0
	if !d.packet(&p, proto, r) {
		return false
	}
	d.direction(f, r)
	if r.Flags&wire.Super != 0 {
		d.c.SuperPacketsWhole++
	}
	return true
}

// Counters returns a copy of what was counted so far.
func (d *Decoder) Counters() Counters {
	c := d.c
	c.FragmentsEvicted = d.fragments.evicted
	c.StreamsEvicted = d.streams.following.evicted
	return c
}
