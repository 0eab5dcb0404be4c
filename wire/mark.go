package wire

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	markMagic = "PCN\x01"
	markUsec  = 1<<32 - 1
	markSum   = 24
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendMark appends a mark (see the package comment) to dst.
func AppendMark(dst []byte, boot, number uint64) []byte {
	at := len(dst)
	dst = append(dst, markMagic...)
	dst = binary.BigEndian.AppendUint32(dst, markUsec)
	dst = binary.BigEndian.AppendUint64(dst, boot)
	dst = binary.BigEndian.AppendUint64(dst, number)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[at:], castagnoli))
}

// ParseMark parses the first 28 bytes of b; ok reports whether they are a mark.
func ParseMark(b []byte) (boot, number uint64, ok bool) {
	if len(b) < Size || binary.BigEndian.Uint32(b[offUsec:]) != markUsec || string(b[:offUsec]) != markMagic ||
		crc32.Checksum(b[:markSum], castagnoli) != binary.BigEndian.Uint32(b[markSum:]) {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:]), true
}

// Numbered reports whether r has a number in the agent's stream: it fits in 28 bytes
// and is not a host statistic.
func (r *Record) Numbered() bool {
	if !r.fits() || r.Flags&HostStat != 0 {
		return false
	}
	return r.Proto != ProtoHostStat || !r.looksLikeHostStat()
}

// looksLikeHostStat reports whether a receiver of r's 28 bytes would take them for a
// host statistic.
func (r *Record) looksLikeHostStat() bool {
	encoded := *r
	encoded.FlowID = r.Flow()
	return encoded.isHostStat()
}
