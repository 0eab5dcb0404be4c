package demo

import (
	"slices"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// MGEN flows.
const (
	Video uint32 = 1 + iota
	Orders
	Voice
	Reports
)

// routeChange is the second in which the video's route changes.
const routeChange = 30

// Silent is the agent number of the group member that receives nothing.
const Silent = scout1 + 5

// streams is all traffic.
var streams = []stream{
	{20 * time.Millisecond, video},
	{50 * time.Millisecond, orders},
	{20 * time.Millisecond, voice},
	{40 * time.Millisecond, reports},
	{10 * time.Second, membership},
	{8 * time.Millisecond, download},
	{700 * time.Millisecond, lookup},
	{150 * time.Millisecond, login},
	{3 * time.Second, post},
	{100 * time.Millisecond, greeting},
}

func video(g *generator, p *packet) {
	p.udp(g.addr(camera1), g.addr(base), 5101, 5001, 1228)
	g.mgen(p, Video)
	relay := relay1
	if p.second >= routeChange {
		relay = relay2
	}
	lost := 0
	if p.chance(1, 1) {
		lost = 1 + int(p.seq%2)
	}
	g.along(p, lost, camera1, relay, base)
}

// Hosts that hear the orders from base, and those that hear them from mast.
var (
	hearBase = []int{truck1, truck1 + 1, truck1 + 2, scout1, scout1 + 1}
	hearMast = []int{truck1 + 3, truck1 + 4, truck1 + 5, scout1 + 2, scout1 + 3, scout1 + 4}
)

// members are those of a column's group.
func members() []int { return slices.Concat([]int{Silent}, hearBase, hearMast) }

func orders(g *generator, p *packet) {
	p.udp(g.addr(base), groupOf(g.column), 5102, 5002, 828)
	g.mgen(p, Orders)
	p.TTL = 8
	g.seen(p, base, wire.Outgoing, 0)
	for i, host := range hearBase {
		if !p.chance(2, uint64(host)) {
			g.seen(p, host, wire.Incoming, p.hop(i))
		}
	}
	at := p.hop(20)
	g.seen(p, mast, wire.Incoming, at)
	p.TTL--
	at += 200 * time.Microsecond
	g.seen(p, mast, wire.Outgoing|wire.Relayed, at)
	for i, host := range hearMast {
		if !p.chance(4, uint64(host)) {
			g.seen(p, host, wire.Incoming, at+p.hop(i))
		}
	}
}

func voice(g *generator, p *packet) {
	if p.second%20 >= 12 { // they also listen
		return
	}
	p.udp(g.addr(truck1), g.addr(scout1), 5103, 5003, 228)
	g.mgen(p, Voice)
	p.MGENSeq = uint32(p.seq/1000*600 + p.seq%1000) // of 20 s with 12 s of messages
	lost := 0
	if p.chance(8, 1) {
		lost = 1
	}
	g.along(p, lost, truck1, scout1)
	if lost == 0 && p.chance(2, 9) { // its application is too slow
		p.Reason = wire.ReasonNamed("SOCKET_RCVBUFF")
		g.seen(p, scout1, wire.Incoming|wire.Dropped, p.hop(0)+20*time.Microsecond)
	}
}

// reports sends reports of all scouts in turn; relay-2 cannot send all of them in time.
func reports(g *generator, p *packet) {
	scout := scout1 + int(p.seq%6)
	p.udp(g.addr(scout), g.addr(base), 5104, 5004, 428)
	g.mgen(p, Reports)
	p.MGENSeq = uint32(p.seq / 6)
	if !p.chance(3, 1) {
		g.along(p, 0, scout, relay2, base)
		return
	}
	at := p.hop(0)
	g.seen(p, scout, wire.Outgoing, 0)
	g.seen(p, relay2, wire.Incoming, at)
	p.TTL--
	p.Reason = wire.ReasonNamed("QDISC_DROP")
	g.seen(p, relay2, wire.Outgoing|wire.Dropped, at+100*time.Microsecond)
}

// membership sends the reports of the group's members (IGMPv2, RFC 2236), all but one
// of which are also receivers.
func membership(g *generator, p *packet) {
	for i, host := range members() {
		m := packet{seq: p.seq, second: p.second}
		m.Time = p.Time
		m.ip(2, g.addr(host), groupOf(g.column), 0, 0, 32)
		m.TTL = 1
		g.seen(&m, host, wire.Outgoing, 0)
		g.seen(&m, mast, wire.Incoming, m.hop(i))
	}
}

// download fetches maps, in bursts.
func download(g *generator, p *packet) {
	truck := truck1 + int(p.second/10)%6
	port := uint16(40000 + p.second/10)
	if p.second%10 >= 7 {
		return
	}
	if p.seq%4 == 0 {
		p.ip(wire.ProtoTCP, g.addr(truck), maps, port, 443, 52)
		g.along(p, 0, truck, gateway)
		return
	}
	p.ip(wire.ProtoTCP, maps, g.addr(truck), 443, port, 1480)
	g.seen(p, gateway, wire.Outgoing|wire.Relayed, 0)
	g.seen(p, truck, wire.Incoming, p.hop(0))
}

// lookup queries the gateway for a name, and gets an answer.
func lookup(g *generator, p *packet) {
	host := truck1 + int(p.seq%12)
	port := uint16(50000 + p.seq%997)
	p.udp(g.addr(host), g.addr(gateway), port, 53, 61)
	g.along(p, 0, host, gateway)
	p.udp(g.addr(gateway), g.addr(host), 53, port, 125)
	p.Time += int64(6 * time.Millisecond)
	g.along(p, 0, gateway, host)
}

// login is a user at base who works on a truck.
func login(g *generator, p *packet) {
	host := truck1 + 2
	p.ip(wire.ProtoTCP, g.addr(base), g.addr(host), 41022, 22, 88)
	g.along(p, 0, base, host)
	p.ip(wire.ProtoTCP, g.addr(host), g.addr(base), 22, 41022, 148+uint32(p.seq%5)*100)
	p.Time += int64(5 * time.Millisecond)
	g.along(p, 0, host, base)
}

// post is mail that base sends.
func post(g *generator, p *packet) {
	for i := range uint64(8) {
		m := packet{seq: p.seq*8 + i, second: p.second}
		m.Time = p.Time + int64(i)*int64(time.Millisecond)
		m.ip(wire.ProtoTCP, g.addr(base), mail, 42587, 587, 1200)
		g.along(&m, 0, base, gateway)
	}
}

// greeting is what each host sends to its neighbors every two seconds (OLSR's HELLO).
func greeting(g *generator, p *packet) {
	host := int(p.seq % hosts)
	p.udp(g.addr(host), hello, 698, 698, 96)
	p.TTL = 1
	g.seen(p, host, wire.Outgoing, 0)
	for i := 1; i <= 3; i++ {
		g.seen(p, (host+i*7)%hosts, wire.Incoming, p.hop(i))
	}
}
