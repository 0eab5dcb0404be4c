//go:build libpcap && cgo

package capture

/*
#cgo LDFLAGS: -lpcap
#include <stdlib.h>
#include <string.h>
#include <pcap/pcap.h>

// A frame as batch_add leaves it for Go.
struct frame {
	int64_t  time; // nanoseconds
	uint32_t caplen, len;
};

struct batch {
	struct frame  *frames;
	unsigned char *bytes; // room bytes for each frame
	uint32_t       room;
	int            n;
};

static void batch_add(u_char *user, const struct pcap_pkthdr *h, const u_char *data) {
	struct batch *b = (struct batch *)user;
	struct frame *f = &b->frames[b->n];
	f->time = (int64_t)h->ts.tv_sec * 1000000000 + h->ts.tv_usec;
	f->len = h->len;
	f->caplen = h->caplen < b->room ? h->caplen : b->room;
	memcpy(b->bytes + (size_t)b->n * b->room, data, f->caplen);
	b->n++;
}

// batch_read reads at most max frames without waiting. It returns their number
// or one of libpcap's negative errors.
static int batch_read(pcap_t *p, struct frame *frames, unsigned char *bytes, uint32_t room, int max) {
	struct batch b = { frames, bytes, room, 0 };
	int rc = pcap_dispatch(p, max, batch_add, (u_char *)&b);
	return rc < 0 ? rc : b.n;
}
*/
import "C"

import (
	"encoding/binary"
	"errors"
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

// HavePcap reports whether this build has the libpcap engine.
const HavePcap = true

const (
	// pcapBatch is the maximum number of frames in a Block of this engine.
	pcapBatch = 1024
	// sllHdrLen is the length of the LINKTYPE_LINUX_SLL header: the packet type is in
	// the first two bytes, the EtherType in the last two.
	sllHdrLen = 16
	// drainQuiet is how long Drain waits without new frames before it gives up on those
	// still missing from the kernel's count. libpcap silently discards outgoing copies
	// on loopback.
	drainQuiet = 50 * time.Millisecond
)

// Pcap is a capture by libpcap, for comparison with the ring and for users who are
// required to use it. It does not know directions, except where there is no Ethernet
// header; VLAN tags are left in the frame; and super-packets cannot be recognized.
//
// Filters are passed to the kernel unchanged rather than to pcap_setfilter, which would
// rewrite them and supports less than the kernel.
type Pcap struct {
	cfg      Config
	handle   *C.pcap_t
	fd       int
	wake     int
	linkType C.int

	// Owned by the goroutine that calls Next.
	block     Block
	frames    []packet.Frame
	raw       []C.struct_frame
	bytes     []byte
	room      int
	delivered uint64 // frames returned by libpcap, including those before Attach

	since    atomic.Int64 // earlier frames do not belong to this capture; ns
	draining atomic.Bool
	outages  atomic.Uint64

	mu                     sync.Mutex // guards what follows, and handle against Close
	closed                 bool
	stats                  Stats
	lastRecv, lastDrop     C.u_int
	recvBefore, dropBefore uint64
}

// OpenPcap opens the interface with libpcap. Until Attach, the kernel rejects all
// frames, which has a cost, because libpcap has no unbound sockets.
func OpenPcap(cfg Config) (*Pcap, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, &Error{Interface: cfg.Interface, Err: err}
	}
	p := &Pcap{cfg: cfg, fd: -1, wake: -1}
	if err := p.open(); err != nil {
		p.Close()
		return nil, &Error{Interface: p.cfg.Interface, Err: err, hint: hintFor(err)}
	}
	return p, nil
}

func (p *Pcap) open() (err error) {
	if err := p.resolve(); err != nil {
		return err
	}
	if err := p.activate(); err != nil {
		return err
	}
	p.fd = int(C.pcap_get_selectable_fd(p.handle))
	if err := attachProgram(p.fd, rejectAll); err != nil {
		return err
	}
	if err := p.checkLinkType(); err != nil {
		return err
	}
	// Try the filter that Attach will set on a separate socket.
	if err := tryProgram(clamp(p.cfg.Filter, uint32(p.cfg.Snaplen))); err != nil {
		return err
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	p.room = p.cfg.Snaplen + sllHdrLen
	p.raw = make([]C.struct_frame, pcapBatch)
	p.bytes = make([]byte, pcapBatch*p.room)
	p.frames = make([]packet.Frame, 0, pcapBatch)
	return nil
}

// resolve looks up the name of an interface given by its index.
func (p *Pcap) resolve() error {
	if p.cfg.Index == 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if p.cfg.Interface, err = interfaceName(fd, p.cfg.Index); err != nil {
		return fmt.Errorf("interface with index %d: %w", p.cfg.Index, err)
	}
	return nil
}

func tryProgram(program []bpf.RawInstruction) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return attachProgram(fd, program)
}

func (p *Pcap) activate() error {
	name := C.CString(p.cfg.Interface)
	defer C.free(unsafe.Pointer(name))
	buf := (*C.char)(C.malloc(C.PCAP_ERRBUF_SIZE))
	defer C.free(unsafe.Pointer(buf))
	if p.handle = C.pcap_create(name, buf); p.handle == nil {
		return errors.New(C.GoString(buf))
	}
	promiscuous := C.int(0)
	if p.cfg.Promiscuous {
		promiscuous = 1
	}
	C.pcap_set_snaplen(p.handle, C.int(p.cfg.Snaplen+sllHdrLen))
	C.pcap_set_promisc(p.handle, promiscuous)
	C.pcap_set_timeout(p.handle, retireAfter)
	C.pcap_set_buffer_size(p.handle, C.int(p.cfg.RingBytes))
	C.pcap_set_tstamp_precision(p.handle, C.PCAP_TSTAMP_PRECISION_NANO)
	if rc := C.pcap_activate(p.handle); rc < 0 {
		return p.failure(rc)
	}
	if C.pcap_setnonblock(p.handle, 1, buf) != 0 {
		return errors.New(C.GoString(buf))
	}
	return nil
}

// failure returns libpcap's error, with the errno that it stands for, if any.
func (p *Pcap) failure(rc C.int) error {
	text := C.GoString(C.pcap_statustostr(rc))
	if detail := C.GoString(C.pcap_geterr(p.handle)); detail != "" {
		text += ": " + detail
	}
	switch rc {
	case C.PCAP_ERROR_NO_SUCH_DEVICE:
		return fmt.Errorf("%w: libpcap: %s", unix.ENODEV, text)
	case C.PCAP_ERROR_PERM_DENIED, C.PCAP_ERROR_PROMISC_PERM_DENIED:
		return fmt.Errorf("%w: libpcap: %s", unix.EPERM, text)
	}
	return fmt.Errorf("libpcap: %s", text)
}

// checkLinkType checks that frames begin with the header that the caller expects.
func (p *Pcap) checkLinkType() error {
	p.linkType = C.pcap_datalink(p.handle)
	ethernet := p.linkType == C.DLT_EN10MB
	cooked := p.linkType == C.DLT_LINUX_SLL || p.linkType == C.DLT_RAW
	wifi := p.cfg.WiFi == packet.Radiotap && p.linkType == C.DLT_IEEE802_11_RADIO ||
		p.cfg.WiFi == packet.IEEE80211 && p.linkType == C.DLT_IEEE802_11
	switch p.cfg.link() {
	case packet.Ethernet:
		cooked, wifi = false, false
	case packet.Network:
		ethernet, wifi = false, false
	default:
		ethernet, cooked = false, false
	}
	if ethernet || cooked || wifi {
		return nil
	}
	return fmt.Errorf("libpcap gives frames of link type %s", C.GoString(C.pcap_datalink_val_to_name(p.linkType)))
}

// Attach implements Source.
func (p *Pcap) Attach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.draining.Load() {
		return &Error{Interface: p.cfg.Interface, Err: os.ErrClosed}
	}
	p.readCounters()
	p.recvBefore, p.dropBefore = p.stats.Received, p.stats.Dropped
	p.since.Store(time.Now().UnixNano())
	if err := p.attachFilter(p.cfg.Filter); err != nil {
		return &Error{Interface: p.cfg.Interface, Err: err}
	}
	return nil
}

// SetFilter implements Source.
func (p *Pcap) SetFilter(filter []bpf.RawInstruction) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return os.ErrClosed
	}
	if p.draining.Load() {
		return nil
	}
	return p.attachFilter(filter)
}

func (p *Pcap) attachFilter(filter []bpf.RawInstruction) error {
	return attachProgram(p.fd, clamp(filter, uint32(p.cfg.Snaplen)))
}

// Next implements Source.
func (p *Pcap) Next() (*Block, error) {
	if p.frames == nil || p.handle == nil {
		return nil, os.ErrClosed
	}
	quietSince := time.Now()
	for {
		n, err := p.read()
		if err != nil {
			return nil, fmt.Errorf("capture on %q: %w", p.cfg.Interface, err)
		}
		if n > 0 {
			quietSince = time.Now()
		}
		if len(p.frames) > 0 {
			p.block = Block{frames: p.frames, left: uint32(len(p.frames))}
			return &p.block, nil
		}
		if p.draining.Load() && (p.complete() || time.Since(quietSince) > drainQuiet) {
			return nil, io.EOF
		}
		if n > 0 {
			continue // all of them precede Attach
		}
		if err := wait(p.fd, p.wake, p.draining.Load(), &p.outages); err != nil {
			return nil, fmt.Errorf("capture on %q: %w", p.cfg.Interface, err)
		}
	}
}

// read moves the frames that libpcap has into p.frames. It returns their number,
// including those from before Attach.
func (p *Pcap) read() (int, error) {
	p.frames = p.frames[:0]
	n := int(C.batch_read(p.handle, &p.raw[0], (*C.uchar)(unsafe.Pointer(&p.bytes[0])), C.uint32_t(p.room), pcapBatch))
	if n < 0 {
		return 0, p.failure(C.int(n))
	}
	p.delivered += uint64(n)
	since := p.since.Load()
	for i := range p.raw[:n] {
		raw := &p.raw[i]
		if since == 0 || int64(raw.time) < since {
			continue
		}
		at := i * p.room
		f := packet.Frame{
			Data:    p.bytes[at : at+int(raw.caplen) : at+int(raw.caplen)],
			Time:    int64(raw.time),
			WireLen: int(raw.len),
		}
		p.strip(&f)
		f.Data = f.Data[:min(len(f.Data), p.cfg.Snaplen)]
		p.frames = append(p.frames, f)
	}
	return n, nil
}

// strip removes the cooked header, so that the frame looks like a ring's.
func (p *Pcap) strip(f *packet.Frame) {
	switch {
	case p.linkType == C.DLT_EN10MB:
		return
	case p.linkType == C.DLT_IEEE802_11_RADIO, p.linkType == C.DLT_IEEE802_11:
		f.Link = p.cfg.WiFi
	case p.linkType == C.DLT_RAW:
		f.Link, f.Protocol = packet.Network, unix.ETH_P_IP
		if len(f.Data) > 0 && f.Data[0]>>4 == 6 {
			f.Protocol = unix.ETH_P_IPV6
		}
	case len(f.Data) < sllHdrLen:
		f.Link, f.Data = packet.Network, nil
	default:
		f.Link = packet.Network
		f.Protocol = binary.BigEndian.Uint16(f.Data[sllHdrLen-2:])
		f.Direction = packet.Incoming
		if binary.BigEndian.Uint16(f.Data) == unix.PACKET_OUTGOING {
			f.Direction = packet.Outgoing
		}
		f.Data = f.Data[sllHdrLen:]
		f.WireLen -= sllHdrLen
	}
}

// complete reports whether libpcap has returned everything that the kernel captured.
func (p *Pcap) complete() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readCounters()
	return p.delivered+p.stats.Dropped >= p.stats.Received
}

// Drain implements Source, see also Ring.Drain.
func (p *Pcap) Drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.draining.Load() {
		return
	}
	takeNothing(p.fd, p.ifIndex())
	p.draining.Store(true)
	signal(p.wake)
}

// ifIndex returns the index of the interface that the socket is bound to, or 0 if that
// is gone.
func (p *Pcap) ifIndex() int {
	addr, err := unix.Getsockname(p.fd)
	if ll, ok := addr.(*unix.SockaddrLinklayer); ok && err == nil {
		return ll.Ifindex
	}
	return 0
}

// Stats implements Source.
func (p *Pcap) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.readCounters()
	}
	return Stats{
		Received: p.stats.Received - p.recvBefore,
		Dropped:  p.stats.Dropped - p.dropBefore,
		Outages:  p.outages.Load(),
	}
}

// readCounters extends libpcap's counters, which are 32 bits wide and wrap.
func (p *Pcap) readCounters() {
	var s C.struct_pcap_stat
	if p.handle == nil || C.pcap_stats(p.handle, &s) != 0 {
		return
	}
	p.stats.Received += uint64(s.ps_recv - p.lastRecv)
	p.stats.Dropped += uint64(s.ps_drop - p.lastDrop)
	p.lastRecv, p.lastDrop = s.ps_recv, s.ps_drop
}

// Close implements Source.
func (p *Pcap) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	if p.fd >= 0 {
		p.readCounters()
	}
	p.closed = true
	if p.handle != nil {
		C.pcap_close(p.handle)
		p.handle = nil
	}
	if p.wake >= 0 {
		unix.Close(p.wake)
	}
	p.block, p.frames = Block{}, nil
	return nil
}
