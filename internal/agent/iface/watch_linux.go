package iface

import (
	"context"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Kind of an Event.
type Kind uint8

const (
	// Changed: another property of the interface has changed: addresses, name, MAC
	// address, MTU, or carrier.
	Changed Kind = iota
	// Down: the administrator took it down, which suspends captures.
	Down
	// Up: it was brought up again.
	Up
	// Removed: it has left this namespace: deleted, or moved to another.
	Removed
	// Added: it is new. Only a Watcher of all interfaces reports this.
	Added
	// Groups: it has joined or left a multicast group. Reported after FollowGroups
	// only.
	Groups
)

func (k Kind) String() string {
	return [...]string{"changed", "down", "up", "removed", "added", "groups"}[k]
}

// Event is one change to one interface.
type Event struct {
	Kind Kind
	// Interface is the state after the change, or the last state if Kind is Removed.
	Interface Interface
}

// Any is the index for all interfaces.
const Any = 0

// Watcher follows the interfaces of the namespace in which it was created. It is not
// safe for concurrent use, but the function that Run calls may call the methods that
// return state.
type Watcher struct {
	kernel *kernel
	events *events
	index  int // or Any
	have   map[int]Interface
	groups bool // FollowGroups was called
}

// NewWatcher starts following the interface with this index, or all of them if it is
// Any. No later change is missed, whenever Run is called. The caller must Close it.
func NewWatcher(index int) (*Watcher, error) {
	e, err := subscribe()
	if err != nil {
		return nil, err
	}
	k, err := dial()
	if err != nil {
		e.close()
		return nil, err
	}
	w := &Watcher{kernel: k, events: e, index: index}
	list, err := k.list()
	if err != nil {
		w.Close()
		return nil, err
	}
	w.have = w.wanted(list)
	return w, nil
}

// Close frees the watcher's sockets. It does not end Run: cancel Run's context for
// that.
func (w *Watcher) Close() {
	w.events.close()
	w.kernel.close()
}

// Interfaces returns the watched interfaces as of the last Event, or of NewWatcher, by
// index.
func (w *Watcher) Interfaces() []Interface {
	list := make([]Interface, 0, len(w.have))
	for _, index := range slices.Sorted(maps.Keys(w.have)) {
		list = append(list, w.have[index])
	}
	return list
}

// LocalAddrs returns all addresses of the watched interfaces, sorted, without
// duplicates.
func (w *Watcher) LocalAddrs() []netip.Addr { return localAddrs(w.Interfaces()) }

// Run calls fn for each change, in order, until ctx ends or the one watched interface
// is gone; neither is an error. If that interface does not exist at the start, Run
// reports Removed immediately. fn may be slow: changes during the call are reported
// later or, if there are too many for the kernel to queue, as their net effect.
func (w *Watcher) Run(ctx context.Context, fn func(Event)) error {
	if w.index != Any && len(w.have) == 0 {
		fn(Event{Kind: Removed, Interface: Interface{Index: w.index}})
		return nil
	}
	for {
		err := w.step(ctx, time.Time{}, fn)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case w.index != Any && len(w.have) == 0:
			return nil
		}
	}
}

// Watch is a Watcher in one call: it follows the interface with this index, or all if
// it is Any, in the caller's namespace.
func Watch(ctx context.Context, index int, fn func(Event)) error {
	w, err := NewWatcher(index)
	if err != nil {
		return err
	}
	defer w.Close()
	return w.Run(ctx, fn)
}

// step waits for a batch of messages and applies it. If the deadline passes first, it
// lists the interfaces itself.
func (w *Watcher) step(ctx context.Context, deadline time.Time, fn func(Event)) error {
	b, err := w.events.wait(ctx, deadline)
	if err != nil {
		return err
	}
	list := b.lost || len(b.msgs) == 0
	for _, m := range b.msgs {
		switch m.Header.Type {
		case unix.RTM_NEWLINK:
			w.link(m.Data, fn)
		case unix.RTM_DELLINK:
			w.unlink(m.Data, fn)
		case unix.RTM_NEWADDR, unix.RTM_DELADDR:
			// An interface may have the same address twice, with different peers: only
			// a listing shows what is left after one is deleted.
			list = list || w.watches(linkIndex(m.Data))
		case unix.RTM_NEWMULTICAST, unix.RTM_DELMULTICAST:
			if i, ok := w.have[linkIndex(m.Data)]; ok {
				fn(Event{Groups, i})
			}
		}
	}
	if !list {
		return nil
	}
	if err := w.refresh(fn); err != nil || !b.lost || !w.groups {
		return err
	}
	for _, i := range w.Interfaces() {
		fn(Event{Groups, i})
	}
	return nil
}

func (w *Watcher) watches(index int) bool { return w.index == Any || w.index == index }

// linkIndex returns the index in an ifinfomsg or ifaddrmsg (rtnetlink(7)), which is at
// offset 4 in both, or 0 if the message is too short.
func linkIndex(m []byte) int {
	if len(m) < unix.SizeofIfAddrmsg {
		return 0
	}
	return int(binary.NativeEndian.Uint32(m[4:]))
}

// forBridge reports whether a message is about an interface's role as a port of a
// bridge. When a port leaves its bridge, the kernel sends such an RTM_DELLINK although
// the interface continues to exist.
func forBridge(m []byte) bool { return len(m) > 0 && m[0] != unix.AF_UNSPEC }

// link applies an RTM_NEWLINK message.
func (w *Watcher) link(m []byte, fn func(Event)) {
	index := linkIndex(m)
	if forBridge(m) || !w.watches(index) {
		return
	}
	i, known := w.have[index]
	if !known && w.index != Any {
		return // it was removed before; its index is not reused
	}
	if err := i.parse(m); err != nil {
		return
	}
	w.put(i, fn)
}

// unlink applies an RTM_DELLINK message.
func (w *Watcher) unlink(m []byte, fn func(Event)) {
	if !forBridge(m) {
		w.drop(linkIndex(m), fn)
	}
}

// refresh determines the changes from a new listing.
func (w *Watcher) refresh(fn func(Event)) error {
	list, err := w.kernel.list()
	if err != nil {
		return err
	}
	now := w.wanted(list)
	for _, index := range slices.Sorted(maps.Keys(w.have)) {
		if _, ok := now[index]; !ok {
			w.drop(index, fn)
		}
	}
	for _, index := range slices.Sorted(maps.Keys(now)) {
		w.put(now[index], fn)
	}
	return nil
}

func (w *Watcher) wanted(list []Interface) map[int]Interface {
	m := make(map[int]Interface)
	for _, i := range list {
		if w.watches(i.Index) {
			m[i.Index] = i
		}
	}
	return m
}

// put stores the current state of an interface and reports what has changed.
func (w *Watcher) put(now Interface, fn func(Event)) {
	old, known := w.have[now.Index]
	w.have[now.Index] = now
	switch {
	case !known:
		fn(Event{Added, now})
	case old.Up && !now.Up:
		fn(Event{Down, now})
	case !old.Up && now.Up:
		fn(Event{Up, now})
	case !old.equal(&now):
		fn(Event{Changed, now})
	}
}

func (w *Watcher) drop(index int, fn func(Event)) {
	if old, known := w.have[index]; known {
		delete(w.have, index)
		fn(Event{Removed, old})
	}
}
