// Package demo generates the records of twenty agents in a fictitious network: a column
// of vehicles and scouts, their relays, and a gateway. The records are a function of
// time alone, so that pictures and tests are reproducible.
//
// A [Network] of more hosts is several such columns, one of fewer has agents on some hosts only.
//
// In each minute ([Period]) there is:
//
//   - The video of camera-1 goes to base through relay-1, and from second 30 on through
//     relay-2.
//   - The radio link from truck-1 to scout-1 loses one in twelve packets, and scout-1's
//     application one in fifty, as it is too slow; relay-2 drops some of what it cannot
//     send in time.
//   - The orders that base sends to a multicast group reach trucks and scouts, some of
//     them through mast. All of them have told the group's relay that they are members,
//     including scout-6, which receives nothing.
//   - Web pages, name lookups, and remote logins, with a world behind the gateway.
package demo

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// Period is the time after which everything repeats, except for sequence numbers.
const Period = time.Minute

// Host is a host with an agent.
type Host struct {
	Name string
	Addr netip.Addr
}

// Indexes of hosts; further trucks and scouts follow the first.
const (
	base = iota
	relay1
	relay2
	mast
	gateway
	truck1
	scout1  = truck1 + 6
	camera1 = scout1 + 6
	hosts   = camera1 + 3 // of a column
)

// smallest are the hosts with agents in a small network, in the order in which they get one.
var smallest = []int{base, relay1, camera1, truck1, scout1, relay2, mast, scout1 + 5, gateway, truck1 + 1}

// Most hosts of a Network.
const Most = 500

// Network is one of a number of hosts, from 1 to Most.
type Network struct {
	list  []Host
	agent map[int]int // by the host's number, a column's behind the one before
}

// New is a network of so many hosts with agents.
func New(n int) *Network {
	w := &Network{agent: make(map[int]int)}
	number := func(i int) int { return i }
	if n <= len(smallest) {
		number = func(i int) int { return smallest[i] }
	}
	for i := range n {
		host := number(i)
		w.agent[host] = i
		name := nameOf(host % hosts)
		if column := host / hosts; column > 0 {
			name = fmt.Sprintf("%d-%s", column+1, name)
		}
		w.list = append(w.list, Host{name, netip.AddrFrom4(addrOf(host/hosts, host%hosts))})
	}
	return w
}

// Hosts are those with agents. The index is the agent's number.
func (w *Network) Hosts() []Host { return w.list }

// Columns is how many there are, of which the last may lack some agents.
func (w *Network) Columns() int { return (len(w.list) + hosts - 1) / hosts }

func nameOf(host int) string {
	switch {
	case host >= camera1:
		return fmt.Sprint("camera-", host-camera1+1)
	case host >= scout1:
		return fmt.Sprint("scout-", host-scout1+1)
	case host >= truck1:
		return fmt.Sprint("truck-", host-truck1+1)
	}
	return [...]string{"base", "relay-1", "relay-2", "mast", "gateway"}[host]
}

// Names are those of the addresses without agents.
func (w *Network) Names() map[netip.Addr]string {
	names := map[netip.Addr]string{
		netip.AddrFrom4(maps):  "maps.example",
		netip.AddrFrom4(mail):  "mail.example",
		netip.AddrFrom4(hello): "neighbours",
	}
	for column := range w.Columns() {
		for host := range hosts {
			names[netip.AddrFrom4(addrOf(column, host))] = nameOf(host)
		}
		names[netip.AddrFrom4(groupOf(column))] = "orders"
		if column > 0 {
			names[netip.AddrFrom4(groupOf(column))] = fmt.Sprintf("%d-orders", column+1)
		}
	}
	for _, h := range w.list {
		names[h.Addr] = h.Name
	}
	return names
}

// FlowsApart is by how much the MGEN flows of a column differ from those of the one before.
const FlowsApart = 100

func addrOf(column, host int) [4]byte { return [4]byte{10, 20, byte(column), byte(host + 1)} }

// groupOf is the multicast group of a column's orders.
func groupOf(column int) [4]byte { return [4]byte{239, 20, byte(column), 1} }

// Member is an agent's number, and the group that its host has joined.
type Member struct {
	Agent int
	Group netip.Addr
}

// Members of the groups.
func (w *Network) Members() (list []Member) {
	for column := range w.Columns() {
		for _, host := range members() {
			if agent, ok := w.agent[column*hosts+host]; ok {
				list = append(list, Member{agent, netip.AddrFrom4(groupOf(column))})
			}
		}
	}
	return list
}

var (
	hello = [4]byte{224, 0, 0, 109} // LL-MANET-Routers (RFC 5498)
	maps  = [4]byte{198, 51, 100, 10}
	mail  = [4]byte{198, 51, 100, 25}
)

// Record is a record of an agent.
type Record struct {
	Agent int
	wire.Record
}

// Records are those of packets that were first sent in [from, to), ordered by time. Those of later
// hops may be up to 50 ms later. The result is appended to list.
func (w *Network) Records(list []Record, from, to time.Time) []Record {
	g := generator{network: w, list: list, from: from.UnixNano(), to: to.UnixNano()}
	begin := len(list)
	for g.column = range w.Columns() {
		for i := range streams {
			g.stream(&streams[i], g.column*len(streams)+i)
		}
	}
	slices.SortStableFunc(g.list[begin:], func(a, b Record) int { return cmp.Compare(a.Time, b.Time) })
	return g.list
}

// generator collects records.
type generator struct {
	network  *Network
	column   int
	list     []Record
	from, to int64
}

// addr is a host's in the column.
func (g *generator) addr(host int) [4]byte { return addrOf(g.column, host) }

// stream makes a packet every so often.
type stream struct {
	every time.Duration
	make  func(g *generator, p *packet)
}

// packet is a packet in transit.
type packet struct {
	wire.Record
	seq    uint64 // number in its stream, since 1970
	second int64  // second of the period
}

// stream sends the packets of one stream that are due, with a small jitter.
func (g *generator) stream(s *stream, number int) {
	every := int64(s.every)
	for n := g.from / every; n*every < g.to; n++ {
		at := n*every + int64(random(uint64(number), uint64(n), 0)%uint64(every/2))
		if at < g.from || at >= g.to {
			continue
		}
		p := packet{seq: uint64(n), second: at % int64(Period) / int64(time.Second)}
		p.Time = at
		s.make(g, &p)
	}
}

// random returns the same number for the same arguments.
func random(stream, n, what uint64) uint64 { return wire.DigestWords(stream, n, what) }

// chance reports whether an event with a probability of percent happens to p.
func (p *packet) chance(percent, what uint64) bool {
	return random(p.Digest, p.seq, what)%100 < percent
}

// udp makes p a UDP packet.
func (p *packet) udp(src, dst [4]byte, srcPort, dstPort uint16, length uint32) *packet {
	return p.ip(wire.ProtoUDP, src, dst, srcPort, dstPort, length)
}

// ip makes p a packet with a unique digest.
func (p *packet) ip(proto uint8, src, dst [4]byte, srcPort, dstPort uint16, length uint32) *packet {
	p.SetSrc4(src)
	p.SetDst4(dst)
	p.SrcPort, p.DstPort, p.Proto, p.Length, p.TTL = srcPort, dstPort, proto, length, 64
	b := [wire.DigestSize]byte{4, proto}
	binary.BigEndian.PutUint16(b[2:], uint16(p.seq))
	binary.BigEndian.PutUint32(b[4:], length)
	binary.BigEndian.PutUint64(b[8:], p.seq)
	copy(b[16:], src[2:])
	copy(b[18:], dst[2:])
	binary.BigEndian.PutUint16(b[20:], srcPort)
	binary.BigEndian.PutUint16(b[22:], dstPort)
	p.Digest = wire.Digest(&b)
	return p
}

// mgen makes p a message of an MGEN flow of the column, which its UDP packet is.
func (g *generator) mgen(p *packet, flow uint32) {
	p.Flags |= wire.MGEN | wire.MGENHeader
	p.FlowID, p.MGENSeq = flow+uint32(g.column*FlowsApart), uint32(p.seq)
	p.MGENTime = p.Time/1000 - 40
}

// seen is a record of p by a host's agent, if it has one, after a time.
func (g *generator) seen(p *packet, host int, flags wire.Flags, after time.Duration) {
	agent, ok := g.network.agent[g.column*hosts+host]
	if !ok {
		return
	}
	r := p.Record
	r.Time += int64(after)
	r.Flags |= flags
	g.list = append(g.list, Record{agent, r})
}

// hop returns the delay of the packet to the next host, which varies from packet to
// packet.
func (p *packet) hop(n int) time.Duration {
	return 900*time.Microsecond + time.Duration(random(p.Digest, uint64(n), 7)%2000)*time.Microsecond
}

// along sends p from the first host to the last, through those between. A packet that
// is lost in transit to host number lost does not arrive; 0 means no loss.
func (g *generator) along(p *packet, lost int, path ...int) {
	var at time.Duration
	g.seen(p, path[0], wire.Outgoing, 0)
	for i, host := range path[1:] {
		if i+1 == lost {
			return
		}
		at += p.hop(i)
		g.seen(p, host, wire.Incoming, at)
		if i+2 < len(path) {
			p.TTL--
			at += 150 * time.Microsecond
			g.seen(p, host, wire.Outgoing|wire.Relayed, at)
		}
	}
}
