package match

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"golang.org/x/net/bpf"
)

// maxInstructions is the kernel's BPF_MAXINSNS (linux/bpf_common.h).
const maxInstructions = 4096

const (
	packetOutgoing = 4 // PACKET_OUTGOING, packet(7)

	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
)

// vlanTypes are the tag protocols that are skipped, the same as libpcap's: 802.1Q,
// 802.1ad, and the one used before 802.1ad.
var vlanTypes = [...]uint32{0x8100, 0x88a8, 0x9100}

// maxTags is the maximum number of tags inside a frame that are skipped.
const maxTags = 2

// Every program is a sequence of blocks. A block either returns or falls through to the
// next one. A load beyond the end of the frame ends the program with 0, so a frame that
// is too short to be tested is rejected.

type block = []bpf.Instruction

var (
	keep bpf.Instruction = bpf.RetConstant{Val: Snaplen}
	drop bpf.Instruction = bpf.RetConstant{Val: 0}
)

// program returns the whole program of a mode.
func (s *scope) program(m mode, own *own) block {
	var p block
	switch m {
	case none:
		if s.seenTwice() {
			p = dropOutgoing()
		}
	case src:
		p = s.dropOthers()
	case dst, spoof:
		p = s.dropMine()
	}
	if m == spoof && !s.wifi() { // in 802.11 frames only modeTest finds the address
		return append(p, s.sourceIs(own)...)
	}
	return append(p, keep)
}

func (s *scope) dropMine() block {
	if !s.byMAC() {
		return dropOutgoing()
	}
	find, load := s.source()
	high, low := split(s.mac)
	return append(find,
		load(2, 4),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: low, SkipFalse: 3},
		load(0, 2),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: high, SkipFalse: 1},
		drop,
	)
}

func (s *scope) dropOthers() block {
	if !s.byMAC() {
		return dropIncoming()
	}
	find, load := s.source()
	high, low := split(s.mac)
	return append(find,
		load(2, 4),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: low, SkipFalse: 2},
		load(0, 2),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: high, SkipTrue: 1},
		drop,
	)
}

// source returns how to load parts of the source MAC address: load(off, size), after
// the instructions of find. In 802.11 frames it is the source address (SA), whose
// position depends on the flags ToDS and FromDS (see packet.ParseWiFi).
func (s *scope) source() (find block, load func(off uint32, size int) bpf.Instruction) {
	if s.link == packet.Ethernet {
		return nil, func(off uint32, size int) bpf.Instruction {
			return bpf.LoadAbsolute{Off: srcMACOffset + off, Size: size}
		}
	}
	find = block{bpf.LoadConstant{Dst: bpf.RegX, Val: 0}}
	if s.link == packet.Radiotap { // its length is little-endian
		find = block{
			bpf.LoadAbsolute{Off: 3, Size: 1},
			bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 8},
			bpf.TAX{},
			bpf.LoadAbsolute{Off: 2, Size: 1},
			bpf.ALUOpX{Op: bpf.ALUOpAdd},
			bpf.TAX{},
		}
	}
	const second, third, fourth = 10, 16, 24 // offsets of the addresses
	find = append(find,
		bpf.LoadIndirect{Off: 1, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 2, SkipFalse: 2},
		bpf.LoadConstant{Dst: bpf.RegA, Val: third - second},
		bpf.Jump{Skip: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 3, SkipFalse: 2},
		bpf.LoadConstant{Dst: bpf.RegA, Val: fourth - second},
		bpf.Jump{Skip: 1},
		bpf.LoadConstant{Dst: bpf.RegA, Val: 0},
		bpf.ALUOpX{Op: bpf.ALUOpAdd},
		bpf.TAX{},
	)
	return find, func(off uint32, size int) bpf.Instruction {
		return bpf.LoadIndirect{Off: second + off, Size: size}
	}
}

// split returns a MAC address as a program compares it: the first two bytes, and the
// last four, which vary more and are compared first.
func split(mac []byte) (high, low uint32) {
	return uint32(binary.BigEndian.Uint16(mac)), binary.BigEndian.Uint32(mac[2:])
}

func dropOutgoing() block {
	return block{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: packetOutgoing, SkipFalse: 1},
		drop,
	}
}

func dropIncoming() block {
	return block{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: packetOutgoing, SkipTrue: 1},
		drop,
	}
}

// sourceIs accepts IP packets whose source is one of the own addresses. It always
// returns.
func (s *scope) sourceIs(own *own) block {
	v4 := search(own.words4(), func(int) bpf.Instruction {
		return bpf.LoadIndirect{Off: networkOffset(s.link) + srcOffset4, Size: 4}
	})
	v6 := search(own.words6(), func(word int) bpf.Instruction {
		return bpf.LoadIndirect{Off: networkOffset(s.link) + srcOffset6 + 4*uint32(word), Size: 4}
	})
	return slices.Concat(
		s.skipTags(),
		block{
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIPv4, SkipTrue: 1},
			bpf.Jump{Skip: uint32(len(v4))},
		},
		v4,
		block{
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIPv6, SkipTrue: 1},
			drop,
		},
		v6,
	)
}

// skipTags loads the EtherType after up to two VLAN tags into A, and the length of
// those tags into X.
func (s *scope) skipTags() block {
	b := block{bpf.LoadConstant{Dst: bpf.RegX, Val: 0}}
	if s.link == packet.Ethernet {
		b = append(b, bpf.LoadAbsolute{Off: etherTypeOffset, Size: 2})
	} else {
		b = append(b, bpf.LoadExtension{Num: bpf.ExtProto})
	}
	const perTag = uint8(len(vlanTypes) + 2)
	for tag := uint8(1); tag <= maxTags; tag++ {
		last := len(vlanTypes) - 1
		for n, typ := range vlanTypes {
			j := bpf.JumpIf{Cond: bpf.JumpEqual, Val: typ, SkipTrue: uint8(last - n)}
			if n == last { // no tag: past the loads of this block and those of further tags
				j.SkipFalse = 2 + (maxTags-tag)*perTag
			}
			b = append(b, j)
		}
		b = append(b,
			bpf.LoadConstant{Dst: bpf.RegX, Val: uint32(tag) * tagSize},
			// A tag consists of 2 bytes of its own and the EtherType of what follows
			// it.
			bpf.LoadAbsolute{Off: networkOffset(s.link) + uint32(tag)*tagSize - 2, Size: 2})
	}
	return b
}

// search accepts a packet if its words, each loaded by load(i), equal one of the keys,
// which have the same length and are sorted and distinct. It always returns. Words are
// compared by binary search, so that a host with hundreds of addresses needs only a few
// comparisons.
func search(keys [][]uint32, load func(word int) bpf.Instruction) block {
	if len(keys) == 0 {
		return block{drop}
	}
	return searcher{load: load, words: len(keys[0])}.from(keys, 0)
}

type searcher struct {
	load  func(word int) bpf.Instruction
	words int // in each key
}

// linear is the number of last words that are compared one by one.
const linear = 8

// from compares from the given word on; the words before it are equal.
func (s searcher) from(keys [][]uint32, word int) block {
	return append(block{s.load(word)}, s.loaded(keys, word)...)
}

// loaded is from if the word is already in A.
func (s searcher) loaded(keys [][]uint32, word int) block {
	first, last := keys[0], keys[len(keys)-1]
	switch {
	case len(keys) == 1:
		return s.rest(first, word)
	case first[word] == last[word]: // all equal
		next := s.from(keys, word+1)
		return append(block{bpf.JumpIf{Cond: bpf.JumpEqual, Val: first[word], SkipTrue: 1}, drop}, next...)
	case word == s.words-1 && len(keys) <= linear:
		return oneOf(keys, word)
	}
	at := middle(keys, word)
	left, right := s.loaded(keys[:at], word), s.loaded(keys[at:], word)
	return slices.Concat(branch(keys[at][word], len(left)), left, right)
}

// middle returns where the second half of the keys begins, without separating keys that
// are equal in this word.
func middle(keys [][]uint32, word int) int {
	at := len(keys) / 2
	v := keys[at][word]
	before, _ := slices.BinarySearchFunc(keys, v, func(k []uint32, v uint32) int { return cmp.Compare(k[word], v) })
	if before > 0 {
		return before
	}
	after, _ := slices.BinarySearchFunc(keys, v, func(k []uint32, v uint32) int {
		if k[word] <= v {
			return -1
		}
		return 1
	})
	return after
}

// branch skips the given number of instructions if A >= pivot.
func branch(pivot uint32, skip int) block {
	if skip <= 0xff { // a conditional jump has 8 bits for its distance
		return block{bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: pivot, SkipTrue: uint8(skip)}}
	}
	return block{
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: pivot, SkipFalse: 1},
		bpf.Jump{Skip: uint32(skip)},
	}
}

// rest compares all remaining words of one key.
func (s searcher) rest(key []uint32, word int) block {
	left := s.words - word
	var b block
	for n := range left {
		if n > 0 {
			b = append(b, s.load(word+n))
		}
		// Past the other comparisons, of two instructions each, and keep.
		b = append(b, bpf.JumpIf{Cond: bpf.JumpEqual, Val: key[word+n], SkipFalse: uint8(2*(left-1-n) + 1)})
	}
	return append(b, keep, drop)
}

// oneOf compares the last word with that of each key.
func oneOf(keys [][]uint32, word int) block {
	var b block
	for n, k := range keys {
		j := bpf.JumpIf{Cond: bpf.JumpEqual, Val: k[word], SkipTrue: uint8(len(keys) - 1 - n)}
		if n == len(keys)-1 {
			j.SkipFalse = 1
		}
		b = append(b, j)
	}
	return append(b, keep, drop)
}
