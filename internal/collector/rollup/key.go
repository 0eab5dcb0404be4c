package rollup

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/pcapper/pcapper/wire"
)

// entryKind is the kind of thing that an entry of a second counts.
type entryKind uint8

const (
	pairs  entryKind = iota // source and destination address
	talks                   // 5-tuple
	mgens                   // 5-tuple and MGEN flow ID
	nkinds = 3
)

// entryKey identifies what is counted, and its observer. Fields that a kind does not
// use are zero.
type entryKey struct {
	src, dst     [16]byte
	sport, dport uint16
	flow         uint32 // mgens only
	host         uint32
	row          uint32 // pairs of a second: index of a set of rows; talks: primary row
	kind         entryKind
	proto        uint8
	v6           bool
	side         Side
}

// subject returns k without its observer.
func (k *entryKey) subject() entryKey {
	s := *k
	s.host, s.side = 0, 0
	return s
}

// pair returns both ends of k.
func (k *entryKey) pair() pairKey { return pairKey{k.src, k.dst} }

type pairKey struct{ src, dst [16]byte }

func (k *entryKey) addr(a *[16]byte) netip.Addr {
	if k.v6 {
		return netip.AddrFrom16(*a)
	}
	return netip.AddrFrom4([4]byte(a[12:]))
}

func (k *entryKey) tuple() Tuple {
	return Tuple{Src: k.addr(&k.src), Dst: k.addr(&k.dst), SrcPort: k.sport, DstPort: k.dport, Proto: k.proto}
}

// connKey identifies the packets of one conversation that one host's agent reports with
// the same flags.
type connKey [6]uint64

// connFlags are the flags that matter.
const connFlags = wire.IPv6 | wire.MGEN | wire.Outgoing | wire.Incoming | wire.Relayed

func (k *connKey) set(host int, r *wire.Record) {
	k[0] = binary.NativeEndian.Uint64(r.Src[0:])
	k[1] = binary.NativeEndian.Uint64(r.Src[8:])
	k[2] = binary.NativeEndian.Uint64(r.Dst[0:])
	k[3] = binary.NativeEndian.Uint64(r.Dst[8:])
	k[4] = uint64(r.SrcPort)<<48 | uint64(r.DstPort)<<32
	if r.Flags&wire.MGEN != 0 {
		k[4] |= uint64(r.FlowID)
	}
	k[5] = uint64(host)<<32 | uint64(r.Flags&connFlags)<<8 | uint64(r.Proto)
}

// is compares without the function call that == on arrays would make.
func (k *connKey) is(o *connKey) bool {
	return (k[0]^o[0])|(k[1]^o[1])|(k[2]^o[2])|(k[3]^o[3])|(k[4]^o[4])|(k[5]^o[5]) == 0
}

func (k *connKey) host() int { return int(k[5] >> 32) }

func (k *connKey) flags() wire.Flags { return wire.Flags(k[5] >> 8) }

func (k *connKey) src() (a [16]byte) {
	binary.NativeEndian.PutUint64(a[0:], k[0])
	binary.NativeEndian.PutUint64(a[8:], k[1])
	return a
}

func (k *connKey) dst() (a [16]byte) {
	binary.NativeEndian.PutUint64(a[0:], k[2])
	binary.NativeEndian.PutUint64(a[8:], k[3])
	return a
}

// hash depends on a random seed, so that nobody can choose packets with colliding
// hashes.
func (k *connKey) hash(seed uint64) uint64 {
	a := mix(k[0]^seed, k[1]^0x9e3779b97f4a7c15)
	b := mix(k[2]^seed, k[3]^0xbf58476d1ce4e5b9)
	c := mix(k[4]^seed, k[5]^0x94d049bb133111eb)
	return mix(a^b^seed, c^0xd6e8feb86659fd93)
}

func mix(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

// entry returns the key of what k counts, as an entry of kind.
func (k *connKey) entry(kind entryKind, side Side) entryKey {
	e := entryKey{
		src: k.src(), dst: k.dst(), kind: kind,
		host: uint32(k.host()), v6: k.flags()&wire.IPv6 != 0, side: side,
	}
	if kind == pairs {
		return e
	}
	e.sport, e.dport, e.proto = uint16(k[4]>>48), uint16(k[4]>>32), uint8(k[5])
	if kind == mgens {
		e.flow = uint32(k[4])
	}
	return e
}

// isGroup reports whether a is a multicast or broadcast address.
func isGroup(a [16]byte, v6 bool) bool {
	if v6 {
		return a[0] == 0xff // RFC 4291, 2.7
	}
	return a[12]>>4 == 0xe || // RFC 1112, 4
		a[12] == 255 && a[13] == 255 && a[14] == 255 && a[15] == 255
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (u *unpacker) string() string {
	n := min(u.uint(), uint64(len(u.b)))
	s := string(u.b[:n])
	u.b = u.b[n:]
	return s
}

// The encoding of a key: kind, side, and which addresses it has.
const (
	keyKind  = 0x03
	keySide  = 0x0c
	keyV6    = 0x10
	keyShort = 0x20 // both addresses are IPv4's, in IPv6 (RFC 4291, 2.5.5.2)
)

func mapped(a [16]byte) bool { return netip.AddrFrom16(a).Is4In6() }

// appendKey packs k, whose host and row are the file's numbers.
func appendKey(b []byte, k *entryKey) []byte {
	flags := byte(k.kind) | byte(k.side)<<2
	if k.v6 {
		flags |= keyV6
	}
	short := mapped(k.src) && mapped(k.dst)
	if short {
		flags |= keyShort
	}
	b = append(b, flags, k.proto)
	for _, v := range [...]uint32{k.host, k.row, k.flow, uint32(k.sport), uint32(k.dport)} {
		b = binary.AppendUvarint(b, uint64(v))
	}
	if short {
		return append(append(b, k.src[12:]...), k.dst[12:]...)
	}
	return append(append(b, k.src[:]...), k.dst[:]...)
}

func (u *unpacker) key() (k entryKey) {
	flags := u.b[0]
	k.kind, k.side, k.v6 = entryKind(flags&keyKind), Side(flags&keySide>>2), flags&keyV6 != 0
	k.proto = u.b[1]
	u.b = u.b[2:]
	k.host, k.row, k.flow = uint32(u.uint()), uint32(u.uint()), uint32(u.uint())
	k.sport, k.dport = uint16(u.uint()), uint16(u.uint())
	k.src, k.dst = u.address(flags), u.address(flags)
	return k
}

func (u *unpacker) address(flags byte) (a [16]byte) {
	if flags&keyShort == 0 {
		n := copy(a[:], u.b)
		u.b = u.b[n:]
		return a
	}
	a[10], a[11] = 0xff, 0xff
	n := copy(a[12:], u.b)
	u.b = u.b[n:]
	return a
}
