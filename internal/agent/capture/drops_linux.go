package capture

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

//go:generate go tool bpf2go -go-package capture -output-stem drops -output-suffix _linux -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror" drops bpf/drops.c

const (
	// dropsNap is how long Drops lets events accumulate before it reads on.
	dropsNap = 5 * time.Millisecond
	// dropsWait bounds the time that Drops spends in one system call. Go 1.26 can miss
	// a thread that enters one just as it stops the world (for garbage collection, or
	// to drop privileges on all threads), and then waits until the call returns.
	dropsWait = time.Second
	// dropReasons is the number of the kernel's core reasons that the program can
	// distinguish.
	dropReasons = 256
	// dropSubsystem is the bit at which the number of a subsystem begins in a reason.
	dropSubsystem = 16
)

// Drop is a packet dropped by the kernel.
type Drop struct {
	// Frame begins with the IP header. It is valid only during the call.
	Frame packet.Frame
	// Reason is the kernel's name of the reason, without SKB_DROP_REASON_, or the name
	// of the subsystem (mac80211, Open vSwitch) that defines the reason.
	Reason string
}

// DropStats counts drops that were not reported individually.
type DropStats struct {
	Untold   uint64 // drops for which the ring had no room
	Harmless uint64 // packets that were freed without being lost: duplicates, copies for taps, ARP
}

// Drops reports packets that the kernel drops (tracepoint skb:kfree_skb), with one
// program for any number of interfaces in any network namespaces. Opening it requires
// Linux 6.6 with BTF, CAP_BPF, and CAP_PERFMON; using it requires no capabilities.
type Drops struct {
	coll    *ebpf.Collection
	link    link.Link
	reader  *ringbuf.Reader
	reasons dropNames
	wall    wallClock
	sockets bool
	ended   chan struct{}

	mu      sync.Mutex // held while a drop is reported to a watch
	passed  sync.Cond  // passes has changed
	passes  uint64     // how often all events have been read since the last request
	stopped bool       // the reader has stopped
	watches map[uint32]*DropWatch
	next    uint32
}

// DropWatch is the watch on one interface of a Drops.
type DropWatch struct {
	d    *Drops
	at   interfaceKey
	id   uint32
	base dropTally
	tell func(*Drop)
}

// dropEvent is struct event of bpf/drops.c.
type dropEvent struct {
	time     uint64
	id       uint32
	reason   uint32
	len      uint32
	cap      uint16
	protocol uint16
	gsoSize  uint16
	gsoKind  uint8
	outgoing uint8
	_        uint32
	data     [tapSnap]byte
}

// dropTally is struct tally of bpf/drops.c.
type dropTally struct{ Untold, Harmless uint64 }

// OpenDrops loads and attaches the program. Nothing is reported until Watch.
func OpenDrops() (*Drops, error) {
	d := &Drops{watches: map[uint32]*DropWatch{}, ended: make(chan struct{})}
	d.passed.L = &d.mu
	if err := d.open(); err != nil {
		d.free()
		return nil, &Error{Interface: "dropped packets", Err: err, hint: tapHint(err)}
	}
	go d.read()
	return d, nil
}

func (d *Drops) open() error {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return &errKernel{"BTF", err}
	}
	if d.reasons, err = kernelDropNames(kernel); err != nil {
		return err
	}
	spec, err := loadDrops()
	if err != nil {
		return err
	}
	for name, value := range map[string]any{
		"harmless": d.reasons.set(harmlessReasons), "inward": d.reasons.set(inwardReasons),
		"unspecified": d.reasons.number("NOT_SPECIFIED"), "checksum": d.reasons.number("UDP_CSUM"),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("eBPF constant %s: %w", name, err)
		}
	}
	prog := "drops_plain"
	if d.sockets = dropTellsSocket(kernel); d.sockets {
		prog = "drops_socket"
	}
	keepPrograms(spec, prog)
	_ = rlimit.RemoveMemlock() // as loadTapPrograms does
	if d.coll, err = ebpf.NewCollection(spec); err != nil {
		return &errKernel{"eBPF program", err}
	}
	if d.reader, err = ringbuf.NewReader(d.coll.Maps["events"]); err != nil {
		return fmt.Errorf("eBPF ring: %w", err)
	}
	if d.link, err = link.AttachTracing(link.TracingOptions{Program: d.coll.Programs[prog], AttachType: ebpf.AttachTraceRawTp}); err != nil {
		return &errKernel{"tracepoint kfree_skb", err}
	}
	return nil
}

// Sockets reports whether the kernel says which socket a packet was for (Linux 6.11).
// Without that, losses at TCP sockets, and some at UDP sockets, go unnoticed.
func (d *Drops) Sockets() bool { return d.sockets }

// Close detaches the program. All watches must have been stopped.
func (d *Drops) Close() error {
	d.reader.Close()
	<-d.ended
	d.free()
	return nil
}

func (d *Drops) free() {
	if d.link != nil {
		d.link.Close()
	}
	if d.reader != nil {
		d.reader.Close()
	}
	if d.coll != nil {
		d.coll.Close()
	}
}

// Watch arranges for tell to be called, by a single goroutine, for each packet dropped
// on the interface with this index in the network namespace with this inode. tell must
// not block.
func (d *Drops) Watch(inode uint64, index int, tell func(*Drop)) (*DropWatch, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.watches) == maxWatched {
		return nil, fmt.Errorf("dropped packets: more than %d interfaces", maxWatched)
	}
	for d.watches[d.next] != nil {
		d.next = (d.next + 1) % maxWatched
	}
	w := &DropWatch{d: d, at: interfaceKey{uint32(inode), uint32(index)}, id: d.next, tell: tell}
	d.next = (d.next + 1) % maxWatched // do not reuse the ID of a stopped watch immediately
	if err := d.coll.Maps["tallies"].Lookup(w.id, &w.base); err != nil {
		return nil, fmt.Errorf("dropped packets: %w", err)
	}
	if err := d.coll.Maps["drop_places"].Put(w.at, w.id); err != nil {
		return nil, fmt.Errorf("dropped packets: %w", err)
	}
	d.watches[w.id] = w
	return w, nil
}

// Stats returns the watch's counters so far.
func (w *DropWatch) Stats() DropStats {
	now := w.base
	_ = w.d.coll.Maps["tallies"].Lookup(w.id, &now) // cannot fail while the map is there
	return DropStats{now.Untold - w.base.Untold, now.Harmless - w.base.Harmless}
}

// Stop ends the watch. It returns once all drops so far have been reported.
func (w *DropWatch) Stop() {
	d := w.d
	_ = d.coll.Maps["drop_places"].Delete(w.at)
	d.mu.Lock()
	defer d.mu.Unlock()
	for target := d.passes + 1; d.passes < target && !d.stopped; d.passed.Wait() {
		d.reader.Flush()
	}
	delete(d.watches, w.id)
}

// read reports drops until Close.
func (d *Drops) read() {
	defer close(d.ended)
	var rec ringbuf.Record
	for {
		if rec.Remaining == 0 {
			d.reader.SetDeadline(time.Now().Add(dropsWait))
		}
		err := d.reader.ReadInto(&rec)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			rec.Remaining = 0
			continue
		case errors.Is(err, ringbuf.ErrFlushed):
			d.pass(false)
			continue
		case errors.Is(err, os.ErrClosed), err != nil:
			d.pass(true)
			return
		}
		d.dispatch(rec.RawSample)
		if rec.Remaining == 0 {
			time.Sleep(dropsNap)
		}
	}
}

func (d *Drops) pass(last bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.passes++
	d.stopped = last
	d.passed.Broadcast()
}

func (d *Drops) dispatch(sample []byte) {
	if len(sample) < int(unsafe.Sizeof(dropEvent{})) {
		return
	}
	e := (*dropEvent)(unsafe.Pointer(unsafe.SliceData(sample)))
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.watches[e.id]
	if w == nil {
		return
	}
	drop := Drop{Reason: d.reasons.name(e.reason), Frame: packet.Frame{
		Data: e.data[:min(int(e.cap), tapSnap)], Time: int64(e.time) + d.wall.read(), WireLen: max(int(e.len), int(e.cap)),
		Link: packet.Network, Protocol: e.protocol, Direction: packet.Incoming, GSOType: e.gsoKind, GSOSize: e.gsoSize,
	}}
	if e.outgoing != 0 {
		drop.Frame.Direction = packet.Outgoing
	}
	w.tell(&drop)
}

// harmlessReasons are those for which the kernel frees a packet although nothing is
// lost: the packet was for another host, its data was a duplicate, or a socket's filter
// rejected it.
var harmlessReasons = []string{
	"SKB_NOT_DROPPED_YET", "SKB_CONSUMED", "OTHERHOST", "SOCKET_FILTER", "PACKET_SOCK_ERROR",
	"TCP_OLD_DATA", "TCP_OFOMERGE", "TCP_OLD_SEQUENCE", "TCP_OLD_ACK", "TCP_TOO_OLD_ACK", "DUP_FRAG",
}

// inwardReasons are those of packets that were handed to a device but not yet
// inspected.
var inwardReasons = []string{"CPU_BACKLOG", "XDP", "TAP_FILTER", "TAP_TXFILTER"}

// dropNames maps numbers to the kernel's reasons. The numbers differ between kernels.
type dropNames struct {
	core       map[uint32]string
	subsystems map[uint32]string
}

const dropPrefix = "SKB_DROP_REASON_"

// kernelDropNames reads the names from the kernel's BTF.
func kernelDropNames(kernel *btf.Spec) (n dropNames, err error) {
	read := func(enum, prefix string) (map[uint32]string, error) {
		var e *btf.Enum
		if err := kernel.TypeByName(enum, &e); err != nil {
			return nil, &errKernel{"enum " + enum, err}
		}
		names := make(map[uint32]string, len(e.Values))
		for _, v := range e.Values {
			names[uint32(v.Value)] = strings.TrimPrefix(v.Name, prefix)
		}
		return names, nil
	}
	if n.core, err = read("skb_drop_reason", dropPrefix); err != nil {
		return n, err
	}
	n.subsystems, _ = read("skb_drop_reason_subsys", dropPrefix+"SUBSYS_") // Linux before 6.4 has none
	return n, nil
}

func (n dropNames) name(reason uint32) string {
	if name, ok := n.core[reason]; ok {
		return name
	}
	if reason>>dropSubsystem == 0 {
		return "" // cannot happen: newer than the kernel's own types
	}
	return n.subsystems[reason>>dropSubsystem] // "" if unknown
}

// number returns the number of a name, or one that no reason has.
func (n dropNames) number(name string) uint32 {
	for r, s := range n.core {
		if s == name {
			return r
		}
	}
	return 1<<32 - 1
}

// set returns the names as the bit set that the program expects, without those that
// this kernel does not have.
func (n dropNames) set(names []string) (bits [dropReasons / 64]uint64) {
	for _, name := range names {
		if r := n.number(name); r < dropReasons {
			bits[r/64] |= 1 << (r % 64)
		}
	}
	return bits
}

// dropTellsSocket reports whether the tracepoint has a fourth argument, the socket.
func dropTellsSocket(kernel *btf.Spec) bool {
	var t *btf.Typedef
	if kernel.TypeByName("btf_trace_kfree_skb", &t) != nil {
		return false
	}
	p, ok := t.Type.(*btf.Pointer)
	if !ok {
		return false
	}
	f, ok := p.Target.(*btf.FuncProto)
	return ok && len(f.Params) > 4 // the first parameter is the tracepoint's own
}
