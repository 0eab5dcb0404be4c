// Package capture takes frames from a network interface: what an observation
// point sees, without judging it. It knows filters only as classic BPF
// programs and never looks into a frame; decoding is done elsewhere.
//
// There are three engines behind [Source]: eBPF programs in the interface's
// path ([OpenTap]), the fastest, on Linux 6.6 and later; the AF_PACKET ring
// ([OpenRing]), always there and content with CAP_NET_RAW; and libpcap
// ([OpenPcap]) in a build with the tag libpcap.
//
// A source belongs to one goroutine, which calls Attach, Next and Close.
// Drain, SetFilter and Stats may be called from any.
package capture

import (
	"errors"
	"fmt"

	"golang.org/x/net/bpf"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// Defaults for the fields of Config that are zero.
const (
	// DefaultSnaplen holds any headers that a decoder wants, tunnels included.
	DefaultSnaplen = 256
	// DefaultRingBytes of a packet socket hold 100,000 small frames: 60 ms at 1.7
	// million a second.
	DefaultRingBytes = 16 << 20
)

// maxSnaplen is the most that a frame can have (BIG TCP is below it) and what
// tcpdump takes as "everything".
const maxSnaplen = 0x40000

// Config says what to capture.
type Config struct {
	// Interface by name, or by Index if that is not 0.
	Interface string
	Index     int
	// Ethernet: frames begin with an Ethernet header (packet.Ethernet). Without
	// it they begin at the network header (packet.Network), whatever link
	// header the interface has, and the filter sees them in the same way.
	Ethernet bool
	// WiFi is packet.Radiotap or packet.IEEE80211 if frames begin with such a
	// header and Ethernet is false: on interfaces in monitor mode.
	WiFi packet.LinkType
	// Filter is a program for the kernel's socket filter; none takes all. What
	// it returns says accept (not 0) or reject; accepted frames are cut at
	// Snaplen even if it returns more.
	Filter []bpf.RawInstruction
	// Snaplen is the most bytes of a frame that are kept.
	Snaplen int
	// RingBytes is the kernel's buffer.
	RingBytes int
	// OwnPorts are TCP ports whose packets, from or to an address given with
	// Tap.SetOwnAddrs, are left out already in the kernel: the first four. Only
	// a Tap does so.
	OwnPorts []uint16
	// Inside: the decoder looks inside UDP datagrams for packets, and needs more
	// of those that may hold some. Only the eBPF engine keeps less otherwise.
	Inside bool
	// Moved is told by a Tap that is attached when it sees frames at another
	// place, and why. It is called from another goroutine.
	Moved func(position string)
	// Judge makes the test that a filter is, for an engine that applies it in
	// user space: Shared. No frame is tested if it is nil.
	Judge func([]bpf.RawInstruction) (Judge, error)
	// Point is where outgoing frames are seen. With engines other than the eBPF one, it is
	// always AfterQueue.
	Point Point
	// Promiscuous asks the card for frames that are addressed to others.
	Promiscuous bool
}

// Point is where an interface's outgoing frames are seen, if its queueing discipline may
// drop or delay them.
type Point uint8

// Points.
const (
	AfterQueue Point = iota
	BeforeQueue
	BothPoints
)

func (p Point) String() string { return [...]string{"after", "before", "both"}[p] }

// Judge decides in user space which frames are wanted.
type Judge struct {
	// Match reports whether a frame is.
	Match func(*packet.Frame) bool
	// From says which frames are not, as far as their source MAC tells, so that
	// the kernel need not hand them over.
	From From
	MAC  [6]byte // valid iff From is not Anyone
}

// From is whose frames may be wanted.
type From uint32

// As in bpf/tap.c.
const (
	Anyone  From = iota
	FromMAC      // those whose source is Judge.MAC
	Others       // those whose source is not
)

// link is what the frames begin with.
func (c *Config) link() packet.LinkType {
	switch {
	case c.Ethernet:
		return packet.Ethernet
	case c.WiFi != 0:
		return c.WiFi
	}
	return packet.Network
}

// withDefaults fills in what is zero and refuses what cannot be.
func (c Config) withDefaults() (Config, error) {
	if c.Snaplen == 0 {
		c.Snaplen = DefaultSnaplen
	}
	if c.RingBytes == 0 {
		c.RingBytes = DefaultRingBytes
	}
	if c.Snaplen < 0 || c.Snaplen > maxSnaplen {
		return c, fmt.Errorf("snapshot length %d: want 1 to %d", c.Snaplen, maxSnaplen)
	}
	if c.RingBytes < 0 || c.RingBytes > maxRingBytes {
		return c, fmt.Errorf("ring of %d bytes: want at most %d", c.RingBytes, maxRingBytes)
	}
	if c.Interface == "" && c.Index <= 0 {
		return c, errors.New("no interface given")
	}
	return c, nil
}

// maxRingBytes is the largest multiple of a block below 2 GiB: what an int
// holds everywhere and the kernel's block arithmetic allows.
const maxRingBytes = 1<<31 - 1<<20

// Stats are counted from Attach on and never go back.
type Stats struct {
	// Received frames passed the filter, whether or not there was room:
	// Received = frames out of Next + Dropped + those still in the ring.
	Received uint64
	// Dropped frames passed the filter and were lost since the ring was full.
	Dropped uint64
	// Freezes is how often the ring was found full; one freeze drops many.
	Freezes uint64
	// Own is how many frames of Config.OwnPorts were left out. They are not in
	// Received.
	Own uint64
	// Wakes is how often the kernel woke the reader, as far as the engine tells.
	Wakes uint64
	// Outages is how often the interface went down under the capture.
	Outages uint64
}

// Source is a live capture.
type Source interface {
	// Attach starts the capture: frames are taken from now on.
	Attach() error
	// Next releases the block before it and blocks until there is another. It is
	// io.EOF after Drain, once all has been read.
	Next() (*Block, error)
	// Drain ends the capture: no frame is taken after it has returned, and none
	// that was taken before is lost. It may block for some milliseconds.
	Drain()
	// SetFilter replaces the filter, for whole frames and without a gap. It is
	// for changes of addresses and the like: the kernel frees old programs at
	// leisure, and does not like thousands of them a second.
	SetFilter([]bpf.RawInstruction) error
	// Stats since Attach; after Close, those at Close.
	Stats() Stats
	// Close ends everything. What Next gave is invalid afterwards.
	Close() error
}

var (
	_ Source = (*Ring)(nil)
	_ Source = (*Pcap)(nil)
	_ Source = (*Tap)(nil)
)

// ErrFilter is wrapped by the errors about a filter that the kernel does not
// take: not a program, or too long for net.core.optmem_max.
var ErrFilter = errors.New("filter rejected")

// Error is why a capture could not be opened. Its cause is a syscall.Errno or
// ErrFilter where there is one, so errors.Is(err, fs.ErrPermission) works.
type Error struct {
	Interface string
	Err       error
	hint      string
}

func (e *Error) Error() string {
	return fmt.Sprintf("cannot capture on %q: %v", e.Interface, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Hint is the next step for the user, or "".
func (e *Error) Hint() string { return e.hint }

// Block is what Next gives: some frames, oldest first.
type Block struct {
	left uint32 // frames not yet given out

	// A block of a ring, in the kernel's layout: see nextInRing. Valid iff ring
	// is not nil.
	ring *Ring
	data []byte
	next uint32 // offset of the next frame in data

	// A block of a tap, in the layout of its programs: see nextInTap.
	tap *Tap

	// The frames of an engine without a ring.
	frames []packet.Frame
}

// Next fills f with the next frame, without copying it: f.Data is valid until
// the block is released. It reports false, f unchanged, when none is left.
func (b *Block) Next(f *packet.Frame) bool {
	if b.left == 0 {
		return false
	}
	if b.ring != nil {
		return b.nextInRing(f)
	}
	if b.tap != nil {
		return b.nextInTap(f)
	}
	*f = b.frames[len(b.frames)-int(b.left)]
	b.left--
	return true
}

// Len is the most frames that Next has still to give.
func (b *Block) Len() int { return int(b.left) }

// Release gives the block's memory back to the kernel. A second call does
// nothing.
func (b *Block) Release() {
	b.left = 0
	switch {
	case b.ring != nil:
		b.ring.release()
	case b.tap != nil:
		b.tap.release()
	}
}
