package decode

import (
	"encoding/binary"
	"slices"

	"github.com/pcapper/pcapper/internal/agent/mgen"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// The kernel decides how many bytes of a frame the eBPF engine keeps, but only the
// decoder knows what it needs. These rules are the single definition: the C functions
// in capture/bpf/keep.h are generated from them, and tests decode frames that were cut
// by them.

// Numbers of bytes kept of a frame.
const (
	keepFirst   = 48  // identify a UDP datagram over IPv4 that is not MGEN's
	keepPlain   = 64  // such a datagram, with the payload that goes into its digest
	keepHeaders = 112 // any headers up to an MGEN header with its IPv6 address
	keepMost    = 256 // everything else: options, tunnels, TCP data, checksums
)

// keepRule gives the number of bytes to keep if all of its tests hold. The first
// matching rule of a list decides.
type keepRule struct {
	when   []keepTest
	bytes  int
	reason mgen.Reason // of parsedUDP: nothing but headers is needed; why the payload is not MGEN's
}

// keepTest compares two numbers with one of the operators ==, !=, and <.
type keepTest struct {
	a  keepValue
	op string
	b  keepValue
}

// keepValue is a number: a value of the given kind, masked, plus a constant.
type keepValue struct {
	kind keepKind
	at   int // offset in the frame in bytes; valid iff kind is in the frame
	mask int // 0 means no mask
	add  int
}

type keepKind uint8

const (
	keepNumber keepKind = iota // the constant alone
	keepByte                   // a byte of the frame
	keepWord                   // 16 bits of the frame, big-endian
	keepGSO                    // gso_size: not 0 for a super-packet
	keepInside                 // nonzero if the decoder looks inside UDP (see Config.Inside)
)

func byteAt(at int) keepValue { return keepValue{kind: keepByte, at: at} }
func wordAt(at int) keepValue { return keepValue{kind: keepWord, at: at} }
func number(n int) keepValue  { return keepValue{add: n} }

func (v keepValue) and(mask int) keepValue { v.mask = mask; return v }
func (v keepValue) plus(n int) keepValue   { v.add = n; return v }

func (v keepValue) is(n int) keepTest    { return keepTest{v, "==", number(n)} }
func (v keepValue) isNot(n int) keepTest { return keepTest{v, "!=", number(n)} }

var superPacket = keepValue{kind: keepGSO}.isNot(0)

// insidePorts are the UDP ports of datagrams in which a decoder may look for packets.
var insidePorts = []int{bmfPort, portVXLAN, portVXLANLinux, portGeneve, portMPLS}

// Offsets of the fields of a message that package mgen checks first.
const (
	mgenVersion = 2
	mgenFlags   = 3
)

// notPlainUDP are the rules for frames that are not plain UDP datagrams over IPv4.
var notPlainUDP = []keepRule{
	{when: []keepTest{superPacket}, bytes: keepMost},
	{when: []keepTest{wordAt(ethernetType).isNot(etherIPv4)}, bytes: keepMost},
	{when: []keepTest{byteAt(plainIP).isNot(0x45)}, bytes: keepMost},
	{when: []keepTest{byteAt(plainIP + 9).isNot(wire.ProtoUDP)}, bytes: keepMost},
	{when: []keepTest{wordAt(plainIP + 6).and(moreFragments | fragmentOffset).isNot(0)}, bytes: keepMost},
}

// notMGEN are the rules for plain UDP datagrams that are certainly not MGEN's. They test a
// payload as mgen.UDP does.
var notMGEN = []keepRule{
	{when: []keepTest{{wordAt(plainUDP + 4), "<", number(udpLen + 28)}}, bytes: keepPlain, reason: mgen.Short},
	{when: []keepTest{byteAt(plainPayload + mgenVersion).isNot(2), byteAt(plainPayload + mgenVersion).isNot(4)}, bytes: keepPlain, reason: mgen.BadVersion},
	{when: []keepTest{{wordAt(plainPayload).plus(udpLen), "!=", wordAt(plainUDP + 4)}}, bytes: keepPlain, reason: mgen.BadSize},
	{when: []keepTest{byteAt(plainPayload + mgenFlags).and(0xe0).isNot(0)}, bytes: keepPlain, reason: mgen.BadFlags},
}

// keepIPv4 are the rules for the first keepFirst bytes of an Ethernet frame.
var keepIPv4 = slices.Concat(notPlainUDP, keepInsidePorts(plainUDP+2), notMGEN, []keepRule{
	{when: []keepTest{byteAt(plainPayload + mgenFlags).and(0x04).isNot(0)}, bytes: keepMost}, // a checksum to verify
	{bytes: keepHeaders},
})

// keepIPv6 are the rules for the first keepHeaders bytes of frames for which keepIPv4
// yields keepMost.
var keepIPv6 = append(append([]keepRule{
	{when: []keepTest{superPacket}, bytes: keepMost},
	{when: []keepTest{wordAt(ethernetType).isNot(etherIPv6)}, bytes: keepMost},
	{when: []keepTest{byteAt(ethernetLen + 6).isNot(wire.ProtoUDP)}, bytes: keepMost},
}, keepInsidePorts(ethernetLen+ipv6Len+2)...), []keepRule{
	{when: []keepTest{byteAt(ethernetLen + ipv6Len + udpLen + mgenFlags).and(0x04).isNot(0)}, bytes: keepMost},
	{bytes: keepHeaders},
}...)

// parsedUDP are the rules for what the kernel may parse itself where no digests are
// wanted: datagrams that Decoder.plain decodes and that are certainly not MGEN's. They
// give a reason why not, or mgen.Accepted for all else.
var parsedUDP = slices.Concat(notPlainUDP, []keepRule{
	{when: []keepTest{{wordAt(plainUDP + 4), "<", number(udpLen)}}},
	{when: []keepTest{{wordAt(plainIP + 2), "<", wordAt(plainUDP + 4).plus(ipv4Len)}}},
}, keepInsidePorts(plainUDP+2), notMGEN, []keepRule{
	{}, // may be MGEN's
})

func keepInsidePorts(at int) []keepRule {
	var rules []keepRule
	for _, port := range insidePorts {
		rules = append(rules, keepRule{when: []keepTest{{keepValue{kind: keepInside}, "!=", number(0)}, wordAt(at).is(port)}, bytes: keepMost})
	}
	return rules
}

// kept returns the number of bytes that the eBPF engine keeps of a frame.
func kept(f *packet.Frame, inside bool) int {
	most := min(len(f.Data), keepMost)
	if f.Link != packet.Ethernet || most < keepFirst {
		return most
	}
	n := firstRule(keepIPv4, f, inside).bytes
	if n == keepMost && most >= keepHeaders {
		n = firstRule(keepIPv6, f, inside).bytes
	}
	return min(n, most)
}

// parse makes of a frame what the eBPF engine does if nothing but headers is wanted; nil if it
// keeps the frame's bytes.
func parse(f *packet.Frame, inside bool) *packet.Parsed {
	b := f.Data
	if f.Link != packet.Ethernet || len(b) < keepFirst || f.VLAN.Present || f.Direction == packet.Unknown || f.BeforeQueue {
		return nil
	}
	reason := firstRule(parsedUDP, f, inside).reason
	if reason == mgen.Accepted {
		return nil
	}
	var flags uint8
	if f.Direction == packet.Outgoing {
		flags = packet.ParsedOutgoing
	}
	return &packet.Parsed{
		Time: f.Time, Flags: flags, Source: [6]byte(b[6:]), TTL: b[plainIP+8],
		Addrs: [8]byte(b[plainIP+12:]), Ports: [4]byte(b[plainUDP:]),
		Length: binary.BigEndian.Uint16(b[plainIP+2:]), Reason: uint8(reason),
	}
}

func firstRule(rules []keepRule, f *packet.Frame, inside bool) *keepRule {
	for i := range rules {
		if rules[i].holds(f, inside) {
			return &rules[i]
		}
	}
	panic("decode: no rule holds")
}

func (r *keepRule) holds(f *packet.Frame, inside bool) bool {
	for _, t := range r.when {
		a, b := t.a.of(f, inside), t.b.of(f, inside)
		if !(t.op == "==" && a == b || t.op == "!=" && a != b || t.op == "<" && a < b) {
			return false
		}
	}
	return true
}

func (v keepValue) of(f *packet.Frame, inside bool) int {
	n := 0
	switch v.kind {
	case keepByte:
		n = int(f.Data[v.at])
	case keepWord:
		n = int(binary.BigEndian.Uint16(f.Data[v.at:]))
	case keepGSO:
		n = int(f.GSOSize)
	case keepInside:
		if inside {
			n = 1
		}
	}
	if v.mask != 0 {
		n &= v.mask
	}
	return n + v.add
}
