package capture

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

const (
	// blockSize is what the kernel hands over at a time: about 850 frames of 64 bytes,
	// so one wake-up per half millisecond at 1.7 million frames per second, and small
	// enough to be in the second-level cache when read.
	blockSize = 128 << 10
	// leastBlocks is how many blocks a ring has at least. The kernel closes a block
	// after retireAfter however little is in it, so their number is how long a reader
	// may get no processor: half a second.
	leastBlocks = 128
	// retireAfter is the time in ms after which the kernel hands over a block that is
	// not full. It is most of the delay between a packet and its record, which must
	// stay below 10 ms even where timers are rounded up to a jiffy of 4 ms
	// (CONFIG_HZ=250).
	retireAfter = 4
	// busy is the number of frames at once from which Next sleeps for a nap before it
	// asks the kernel to wake it. At lower rates it is woken immediately.
	busy = 1000
	nap  = 3 * time.Millisecond
	// roomy is the minimum size of a ring for that.
	roomy = 4 << 20
	// frameSize is required by PACKET_RX_RING but has no effect in version 3, which
	// packs frames at their real length.
	frameSize = 2048
	// frameHeaders is more than the kernel puts before a frame in a block.
	frameHeaders = 128
)

// vnetHdrLen is sizeof(struct virtio_net_hdr), which PACKET_VNET_HDR puts in front of
// the frame.
const vnetHdrLen = 10

// Ring is an AF_PACKET socket with a TPACKET_V3 ring (packet(7), and
// Documentation/networking/packet_mmap.rst in the kernel source): the kernel writes
// frames into blocks that are mapped here, and hands over a block when it is full or
// has been open for a few milliseconds.
//
// Known limitation: the kernel drops super-packets of a kind that struct virtio_net_hdr
// cannot express, and counts them in Stats.Dropped. Those are GSO of SCTP, the obsolete
// UFO, and, before Linux 6.2, UDP (UDP_SEGMENT).
type Ring struct {
	cfg  Config
	fd   int
	wake int // eventfd: Drain wakes Next
	mem  []byte
	size int // of a block
	vnet bool

	// Owned by the goroutine that calls Next.
	block   Block
	current int // the block that is held or awaited
	held    bool
	burst   uint32 // frames since Next last waited

	draining atomic.Bool
	outages  atomic.Uint64
	lost     atomic.Uint64 // frames in malformed blocks

	mu     sync.Mutex // guards what follows, and fd against Close
	closed bool
	stats  Stats // as last read: the kernel's counters restart at each read
}

// OpenRing returns a ring that costs nothing yet: it is bound to no interface until
// Attach. The socket belongs to the network namespace of the calling thread.
func OpenRing(cfg Config) (*Ring, error) {
	fail := func(err error) (*Ring, error) {
		return nil, &Error{Interface: cfg.Interface, Err: err, hint: hintFor(err)}
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return fail(err)
	}
	r := &Ring{cfg: cfg, fd: -1, wake: -1}
	if err := r.open(); err != nil {
		r.Close()
		cfg.Interface = r.cfg.Interface
		return fail(err)
	}
	return r, nil
}

func (r *Ring) open() (err error) {
	if r.fd, err = socket(unix.SOCK_RAW); err != nil {
		return err
	}
	if err = r.cfg.resolve(r.fd); err != nil {
		return err
	}
	if err = r.chooseSocket(); err != nil {
		return err
	}
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if err = r.attachFilter(r.cfg.Filter); err != nil {
		return err
	}
	return r.mapRing()
}

// chooseSocket sets the version and the offload header. Cooked sockets (SOCK_DGRAM)
// cannot have the header that identifies super-packets, so they are used only where a
// raw socket would not begin at the network header.
func (r *Ring) chooseSocket() error {
	if !r.cfg.Ethernet && !headerless(r.fd, r.cfg.Interface) {
		unix.Close(r.fd)
		var err error
		if r.fd, err = socket(unix.SOCK_DGRAM); err != nil {
			return err
		}
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return fmt.Errorf("TPACKET_V3 (needs Linux 3.2): %w", err)
	}
	// EINVAL on cooked sockets and old kernels; Offloads reports it.
	r.vnet = unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1) == nil
	return nil
}

func (r *Ring) mapRing() error {
	r.size = blockBytes(r.cfg.RingBytes, r.cfg.Snaplen, os.Getpagesize())
	blocks := max(r.cfg.RingBytes/r.size, 2)
	req := unix.TpacketReq3{
		Block_size:     uint32(r.size),
		Block_nr:       uint32(blocks),
		Frame_size:     frameSize,
		Frame_nr:       uint32(blocks * (r.size / frameSize)),
		Retire_blk_tov: retireAfter,
	}
	if err := unix.SetsockoptTpacketReq3(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fmt.Errorf("ring of %d bytes: %w", blocks*r.size, err)
	}
	mem, err := unix.Mmap(r.fd, 0, blocks*r.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map ring of %d bytes: %w", blocks*r.size, err)
	}
	r.mem = mem
	return nil
}

// blockBytes returns the size of a ring's blocks: blockSize, or less if there would be
// fewer than leastBlocks of them, but always whole pages with room for some frames.
func blockBytes(ring, snaplen, page int) int {
	size := blockSize
	for ring/size < leastBlocks && size/2 >= max(page, 8*(snaplen+frameHeaders)) {
		size /= 2
	}
	return size
}

// Attach binds the socket, so that the kernel delivers frames; it takes microseconds.
// It is not an error if the interface is down: frames are captured once it is up.
func (r *Ring) Attach() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.attach()
	if err != nil {
		return &Error{Interface: r.cfg.Interface, Err: err, hint: hintFor(err)}
	}
	return nil
}

func (r *Ring) attach() error {
	if r.closed || r.draining.Load() {
		return os.ErrClosed
	}
	if r.cfg.Promiscuous {
		m := unix.PacketMreq{Ifindex: int32(r.cfg.Index), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(r.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
			return fmt.Errorf("promiscuous mode: %w", err)
		}
	}
	return bind(r.fd, r.cfg.Index, unix.ETH_P_ALL)
}

// Offloads reports whether super-packets can be recognized (Frame.GSOType). If not,
// they look like one frame longer than the interface's MTU.
func (r *Ring) Offloads() bool { return r.vnet }

// Next implements Source.
func (r *Ring) Next() (*Block, error) {
	if r.mem == nil {
		return nil, os.ErrClosed
	}
	r.release()
	for {
		if r.load() {
			if r.block.left > 0 {
				r.burst += r.block.left
				return &r.block, nil
			}
			r.release() // a block without frames
			continue
		}
		if r.draining.Load() && r.empty() {
			return nil, io.EOF
		}
		if r.burst >= busy && len(r.mem) >= roomy {
			// Waking up for each block costs more than decoding it. The ring holds many
			// times what arrives during a nap.
			r.burst = 0
			time.Sleep(nap)
			continue
		}
		r.burst = 0
		if err := wait(r.fd, r.wake, r.draining.Load(), &r.outages); err != nil {
			return nil, fmt.Errorf("capture on %q: %w", r.cfg.Interface, err)
		}
	}
}

// Drain ends the capture; Next returns what is left in the ring.
func (r *Ring) Drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.draining.Load() {
		return
	}
	takeNothing(r.fd, r.cfg.Index)
	r.draining.Store(true)
	signal(r.wake)
}

// SetFilter replaces the filter. The kernel applies either the old or the new one to
// each frame.
func (r *Ring) SetFilter(filter []bpf.RawInstruction) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return os.ErrClosed
	}
	if r.draining.Load() {
		return nil // no more frames are captured
	}
	return r.attachFilter(filter)
}

func (r *Ring) attachFilter(filter []bpf.RawInstruction) error {
	return attachProgram(r.fd, clamp(filter, uint32(r.cfg.Snaplen)))
}

// Stats returns the counters. It does not block.
func (r *Ring) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.readCounters()
	}
	s := r.stats
	s.Dropped += r.lost.Load()
	s.Outages = r.outages.Load()
	return s
}

// readCounters accumulates the kernel's counters, which restart from zero at each read;
// tp_packets includes tp_drops.
func (r *Ring) readCounters() {
	k, err := unix.GetsockoptTpacketStatsV3(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return // not on an open packet socket
	}
	r.stats.Received += uint64(k.Packets)
	r.stats.Dropped += uint64(k.Drops)
	r.stats.Freezes += uint64(k.Freeze_q_cnt)
}

// Close unmaps the ring. It must be called by the goroutine that calls Next, or after
// that goroutine has ended.
func (r *Ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	var err error
	if r.mem != nil {
		r.readCounters()
		err = unix.Munmap(r.mem)
		r.mem, r.block, r.held = nil, Block{}, false
	}
	for _, fd := range []int{r.fd, r.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	return err
}

// Offsets in struct tpacket_block_desc, whose header tpacket_hdr_v1 begins after
// version and offset_to_priv (linux/if_packet.h). Host byte order.
const (
	blkStatus = 8
	blkFrames = 12 // num_pkts
	blkFirst  = 16 // offset_to_first_pkt
	blkLen    = 20 // bytes used, the header included
	blkHdrLen = 48
)

func (r *Ring) blockMem() []byte {
	at := r.current * r.size
	return r.mem[at : at+r.size : at+r.size]
}

// owner returns the word through which the kernel and the program hand a block to each
// other.
func owner(block []byte) *uint32 {
	return (*uint32)(unsafe.Pointer(&block[blkStatus]))
}

// load takes the current block if the kernel has handed it over.
func (r *Ring) load() bool {
	mem := r.blockMem()
	if atomic.LoadUint32(owner(mem))&unix.TP_STATUS_USER == 0 {
		return false
	}
	used := min(binary.NativeEndian.Uint32(mem[blkLen:]), uint32(r.size))
	r.held = true
	r.block = Block{
		ring: r,
		data: mem[:used:used],
		next: binary.NativeEndian.Uint32(mem[blkFirst:]),
		left: binary.NativeEndian.Uint32(mem[blkFrames:]),
	}
	return true
}

// release returns the held block to the kernel. The frame count is zeroed first, so
// that empty can distinguish a block that the kernel has not begun from one that it is
// filling.
func (r *Ring) release() {
	if !r.held {
		return
	}
	r.held = false
	r.block.left = 0
	mem := r.blockMem()
	binary.NativeEndian.PutUint32(mem[blkFrames:], 0)
	atomic.StoreUint32(owner(mem), unix.TP_STATUS_KERNEL)
	r.current++
	if r.current*r.size == len(r.mem) {
		r.current = 0
	}
}

// empty reports whether the block that the kernel is filling has no frames yet. The
// answer is final once capturing has stopped: the kernel counts a frame in num_pkts as
// soon as it has reserved room for it.
func (r *Ring) empty() bool {
	mem := r.blockMem()
	frames := (*uint32)(unsafe.Pointer(&mem[blkFrames]))
	return atomic.LoadUint32(owner(mem))&unix.TP_STATUS_USER == 0 && atomic.LoadUint32(frames) == 0
}

// Offsets in a frame's slot: struct tpacket3_hdr, followed by struct sockaddr_ll, and,
// if requested, struct virtio_net_hdr directly before the frame. All in host byte
// order, except sll_protocol.
const (
	tpNext     = 0
	tpSec      = 4
	tpNsec     = 8
	tpSnaplen  = 12
	tpLen      = 16
	tpStatus   = 20
	tpMac      = 24
	tpNet      = 26
	tpVLANTCI  = 32
	tpVLANTPID = 36
	tpHdrLen   = 48

	sllProtocol = tpHdrLen + 2
	sllPktType  = tpHdrLen + 10
	slotHdrLen  = tpHdrLen + 20

	vnetGSOType = 1
	vnetGSOSize = 4
	gsoKind     = 0x1f // without ECN (0x80) and the tunnel bits (0x60)
)

// nextInRing returns the next frame, in the slot at b.next. The kernel is trusted, but
// its lengths are checked: nothing outside the block is ever read. Unreadable frames
// are counted as dropped.
func (b *Block) nextInRing(f *packet.Frame) bool {
	for b.left > 0 {
		if uint64(b.next)+slotHdrLen > uint64(len(b.data)) {
			return b.abandon()
		}
		slot := b.data[b.next:]
		status := binary.NativeEndian.Uint32(slot[tpStatus:])
		if status&unix.TP_STATUS_USER != 0 {
			if !b.ring.read(slot, status, f) {
				return b.abandon()
			}
			b.advance(slot)
			return true
		}
		// A hole: the kernel reserved room for a frame and then dropped it because it
		// could not write the offload header. It has counted that itself, and the rest
		// of the slot is left over from an older frame.
		b.advance(slot)
	}
	return false
}

func (b *Block) advance(slot []byte) {
	b.next += binary.NativeEndian.Uint32(slot[tpNext:])
	b.left--
}

// read sets f from a slot that has all of its headers. It reports false if the frame is
// not within the slot's block.
func (r *Ring) read(slot []byte, status uint32, f *packet.Frame) bool {
	hdr := slot[:slotHdrLen]
	start := uint32(binary.NativeEndian.Uint16(hdr[tpMac:]))
	end := uint64(start) + uint64(binary.NativeEndian.Uint32(hdr[tpSnaplen:]))
	if start < slotHdrLen || end > uint64(len(slot)) {
		return false
	}
	f.GSOType, f.GSOSize = packet.GSONone, 0
	if r.vnet && start >= slotHdrLen+vnetHdrLen {
		vnet := slot[start-vnetHdrLen : start]
		if kind := vnet[vnetGSOType] & gsoKind; kind != packet.GSONone {
			f.GSOType, f.GSOSize = kind, binary.NativeEndian.Uint16(vnet[vnetGSOSize:])
		}
	}
	wireLen := binary.NativeEndian.Uint32(hdr[tpLen:])
	f.Link = r.cfg.link()
	if f.Link == packet.Network {
		// A raw socket's frame may begin with a link header after all.
		net := uint32(binary.NativeEndian.Uint16(hdr[tpNet:]))
		if skip := net - start; net > start && uint64(net) <= end && skip <= wireLen {
			start, wireLen = net, wireLen-skip
		}
	}
	f.Data = slot[start:end:end]
	f.WireLen = max(int(wireLen), len(f.Data))
	f.Time = int64(binary.NativeEndian.Uint32(hdr[tpSec:]))*1e9 + int64(binary.NativeEndian.Uint32(hdr[tpNsec:]))
	f.Protocol = binary.BigEndian.Uint16(hdr[sllProtocol:])
	f.Direction = packet.Incoming
	if hdr[sllPktType] == unix.PACKET_OUTGOING {
		f.Direction = packet.Outgoing
	}
	f.VLAN = packet.VLAN{}
	if status&unix.TP_STATUS_VLAN_VALID != 0 {
		f.VLAN = vlan(hdr, status)
	}
	return true
}

// vlan returns the tag that the card or the kernel removed. A kernel that does not
// report the type of tag (before 3.14) knows only one.
func vlan(hdr []byte, status uint32) packet.VLAN {
	v := packet.VLAN{
		TCI:     uint16(binary.NativeEndian.Uint32(hdr[tpVLANTCI:])),
		TPID:    unix.ETH_P_8021Q,
		Present: true,
	}
	if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		v.TPID = binary.NativeEndian.Uint16(hdr[tpVLANTPID:])
	}
	return v
}

// abandon gives up the rest of a block.
func (b *Block) abandon() bool {
	b.ring.lost.Add(uint64(b.left))
	b.left = 0
	return false
}
