package match

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A compiled expression looks for the IP header at its position in a frame without VLAN
// tags, and for ports after it, which later fragments do not have. Which frames it
// misses would depend on circumstances, because the kernel removes the outer tag from
// some frames, while a capture file keeps all tags. Therefore the program is widened:
//
//   - It is repeated for frames with no, one, and two tags, after a dispatcher that
//     chooses among the three copies. An expression that tests tags itself is left as
//     it is.
//   - If it tests ports, or other fields of an upper-layer header, it accepts all
//     fragments. The caller then tests first fragments with Filter.Wanted, and applies
//     the result to the later fragments of the same datagram.

// maxWide is the maximum number of instructions of a widened program: the kernel bounds
// the memory of a socket's filter (net.core.optmem_max), and a program that fits must
// still fit when widened.
const maxWide = 1000

// Offsets in IP headers, and values at those offsets.
const (
	fragmentOffset4 = 6      // flags and fragment offset, RFC 791
	fragmentBits    = 0x3fff // more fragments, or an offset
	nextOffset6     = 6      // next header, RFC 8200
	headerSize6     = 40
	fragmentSize6   = 8
	nextFragment    = 44 // next header of a fragment header
)

// looksBehindIP reports whether an expression tests something that only the first
// fragment of a datagram contains.
func looksBehindIP(expression string) bool { return behindIP.MatchString(expression) }

var behindIP = regexp.MustCompile(`\b(?:port|portrange)\b|\b(?:tcp|udp|sctp|icmp6?|igmp|igrp|pim|vrrp|carp)\s*\[`)

// asksTags reports whether a program itself distinguishes tagged frames from others.
func asksTags(prog []bpf.RawInstruction) bool {
	return slices.ContainsFunc(prog, func(in bpf.RawInstruction) bool {
		return in.Op == unix.BPF_JMP|unix.BPF_JEQ && slices.Contains(vlanTypes[:], in.K) ||
			isAncillary(in) && (in.K == adTag || in.K == adTagPresent || in.K == adTagProtocol)
	})
}

// wider is the result of widen.
type wider struct {
	// prog is for the kernel. narrow is the same, except that it tests fragments like
	// other packets; it is nil if that makes no difference.
	prog, narrow []bpf.RawInstruction
	// limit says what prog does not do for lack of room, or is "".
	limit string
}

// widen makes a program skip VLAN tags and accept fragments.
func (s *scope) widen(prog []bpf.RawInstruction, expression string) wider {
	tags := (s.link == packet.Ethernet || s.link == packet.Network) && !asksVLAN(expression) && !asksTags(prog)
	fragments := looksBehindIP(expression)
	if fragments && s.wifi() {
		return wider{prog: prog, limit: "in 802.11 frames, later fragments do not match ports"}
	}
	if !tags && !fragments {
		return wider{prog: prog}
	}
	w := wider{prog: s.dispatch(prog, tags, fragments)}
	if len(w.prog) > maxWide {
		w.prog, w.limit = prog, fmt.Sprintf("the expression is too long (%d instructions) to see", len(prog))
		switch {
		case tags && fragments:
			w.limit += " through VLAN tags inside of frames, and later fragments do not match ports"
		case tags:
			w.limit += " through VLAN tags inside of frames"
		default:
			w.limit += " later fragments, which do not match ports"
		}
		return w
	}
	if fragments {
		w.narrow = prog
		if tags {
			w.narrow = s.dispatch(prog, true, false)
		}
	}
	return w
}

// dispatch puts a program after a test of the EtherType: frames with tags go to a copy
// of the program that expects those tags, and fragments are accepted.
func (s *scope) dispatch(prog []bpf.RawInstruction, tags, fragments bool) []bpf.RawInstruction {
	levels := 1
	if tags {
		levels += maxTags
	}
	var heads [][]bpf.RawInstruction
	size := 0
	for level := range levels {
		// The lengths of jumps do not affect that of a head.
		heads = append(heads, s.head(level, level < levels-1, fragments, 0))
		size += len(heads[level])
	}
	var out []bpf.RawInstruction
	for level := range levels {
		size -= len(heads[level])
		out = append(out, s.head(level, level < levels-1, fragments, size+level*len(prog))...)
	}
	for level := range levels {
		out = append(out, s.behind(prog, level)...)
	}
	return out
}

// head tests a frame with at least level tags. It ends with a jump over distance
// instructions to the program for frames with that many tags; if more is set, a frame
// with another tag continues at the next head instead.
func (s *scope) head(level int, more, fragments bool, distance int) []bpf.RawInstruction {
	base := networkOffset(s.link) + uint32(level)*tagSize
	out := s.loadType(level)
	if more {
		for n, typ := range vlanTypes {
			out = append(out, jumpEqual(typ, 0, 0))
			// Over the rest of this head; patched below.
			out[len(out)-1].Jt = uint8(len(vlanTypes) - 1 - n)
		}
	}
	tests := len(out)
	if fragments {
		v4, v6 := uint32(etherIPv4), uint32(etherIPv6)
		if s.link == packet.RawIP {
			v4, v6 = 0x40, 0x60
		}
		out = append(out,
			jumpEqual(v4, 0, 3),
			bpf.RawInstruction{Op: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: base + fragmentOffset4},
			bpf.RawInstruction{Op: unix.BPF_JMP | unix.BPF_JSET, K: fragmentBits, Jf: 4},
			bpf.RawInstruction{Op: unix.BPF_RET, K: Snaplen},
			jumpEqual(v6, 0, 3),
			bpf.RawInstruction{Op: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: base + nextOffset6},
			jumpEqual(nextFragment, 0, 1),
			bpf.RawInstruction{Op: unix.BPF_RET, K: Snaplen},
		)
		// An IPv4 packet that is not a fragment skips the test for IPv6.
		out[tests+2].Jf = 5
	}
	out = append(out, bpf.RawInstruction{Op: unix.BPF_JMP | unix.BPF_JA, K: uint32(distance)})
	if more {
		for n := range vlanTypes {
			at := tests - len(vlanTypes) + n
			out[at].Jt = uint8(len(out) - 1 - at)
		}
	}
	return out
}

func jumpEqual(v uint32, yes, no uint8) bpf.RawInstruction {
	return bpf.RawInstruction{Op: unix.BPF_JMP | unix.BPF_JEQ, K: v, Jt: yes, Jf: no}
}

// loadType loads the EtherType after level tags; for raw IP, the first byte, which
// contains the version.
func (s *scope) loadType(level int) []bpf.RawInstruction {
	half := bpf.RawInstruction{Op: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS}
	switch {
	case s.link == packet.RawIP:
		return []bpf.RawInstruction{
			{Op: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS},
			{Op: unix.BPF_ALU | unix.BPF_AND, K: 0xf0},
		}
	case s.link == packet.Network && level == 0:
		half.K = adProtocol
	default:
		half.K = networkOffset(s.link) + uint32(level)*tagSize - 2
	}
	return []bpf.RawInstruction{half}
}

// behind returns the program with its offsets moved by level tags.
func (s *scope) behind(prog []bpf.RawInstruction, level int) []bpf.RawInstruction {
	prog = slices.Clone(prog)
	if level == 0 {
		return prog
	}
	for i := range prog {
		in := &prog[i]
		class, mode := in.Op&0x07, in.Op&opMode
		switch {
		case isAncillary(*in) && in.K == adProtocol && s.link == packet.Network:
			in.K = uint32(level)*tagSize - 2
		case isAncillary(*in), class != unix.BPF_LD && class != unix.BPF_LDX:
		case mode != unix.BPF_ABS && mode != unix.BPF_IND && mode != unix.BPF_MSH:
		case in.K >= fromLink: // relative to a header of the frame, resolved by the kernel
		case s.link == packet.Network || in.K >= etherTypeOffset:
			in.K += uint32(level) * tagSize
		}
	}
	return prog
}

// Wanted reports whether a frame is wanted; for a first fragment, whether its datagram
// is wanted. A later fragment whose first is unknown can only be tested by itself.
// Wanted does not allocate.
//
// It exists because Match accepts all fragments if the filter tests ports.
func (f *Filter) Wanted(frame *packet.Frame) bool {
	if f.narrow == nil {
		return f.Match(frame)
	}
	var room [maxRewritten]byte
	if whole, ok := withoutFragmentHeader(frame, room[:]); ok {
		return f.narrow.match(&whole)
	}
	return f.narrow.match(frame)
}

// Fragments reports whether Match accepts fragments that must be tested with Wanted.
func (f *Filter) Fragments() bool { return f.narrow != nil }

// maxRewritten is the number of bytes of a first fragment that are tested: more than a
// live capture keeps of a frame.
const maxRewritten = 1024

// withoutFragmentHeader removes the fragment header from the first fragment of an IPv6
// datagram, if frame is one, because compiled expressions do not look past that header.
// The bytes are copied to room.
func withoutFragmentHeader(frame *packet.Frame, room []byte) (whole packet.Frame, ok bool) {
	at := networkHeader(frame)
	b := frame.Data
	if at < 0 || len(b) < at+headerSize6+fragmentSize6 || b[at]>>4 != 6 || b[at+nextOffset6] != nextFragment {
		return whole, false
	}
	header := b[at+headerSize6:]
	if binary.BigEndian.Uint16(header[2:])&^7 != 0 {
		return whole, false
	}
	n := copy(room, b[:at+headerSize6])
	n += copy(room[n:], header[fragmentSize6:])
	if n < at+headerSize6 {
		return whole, false
	}
	room[at+nextOffset6] = header[0]
	whole = *frame
	whole.Data = room[:n]
	whole.WireLen -= fragmentSize6
	return whole, true
}

// networkHeader returns the offset of a frame's IP header, after up to two tags, or -1
// if there is none.
func networkHeader(f *packet.Frame) int {
	if f.Link == packet.RawIP {
		return 0
	}
	at, typ := int(networkOffset(f.Link)), uint32(f.Protocol)
	if f.Link == packet.Ethernet {
		if len(f.Data) < etherSize {
			return -1
		}
		typ = uint32(binary.BigEndian.Uint16(f.Data[etherTypeOffset:]))
	}
	for tag := 0; tag < maxTags && slices.Contains(vlanTypes[:], typ); tag++ {
		at += tagSize
		if len(f.Data) < at {
			return -1
		}
		typ = uint32(binary.BigEndian.Uint16(f.Data[at-2:]))
	}
	if typ != etherIPv4 && typ != etherIPv6 {
		return -1
	}
	return at
}
