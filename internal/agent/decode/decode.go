package decode

import (
	"math/rand/v2"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// Fragments selects how fragmented datagrams are reported.
type Fragments uint8

const (
	// EveryFragment reports each fragment by itself: its time, its length, and, if the
	// first fragment came before it, the ports and flow of its datagram.
	EveryFragment Fragments = iota
	// FirstOnly reports one record at the first fragment, with the length of the whole
	// datagram if the first fragment contains it (UDP).
	FirstOnly
)

// Defaults of Config.
const (
	DefaultFragmentEntries = 4096
	DefaultTCPEntries      = 4096
)

// Config configures a Decoder. The zero value is ready to use.
type Config struct {
	// Fragments selects how fragmented datagrams are reported.
	Fragments Fragments
	// FragmentEntries is the number of datagrams whose first fragment is remembered; 0
	// means DefaultFragmentEntries. An entry takes about 100 bytes.
	FragmentEntries int
	// TCPEntries is the number of directions of TCP connections in which MGEN messages
	// are followed; 0 means DefaultTCPEntries. An entry takes about 140 bytes.
	TCPEntries int
	// BMF looks inside the encapsulation of olsrd's BMF plug-in: all fields of the
	// record describe the inner packet. Fragments of encapsulated packets are reported
	// as they are.
	BMF bool
	// Inner looks inside tunnels: VXLAN, Geneve, GRE and ERSPAN, IP in IP, EtherIP,
	// L2TPv3 over IP, MPLS in IP or UDP, and combinations of these. All fields of the
	// record describe the innermost packet. Tunnel packets without an inner IP packet,
	// and fragments of tunnel packets, are reported as they are.
	Inner bool
	// MarkRelayed sets wire.MarkRelayed on relayed packets.
	MarkRelayed bool
	// NoDigest leaves the records' digests 0, for outputs that do not carry them.
	NoDigest bool
}

// Inside reports whether the decoder looks for packets inside UDP datagrams, and
// therefore needs more bytes of some of them.
func (c *Config) Inside() bool { return c.BMF || c.Inner }

// Decoder turns frames into records. It must not be used by several goroutines at once.
type Decoder struct {
	cfg       Config
	local     local
	inside    bool // cfg.Inside()
	c         Counters
	seed      seed
	fragments table[fragment]
	streams   streams
	rest      super                    // what remains of a super-packet
	aggregate aggregate                // what remains of an A-MSDU
	wanted    func(*packet.Frame) bool // see SetWanted
}

// New returns a decoder. Its tables are allocated now and never grow.
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

// SetWanted sets the test for fragments that decides, from a first fragment, whether
// its datagram is reported, and from a later fragment whose first is unknown, whether
// that fragment is reported. It complements filters that let all fragments pass because
// they cannot test later ones. A nil test reports all.
func (d *Decoder) SetWanted(wanted func(*packet.Frame) bool) { d.wanted = wanted }

// leftOut reports whether a fragment is unwanted, and counts it if so.
func (d *Decoder) leftOut(f *packet.Frame) bool {
	if d.wanted == nil || d.wanted(f) {
		return false
	}
	d.c.FragmentsUnwanted++
	return true
}

// Decode stores the records for f at the beginning of dst and returns their number:
// none if f is not an IP packet, one for a packet, and several for a super-packet if
// the kernel reported how it will be segmented. If dst is too short, the rest is kept
// and must be fetched with Drain before the next frame, while f.Data is still valid:
// Decode panics if any are left.
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

// frame decodes f into r and reports whether there is a record. The record of a
// super-packet is the template for those that d.rest derives from it.
func (d *Decoder) frame(f *packet.Frame, r *wire.Record) bool {
	off, proto, ok := d.link(f)
	if !ok {
		return false
	}
	var p ipPacket // field by field: a composite literal would be built elsewhere and copied
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

// Counters returns a copy of the counters.
func (d *Decoder) Counters() Counters {
	c := d.c
	c.FragmentsEvicted = d.fragments.evicted
	c.StreamsEvicted = d.streams.following.evicted
	return c
}
