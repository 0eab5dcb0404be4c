package agent

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/pcapper/pcapper/wire"
)

// self recognizes the packets of the agent's own feed. If they were reported, a
// collector on the watched network would cause a loop: each record sent is a packet
// that makes another record. The feed's packets are all TCP packets to or from a
// listening port at one of this host's addresses, including handshakes and
// resets, since no other process can have that port.
type self struct {
	ports []uint16
	peers atomic.Pointer[[]netip.AddrPort]            // of our exports
	feeds atomic.Pointer[map[netip.AddrPort]struct{}] // other agents, see feeds
	addrs atomic.Pointer[map[netip.Addr]struct{}]
}

func newSelf(ports []uint16, addrs []netip.Addr) *self {
	s := &self{ports: ports}
	s.peers.Store(&[]netip.AddrPort{})
	s.feeds.Store(&map[netip.AddrPort]struct{}{})
	s.set(addrs)
	return s
}

// set replaces this host's addresses. It may be called concurrently.
func (s *self) set(addrs []netip.Addr) {
	m := make(map[netip.Addr]struct{}, len(addrs))
	for _, a := range addrs {
		m[a.Unmap()] = struct{}{}
	}
	s.addrs.Store(&m)
}

// addresses returns this host's addresses, loopback included.
func (s *self) addresses() []netip.Addr {
	list := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	for a := range *s.addrs.Load() {
		list = append(list, a)
	}
	return list
}

// leaveOut removes the feed's packets from recs and returns the number of records left.
// Usually there are none to remove, which is established without a call per record.
func (s *self) leaveOut(recs []wire.Record) int {
	exporting := len(*s.peers.Load()) > 0
	for i := range recs {
		if (exporting || recs[i].Proto == wire.ProtoTCP) && s.sent(&recs[i]) {
			return i + compact(recs[i:], s.sent)
		}
	}
	return len(recs)
}

// sent reports whether r is a packet of the feed. Its ports rule out nearly every
// packet.
func (s *self) sent(r *wire.Record) bool {
	if peers := *s.peers.Load(); len(peers) > 0 && exported(r, peers) {
		return true
	}
	if agents := *s.feeds.Load(); len(agents) > 0 && r.Proto == wire.ProtoTCP && fed(r, agents) {
		return true
	}
	from, to := s.serves(r.SrcPort), s.serves(r.DstPort)
	if !from && !to || r.Proto != wire.ProtoTCP {
		return false
	}
	return from && s.local(r.SrcAddr()) || to && s.local(r.DstAddr())
}

// peer adds an address that an export sends to. It may be called concurrently.
func (s *self) peer(p netip.AddrPort) {
	p = netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port())
	for {
		old := s.peers.Load()
		if slices.Contains(*old, p) {
			return
		}
		now := append(slices.Clip(*old), p)
		if s.peers.CompareAndSwap(old, &now) {
			return
		}
	}
}

// exported reports whether r is a packet of an export: one to the receiver, from any
// host, because what other agents send to the same group is not traffic either; or its
// reply over TCP.
func exported(r *wire.Record, peers []netip.AddrPort) bool {
	for _, p := range peers {
		switch {
		case r.DstPort == p.Port() && (r.Proto == wire.ProtoUDP || r.Proto == wire.ProtoTCP) && r.DstAddr() == p.Addr():
			return true
		case r.SrcPort == p.Port() && r.Proto == wire.ProtoTCP && r.SrcAddr() == p.Addr():
			return true
		}
	}
	return false
}

// serves reports whether a port is one of ours. There are few, so it searches linearly.
func (s *self) serves(port uint16) bool {
	for _, p := range s.ports {
		if p == port {
			return true
		}
	}
	return false
}

// local reports whether an address is this host's.
func (s *self) local(a netip.Addr) bool {
	_, mine := (*s.addrs.Load())[a]
	return mine || a.IsLoopback()
}
