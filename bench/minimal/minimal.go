// Package minimal is the least that an agent with pcapper's kernel program can
// be: one thread that reads the rings, makes 28 bytes of each frame, and sends
// them to the only collector. It has no filter, decodes IPv4 UDP frames only,
// merges nothing by time and counts no losses. It is there to be compared with.
package minimal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// The layout of bpf/tap.c: per processor a header, the ring, and what frames
// may reach into behind it.
const (
	ringSize    = 2 << 20
	headerSize  = 128
	beyond      = 1024
	stride      = headerSize + ringSize + beyond
	unit        = 16
	slotSize    = 16
	tailOffset  = 64
	sleepOffset = 72
)

// Of an Ethernet frame with an IPv4 header without options.
const (
	totalLength = 16
	protocol    = 23
	addresses   = 26
	ports       = 34
)

const (
	parsed = 32 // the flag of a frame that the kernel program has parsed
	udp    = 17
)

const (
	recordSize = 28
	atOnce     = 64 << 10 / recordSize * recordSize // bytes in a send
	// nap is how long the agent sleeps while there is much to do.
	nap = 4 * time.Millisecond
	// often is how close to each other blocks are that are worth a nap: a
	// wake-up for each would cost more than all else.
	often = 5 * time.Millisecond
	// confirm is after what time a doorbell that was missed is noticed.
	confirm = 20 * time.Millisecond
)

type ring struct {
	head, tail *uint64
	asleep     *uint32
	data       unsafe.Pointer
	pos        uint64
}

type agent struct {
	rings  []ring
	bell   *ebpf.Map
	taken  *uint64 // the doorbell's consumer position
	rung   *uint64 // its producer position
	epoll  int
	socket int
	offset int64 // from CLOCK_MONOTONIC to UTC
	out    []byte
}

// Run watches args: an interface, "egress" or "ingress", the collector's port on
// loopback, and the kernel program's object file. It ends with an error.
func Run(args []string) error {
	if len(args) != 4 {
		return errors.New("want an interface, a direction, a port and an object file")
	}
	runtime.LockOSThread()
	a := &agent{out: make([]byte, 0, atOnce)}
	prog, err := a.load(args[3], args[1])
	if err != nil {
		return err
	}
	conn, err := a.accept(args[2])
	if err != nil {
		return err
	}
	defer conn.Close()
	ifi, err := net.InterfaceByName(args[0])
	if err != nil {
		return err
	}
	where := ebpf.AttachTCXEgress
	if args[1] == "ingress" {
		where = ebpf.AttachTCXIngress
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifi.Index, Program: prog, Attach: where, Anchor: link.Head()})
	if err != nil {
		return err
	}
	defer l.Close()
	a.offset = time.Now().UnixNano() - monotonic()
	return a.work()
}

func (a *agent) load(object, direction string) (*ebpf.Program, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	spec, err := ebpf.LoadCollectionSpec(object)
	if err != nil {
		return nil, err
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	spec.Maps["rings"].ValueSize, spec.Maps["rings"].MaxEntries = stride, uint32(cpus)
	spec.Maps["bell"].MaxEntries = uint32(os.Getpagesize())
	for name := range spec.Programs {
		if name != "tap_"+direction {
			delete(spec.Programs, name)
		}
	}
	for name, value := range map[string]uint32{"mask": ringSize - 1, "hot": ringSize - 1, "link_len": 14, "turn": 1, "parse": 1} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, err
		}
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	if err := c.Variables[direction].Set(uint32(1)); err != nil {
		return nil, err
	}
	a.bell = c.Maps["bell"]
	return c.Programs["tap_"+direction], a.view(c.Maps["rings"], cpus)
}

func (a *agent) view(rings *ebpf.Map, cpus int) error {
	mem, err := mmap(rings.FD(), 0, cpus*stride, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return err
	}
	for i := range cpus {
		p := unsafe.Pointer(&mem[i*stride])
		a.rings = append(a.rings, ring{
			head: (*uint64)(p), tail: (*uint64)(unsafe.Add(p, tailOffset)),
			asleep: (*uint32)(unsafe.Add(p, sleepOffset)), data: unsafe.Add(p, headerSize),
		})
	}
	page := os.Getpagesize()
	consumer, err := mmap(a.bell.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return err
	}
	producer, err := mmap(a.bell.FD(), int64(page), page, unix.PROT_READ)
	if err != nil {
		return err
	}
	a.taken, a.rung = (*uint64)(unsafe.Pointer(&consumer[0])), (*uint64)(unsafe.Pointer(&producer[0]))
	if a.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	return unix.EpollCtl(a.epoll, unix.EPOLL_CTL_ADD, a.bell.FD(), &unix.EpollEvent{Events: unix.EPOLLIN})
}

func mmap(fd int, offset int64, size, protection int) ([]byte, error) {
	page := os.Getpagesize()
	mem, err := unix.Mmap(fd, offset, (size+page-1)/page*page, protection, unix.MAP_SHARED)
	return mem, os.NewSyscallError("mmap", err)
}

// accept waits for the collector, and makes its socket one that blocks.
func (a *agent) accept(port string) (net.Conn, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, err
	}
	defer l.Close()
	fmt.Fprintln(os.Stderr, "minimal: listening on", l.Addr())
	conn, err := l.Accept()
	if err != nil {
		return nil, err
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := raw.Control(func(fd uintptr) { a.socket = int(fd) }); err != nil {
		return nil, err
	}
	return conn, unix.SetNonblock(a.socket, false)
}

func (a *agent) work() error {
	confirmed, last, napped := false, int64(0), time.Duration(0)
	for {
		n, err := a.read()
		if err != nil {
			return err
		}
		if n > 0 {
			confirmed = false
			now := monotonic()
			closely := now-last < int64(often+napped)
			last, napped = now, 0
			if closely {
				rest := unix.NsecToTimespec(int64(nap))
				_ = unix.Nanosleep(&rest, nil)
				napped = nap
				continue
			}
		}
		if err := a.doze(&confirmed); err != nil {
			return err
		}
	}
}

// read sends what the rings hold, and tells how many bytes of them that was.
func (a *agent) read() (n uint64, err error) {
	for i := range a.rings {
		r := &a.rings[i]
		end := atomic.LoadUint64(r.head)
		n += end - r.pos
		for r.pos != end {
			slot := unsafe.Add(r.data, r.pos%ringSize)
			if frame := (*packet.Parsed)(slot); frame.Flags&parsed != 0 {
				a.encode(frame)
				r.pos += uint64(unsafe.Sizeof(*frame))
			} else {
				a.encodeBytes(slot)
				r.pos += uint64(*(*uint8)(unsafe.Add(slot, 14))) * unit
			}
			if len(a.out) == atOnce {
				if err := a.flush(); err != nil {
					return n, err
				}
			}
		}
		atomic.StoreUint64(r.tail, r.pos)
	}
	return n, a.flush()
}

func (a *agent) encode(f *packet.Parsed) {
	b := a.record(f.Time)
	copy(b[8:16], f.Addrs[:])
	copy(b[16:20], f.Ports[:])
	binary.BigEndian.PutUint16(b[20:], f.Length)
	b[26] = udp
}

// encodeBytes encodes a frame that the kernel program has not parsed, such as a super-packet.
func (a *agent) encodeBytes(slot unsafe.Pointer) {
	frame := unsafe.Slice((*byte)(unsafe.Add(slot, slotSize)), 48)
	b := a.record(*(*int64)(slot))
	copy(b[8:20], frame[addresses:ports+4])
	copy(b[20:22], frame[totalLength:])
	b[26] = frame[protocol]
}

// record appends a record with nothing but its time.
func (a *agent) record(at int64) []byte {
	at += a.offset
	n := len(a.out)
	a.out = a.out[:n+recordSize]
	b := a.out[n : n+recordSize : n+recordSize]
	sec := uint64(at) / 1e9
	binary.BigEndian.PutUint64(b, sec<<32|(uint64(at)-sec*1e9)/1e3)
	clear(b[8:])
	return b
}

func (a *agent) flush() error {
	b := a.out
	for len(b) > 0 {
		n, err := unix.SendmsgN(a.socket, b, nil, nil, unix.MSG_NOSIGNAL)
		if err != nil {
			return os.NewSyscallError("send", err)
		}
		b = b[n:]
	}
	a.out = a.out[:0]
	return nil
}

// doze waits for the doorbell: the first time with a limit, as it may have rung
// a moment too early.
func (a *agent) doze(confirmed *bool) error {
	for i := range a.rings {
		atomic.StoreUint32(a.rings[i].asleep, 1)
	}
	for i := range a.rings {
		if atomic.LoadUint64(a.rings[i].head) != a.rings[i].pos {
			return nil
		}
	}
	wait := -1
	if !*confirmed {
		wait = int(confirm / time.Millisecond)
	}
	*confirmed = true
	var events [1]unix.EpollEvent
	if _, err := unix.EpollWait(a.epoll, events[:], wait); err != nil && err != unix.EINTR {
		return os.NewSyscallError("epoll_wait", err)
	}
	atomic.StoreUint64(a.taken, atomic.LoadUint64(a.rung))
	return nil
}

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}
