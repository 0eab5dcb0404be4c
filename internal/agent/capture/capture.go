// Package capture receives frames from a network interface at an observation point. It
// knows filters as classic BPF programs only and never interprets a frame; decoding is
// done elsewhere.
//
// Three engines implement [Source]: eBPF programs in the interface's path ([OpenTap]),
// the fastest, on Linux 6.6 and later; the AF_PACKET ring ([OpenRing]), which is always
// available and requires CAP_NET_RAW only; and libpcap ([OpenPcap]) in builds with the
// tag libpcap.
//
// A source belongs to one goroutine, which calls Attach, Next, and Close.
// Drain, SetFilter, and Stats may be called from any goroutine.
package capture

import (
	"errors"
	"fmt"

	"golang.org/x/net/bpf"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// Defaults for the fields of Config that are zero.
const (
	// DefaultSnaplen holds all headers that a decoder needs, including tunnels.
	DefaultSnaplen = 256
	// DefaultRingBytes of a packet socket hold 100,000 small frames: 60 ms at 1.7
	// million per second.
	DefaultRingBytes = 16 << 20
)

// maxSnaplen is more than the size of any frame (BIG TCP stays below it), and what
// tcpdump takes to mean "everything".
const maxSnaplen = 0x40000

// Config configures a capture.
type Config struct {
	// The interface is identified by its name, or by Index if that is not 0.
	Interface string
	Index     int
	// Ethernet means that frames begin with an Ethernet header (packet.Ethernet).
	// Otherwise they begin at the network header (packet.Network), whatever link header
	// the interface has, and the filter sees them that way too.
	Ethernet bool
	// WiFi is packet.Radiotap or packet.IEEE80211 if Ethernet is false and frames begin
	// with such a header, as on interfaces in monitor mode.
	WiFi packet.LinkType
	// Filter is a program for the kernel's socket filter; an empty one accepts all
	// frames. Its result means accept (nonzero) or reject; accepted frames are cut at
	// Snaplen even if it returns more.
	Filter []bpf.RawInstruction
	// Snaplen is the maximum number of bytes kept of a frame.
	Snaplen int
	// RingBytes is the size of the kernel's buffer.
	RingBytes int
	// OwnPorts are TCP ports whose packets, from or to an address given with
	// Tap.SetOwnAddrs, are filtered out in the kernel. Only the first four are used,
	// and only by a Tap.
	OwnPorts []uint16
	// Inside means that the decoder looks for packets inside UDP datagrams, and needs
	// more bytes of those that may contain some. Only the eBPF engine keeps fewer bytes
	// otherwise.
	Inside bool
	// Parse means that only the headers of a plain UDP datagram that is not MGEN's are
	// needed, and no digest. A Tap may then parse it in the kernel; see Block.Parsed.
	Parse bool
	// Moved is called by an attached Tap when it starts to see frames at another
	// position, with the position and the reason. It is called from another goroutine.
	Moved func(position string)
	// Judge converts a filter to a test, for the engine that filters in user space,
	// Shared. If it is nil, no frame is tested.
	Judge func([]bpf.RawInstruction) (Judge, error)
	// Point is where outgoing frames are observed. With engines other than eBPF, it is
	// always AfterQueue.
	Point Point
	// Promiscuous asks the card for frames that are addressed to others.
	Promiscuous bool
}

// Point is where outgoing frames are observed relative to an interface's queueing
// discipline, which may drop or delay them.
type Point uint8

// Values of Point.
const (
	AfterQueue Point = iota
	BeforeQueue
	BothPoints
)

func (p Point) String() string { return [...]string{"after", "before", "both"}[p] }

// Judge decides in user space which frames are wanted.
type Judge struct {
	// Match reports whether a frame is wanted.
	Match func(*packet.Frame) bool
	// From excludes frames by their source MAC address, so that the kernel does not
	// hand them over at all.
	From From
	MAC  [6]byte // valid iff From is not Anyone
}

// From is a condition on the source MAC address.
type From uint32

// The values are those in bpf/tap.c.
const (
	Anyone  From = iota
	FromMAC      // frames whose source is Judge.MAC
	Others       // frames whose source is not
)

// link returns the link type of the frames.
func (c *Config) link() packet.LinkType {
	switch {
	case c.Ethernet:
		return packet.Ethernet
	case c.WiFi != 0:
		return c.WiFi
	}
	return packet.Network
}

// withDefaults sets fields that are zero to their defaults, and rejects invalid ones.
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

// maxRingBytes is the largest multiple of a block below 2 GiB, which fits in an int
// everywhere and in the kernel's block arithmetic.
const maxRingBytes = 1<<31 - 1<<20

// Stats count from Attach on and never decrease.
type Stats struct {
	// Received is the number of frames that passed the filter, whether or not there was
	// room for them: Received = frames returned by Next + Dropped + those still in the
	// ring.
	Received uint64
	// Dropped is the number of frames that passed the filter but were lost because the
	// ring was full.
	Dropped uint64
	// Freezes is how often the ring was found full; one freeze may drop many frames.
	Freezes uint64
	// Own is the number of frames of Config.OwnPorts that were filtered out. They are
	// not included in Received.
	Own uint64
	// Wakes is how often the kernel woke the reader, if the engine counts that.
	Wakes uint64
	// Outages is how often the interface went down during the capture.
	Outages uint64
}

// Source is a live capture.
type Source interface {
	// Attach starts the capture.
	Attach() error
	// Next releases the previous block and blocks until there is another. After Drain
	// it returns io.EOF once everything has been read.
	Next() (*Block, error)
	// Drain ends the capture: it returns when no more frames are captured, and loses
	// none captured before. It may block for some milliseconds.
	Drain()
	// SetFilter replaces the filter between two frames, without a gap. It is meant for
	// occasional changes, such as those of addresses: the kernel frees old programs
	// with a delay, and does not cope with thousands of them per second.
	SetFilter([]bpf.RawInstruction) error
	// Stats returns the counters since Attach; after Close, those at Close.
	Stats() Stats
	// Close frees everything, including the memory of blocks returned by Next.
	Close() error
}

var (
	_ Source = (*Ring)(nil)
	_ Source = (*Pcap)(nil)
	_ Source = (*Tap)(nil)
)

// ErrFilter is wrapped by errors about a filter that the kernel rejects: one that is
// not a valid program, or is too long for net.core.optmem_max.
var ErrFilter = errors.New("filter rejected")

// Error explains why a capture could not be opened. Its cause, if any, is a
// syscall.Errno or ErrFilter, so errors.Is(err, fs.ErrPermission) works.
type Error struct {
	Interface string
	Err       error
	hint      string
}

func (e *Error) Error() string {
	return fmt.Sprintf("cannot capture on %q: %v", e.Interface, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Hint returns the next step for the user, or "".
func (e *Error) Hint() string { return e.hint }

// Block is a run of captured frames, oldest first.
type Block struct {
	left uint32 // frames not yet returned

	// The block of a Ring, in the kernel's layout: see nextInRing. Valid iff ring is
	// not nil.
	ring *Ring
	data []byte
	next uint32 // offset of the next frame in data

	// The block of a Tap, in the layout of its programs: see nextInTap.
	tap *Tap

	// The frames of an engine without a ring.
	frames []packet.Frame
}

// Next sets f to the next frame without copying it: f.Data is valid until the block is
// released. If there is none left, it reports false and leaves f unchanged.
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

// Parsed returns the next frames, at most n, if the kernel has parsed them. Adding offset
// to their times gives UTC. They are valid until the block is released. With
// Config.Parse, the caller must call it before each Next, until it returns none.
func (b *Block) Parsed(n int) (frames []packet.Parsed, offset int64) {
	if b.tap == nil || b.left == 0 || !b.tap.parsing {
		return nil, 0
	}
	return b.tap.parsed(n), b.tap.offset
}

// Len returns an upper bound on the number of frames that Next will still return.
func (b *Block) Len() int { return int(b.left) }

// Release returns the block's memory to the kernel. Calling it again has no effect.
func (b *Block) Release() {
	b.left = 0
	switch {
	case b.ring != nil:
		b.ring.release()
	case b.tap != nil:
		b.tap.release()
	}
}
