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
	// dropsNap is how long Drops lets events gather before it reads on.
	dropsNap = 10 * time.Millisecond
	// dropsWait is the longest that Drops is in one system call. Go 1.26 can miss a
	// thread that enters one just when it stops the world (to collect garbage, or
	// to give up privileges on all threads), and then waits until the call returns.
	dropsWait = time.Second
	// dropReasons is how many reasons of the kernel's own the program can tell apart.
	dropReasons = 256
	// dropSubsystem is where the number of a subsystem begins in that of a reason.
	dropSubsystem = 16
)

// Drop is a packet that the kernel has dropped.
type Drop struct {
	// Frame begins with the IP header. It is valid during the call only.
	Frame packet.Frame
	// Reason is the kernel's name of it, without SKB_DROP_REASON_, or the name of the
	// subsystem (mac80211, Open vSwitch) that the reason is of.
	Reason string
}

// DropStats count what a DropWatch was not told one by one.
type DropStats struct {
	Untold   uint64 // drops for which the ring had no room
	Harmless uint64 // packets that were freed without being lost: duplicates, copies for taps, ARP
}

// Drops tells of packets that the kernel drops (the tracepoint skb:kfree_skb): one program
// for any number of interfaces, in any network namespaces. Needs Linux 6.6 with BTF,
// CAP_BPF and CAP_PERFMON, but only to be opened.
type Drops struct {
	coll    *ebpf.Collection
	link    link.Link
	reader  *ringbuf.Reader
	reasons dropNames
	wall    wallClock
	sockets bool
	ended   chan struct{}

	mu      sync.Mutex // held while a watch is told of a drop
	passed  sync.Cond  // passes has changed
	passes  uint64     // how often all events have been read since somebody asked
	stopped bool       // nothing is read any more
	watches map[uint32]*DropWatch
	next    uint32
}

// DropWatch is one interface of a Drops.
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

// dropTally is struct tally there.
type dropTally struct{ Untold, Harmless uint64 }

// OpenDrops loads the program and attaches it. Nothing is told until Watch.
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

// Sockets reports whether the kernel tells which socket a packet was for (Linux 6.11).
// Without it, losses at TCP sockets, and some at UDP sockets, are not noticed.
func (d *Drops) Sockets() bool { return d.sockets }

// Close ends it; nobody may be watching any more.
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

// Watch has tell called for each packet dropped on the interface with this index in the
// network namespace with this inode, by one goroutine. tell must not block.
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
	d.next = (d.next + 1) % maxWatched // not at once that of one who has gone
	if err := d.coll.Maps["tallies"].Lookup(w.id, &w.base); err != nil {
		return nil, fmt.Errorf("dropped packets: %w", err)
	}
	if err := d.coll.Maps["drop_places"].Put(w.at, w.id); err != nil {
		return nil, fmt.Errorf("dropped packets: %w", err)
	}
	d.watches[w.id] = w
	return w, nil
}

// Stats of the watch so far.
func (w *DropWatch) Stats() DropStats {
	now := w.base
	_ = w.d.coll.Maps["tallies"].Lookup(w.id, &now) // cannot fail while the map is there
	return DropStats{now.Untold - w.base.Untold, now.Harmless - w.base.Harmless}
}

// Stop ends the watch. It returns when all drops until now have been told.
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

// read tells of drops until Close.
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

// harmlessReasons are those for which the kernel frees a packet although nothing is lost:
// it was for another host, its data had come before, or a socket's filter did not want it.
var harmlessReasons = []string{
	"SKB_NOT_DROPPED_YET", "SKB_CONSUMED", "OTHERHOST", "SOCKET_FILTER", "PACKET_SOCK_ERROR",
	"TCP_OLD_DATA", "TCP_OFOMERGE", "TCP_OLD_SEQUENCE", "TCP_OLD_ACK", "TCP_TOO_OLD_ACK", "DUP_FRAG",
}

// inwardReasons are those of packets that were handed to a device and not looked at yet.
var inwardReasons = []string{"CPU_BACKLOG", "XDP", "TAP_FILTER", "TAP_TXFILTER"}

// dropNames are the kernel's reasons by number. Numbers differ between kernels.
type dropNames struct {
	core       map[uint32]string
	subsystems map[uint32]string
}

const dropPrefix = "SKB_DROP_REASON_"

// kernelDropNames reads them from the kernel's own types.
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
	n.subsystems, _ = read("skb_drop_reason_subsys", dropPrefix+"SUBSYS_") // before Linux 6.4 there are none
	return n, nil
}

func (n dropNames) name(reason uint32) string {
	if name, ok := n.core[reason]; ok {
		return name
	}
	if reason>>dropSubsystem == 0 {
		return "" // newer than the kernel's types, which cannot be
	}
	return n.subsystems[reason>>dropSubsystem] // "" is an unknown one
}

// number is that of a name, or one that no reason has.
func (n dropNames) number(name string) uint32 {
	for r, s := range n.core {
		if s == name {
			return r
		}
	}
	return 1<<32 - 1
}

// set is the names as the program takes them; those that this kernel does not have are
// left out.
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
	return ok && len(f.Params) > 4 // the first is the tracepoint's own
}
