package match

import (
	"encoding/binary"
	"fmt"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// machine runs a classic BPF program on frames in user space exactly as the kernel does
// (net/core/filter.c), including the ancillary loads that compilers of pcap filter
// expressions emit. The machine of golang.org/x/net/bpf does not have those, and it
// allocates.
//
// The program must have been accepted by verify, on which run relies.
type machine struct {
	prog  []bpf.RawInstruction
	link  packet.LinkType
	index uint32 // of the interface
}

func (m *machine) match(f *packet.Frame) bool { return f.Link == m.link && m.evaluate(f) != 0 }

// Ancillary loads are absolute loads from negative addresses: SKF_AD_OFF plus
// one of the SKF_AD constants of linux/filter.h.
const (
	adOff         = 1<<32 - 0x1000
	adProtocol    = adOff + 0
	adPacketType  = adOff + 4
	adIfIndex     = adOff + 8
	adTag         = adOff + 44
	adTagPresent  = adOff + 48
	adTagProtocol = adOff + 60
)

const (
	opSize   = 0x18 // mask of a load's size
	opMode   = 0xe0 // mask of a load's addressing mode
	opALU    = 0xf0 // mask of an arithmetic or jump operation
	memWords = 16   // BPF_MEMWORDS
)

// evaluate returns the result of the program: the number of bytes to keep of the frame,
// or 0 to reject it.
func (m *machine) evaluate(f *packet.Frame) uint32 {
	var a, x uint32
	var mem [memWords]uint32
	for pc := 0; pc < len(m.prog); pc++ {
		in := m.prog[pc]
		var ok bool
		switch in.Op & 0x07 {
		case unix.BPF_LD:
			if a, ok = m.load(f, in, x, &mem); !ok {
				return 0
			}
		case unix.BPF_LDX:
			if x, ok = m.load(f, in, x, &mem); !ok {
				return 0
			}
		case unix.BPF_ST:
			mem[in.K] = a
		case unix.BPF_STX:
			mem[in.K] = x
		case unix.BPF_ALU:
			if a, ok = compute(in, a, x); !ok {
				return 0
			}
		case unix.BPF_JMP:
			pc += jump(in, a, x)
		case unix.BPF_RET:
			if in.Op&0x18 == unix.BPF_A {
				return a
			}
			return in.K
		case unix.BPF_MISC:
			if in.Op == unix.BPF_MISC|unix.BPF_TAX {
				x = a
			} else {
				a = x
			}
		}
	}
	return 0
}

func (m *machine) load(f *packet.Frame, in bpf.RawInstruction, x uint32, mem *[memWords]uint32) (uint32, bool) {
	switch in.Op & opMode {
	case unix.BPF_IMM:
		return in.K, true
	case unix.BPF_LEN:
		return uint32(f.WireLen), true
	case unix.BPF_MEM:
		return mem[in.K], true
	case unix.BPF_MSH: // the length of an IPv4 header in bytes
		v, ok := loadBytes(f.Data, in.K, unix.BPF_B)
		return 4 * (v & 0xf), ok
	case unix.BPF_IND:
		return loadBytes(f.Data, m.resolve(in.K+x), in.Op&opSize)
	}
	if in.K >= adOff {
		return m.ancillary(f, in.K), true
	}
	return loadBytes(f.Data, in.K, in.Op&opSize)
}

// Negative offsets of indirect loads are relative to a header of the frame
// (linux/filter.h).
const (
	fromNetwork = 1<<32 - 0x100000 // SKF_NET_OFF
	fromLink    = 1<<32 - 0x200000 // SKF_LL_OFF
)

// resolve converts an offset that an expression has computed to one into the data.
func (m *machine) resolve(off uint32) uint32 {
	switch {
	case off >= fromNetwork:
		return off - fromNetwork + networkOffset(m.link)
	case off >= fromLink && m.link == packet.Ethernet:
		return off - fromLink
	}
	return off
}

// loadBytes loads in network byte order, and reports whether the data extends that far.
func loadBytes(data []byte, off uint32, size uint16) (uint32, bool) {
	n := uint32(len(data))
	switch {
	case size == unix.BPF_B && off < n:
		return uint32(data[off]), true
	case size == unix.BPF_H && off < n && off+1 < n:
		return uint32(binary.BigEndian.Uint16(data[off:])), true
	case size == unix.BPF_W && off < n && off+3 < n:
		return binary.BigEndian.Uint32(data[off:]), true
	}
	return 0, false
}

// ancillary returns what the kernel knows about the frame apart from its bytes.
func (m *machine) ancillary(f *packet.Frame, k uint32) uint32 {
	switch {
	case k == adPacketType && f.Direction == packet.Outgoing:
		return packetOutgoing
	case k == adProtocol:
		return uint32(f.Protocol)
	case k == adIfIndex:
		return m.index
	case k == adTag && f.VLAN.Present:
		return uint32(f.VLAN.TCI)
	case k == adTagPresent && f.VLAN.Present:
		return 1
	case k == adTagProtocol && f.VLAN.Present:
		return uint32(f.VLAN.TPID)
	}
	return 0
}

// compute reports false for a division by zero, which ends a program with result 0.
func compute(in bpf.RawInstruction, a, x uint32) (uint32, bool) {
	v := in.K
	if in.Op&unix.BPF_X != 0 {
		v = x
	}
	switch in.Op & opALU {
	case unix.BPF_ADD:
		a += v
	case unix.BPF_SUB:
		a -= v
	case unix.BPF_MUL:
		a *= v
	case unix.BPF_DIV, unix.BPF_MOD:
		return divide(in.Op&opALU, a, v)
	case unix.BPF_OR:
		a |= v
	case unix.BPF_AND:
		a &= v
	case unix.BPF_XOR:
		a ^= v
	case unix.BPF_LSH:
		a <<= v & 31 // the kernel's eBPF uses five bits of it
	case unix.BPF_RSH:
		a >>= v & 31
	case unix.BPF_NEG:
		a = -a
	}
	return a, true
}

func divide(op uint16, a, v uint32) (uint32, bool) {
	switch {
	case v == 0:
		return 0, false
	case op == unix.BPF_DIV:
		return a / v, true
	}
	return a % v, true
}

// jump returns the number of instructions to skip.
func jump(in bpf.RawInstruction, a, x uint32) int {
	v := in.K
	if in.Op&unix.BPF_X != 0 {
		v = x
	}
	var yes bool
	switch in.Op & opALU {
	case unix.BPF_JA:
		return int(in.K)
	case unix.BPF_JEQ:
		yes = a == v
	case unix.BPF_JGT:
		yes = a > v
	case unix.BPF_JGE:
		yes = a >= v
	case unix.BPF_JSET:
		yes = a&v != 0
	}
	if yes {
		return int(in.Jt)
	}
	return int(in.Jf)
}

// verify rejects what the kernel would reject, and what run does not implement.
func verify(prog []bpf.RawInstruction) error {
	if len(prog) == 0 || len(prog) > maxInstructions {
		return fmt.Errorf("%d instructions: want 1 to %d", len(prog), maxInstructions)
	}
	for pc, in := range prog {
		if err := verifyOne(in, len(prog)-1-pc); err != nil {
			return fmt.Errorf("instruction %d (%d %d %d %d): %w", pc, in.Op, in.Jt, in.Jf, in.K, err)
		}
	}
	if last := prog[len(prog)-1]; last.Op&0x07 != unix.BPF_RET {
		return fmt.Errorf("the last instruction does not return")
	}
	return nil
}

// verifyOne checks an instruction that has left instructions after it.
func verifyOne(in bpf.RawInstruction, left int) error {
	if in.Op > 0xff {
		return errOperation
	}
	switch in.Op & 0x07 {
	case unix.BPF_LD, unix.BPF_LDX:
		return verifyLoad(in)
	case unix.BPF_ST, unix.BPF_STX:
		if in.Op != unix.BPF_ST && in.Op != unix.BPF_STX {
			return errOperation
		}
		return verifyMemory(in.K)
	case unix.BPF_ALU:
		return verifyALU(in)
	case unix.BPF_JMP:
		return verifyJump(in, left)
	case unix.BPF_RET:
		if in.Op != unix.BPF_RET|unix.BPF_K && in.Op != unix.BPF_RET|unix.BPF_A {
			return errOperation
		}
	case unix.BPF_MISC:
		if in.Op != unix.BPF_MISC|unix.BPF_TAX && in.Op != unix.BPF_MISC|unix.BPF_TXA {
			return errOperation
		}
	}
	return nil
}

var errOperation = fmt.Errorf("no such operation")

func verifyMemory(k uint32) error {
	if k >= memWords {
		return fmt.Errorf("no such memory word")
	}
	return nil
}

func verifyLoad(in bpf.RawInstruction) error {
	switch in.Op {
	case unix.BPF_LD | unix.BPF_IMM, unix.BPF_LDX | unix.BPF_IMM,
		unix.BPF_LD | unix.BPF_LEN, unix.BPF_LDX | unix.BPF_LEN,
		unix.BPF_LD | unix.BPF_IND | unix.BPF_W, unix.BPF_LD | unix.BPF_IND | unix.BPF_H, unix.BPF_LD | unix.BPF_IND | unix.BPF_B:
		return nil
	case unix.BPF_LD | unix.BPF_MEM, unix.BPF_LDX | unix.BPF_MEM:
		return verifyMemory(in.K)
	case unix.BPF_LDX | unix.BPF_MSH | unix.BPF_B:
		return verifyOffset(in.K)
	case unix.BPF_LD | unix.BPF_ABS | unix.BPF_W, unix.BPF_LD | unix.BPF_ABS | unix.BPF_H, unix.BPF_LD | unix.BPF_ABS | unix.BPF_B:
		if isAncillary(in) {
			return nil
		}
		return verifyOffset(in.K)
	}
	return errOperation
}

func verifyOffset(k uint32) error {
	if int32(k) < 0 {
		return fmt.Errorf("unknown ancillary load")
	}
	return nil
}

// isAncillary reports whether an instruction loads something other than bytes of the
// frame.
func isAncillary(in bpf.RawInstruction) bool {
	if in.Op&0x07 != unix.BPF_LD || in.Op&opMode != unix.BPF_ABS {
		return false
	}
	switch in.K {
	case adProtocol, adPacketType, adIfIndex, adTag, adTagPresent, adTagProtocol:
		return true
	}
	return false
}

func verifyALU(in bpf.RawInstruction) error {
	op, constant := in.Op&opALU, in.Op&unix.BPF_X == 0
	switch {
	case op > unix.BPF_XOR || in.Op == unix.BPF_ALU|unix.BPF_NEG|unix.BPF_X:
		return errOperation
	case constant && in.K == 0 && (op == unix.BPF_DIV || op == unix.BPF_MOD):
		return fmt.Errorf("division by zero")
	case constant && in.K > 31 && (op == unix.BPF_LSH || op == unix.BPF_RSH):
		return fmt.Errorf("shift by more than 31 bits")
	}
	return nil
}

func verifyJump(in bpf.RawInstruction, left int) error {
	op := in.Op & opALU
	if op > unix.BPF_JSET || in.Op == unix.BPF_JMP|unix.BPF_JA|unix.BPF_X {
		return errOperation
	}
	far := max(uint32(in.Jt), uint32(in.Jf))
	if op == unix.BPF_JA {
		far = in.K
	}
	if uint64(far) >= uint64(left) {
		return fmt.Errorf("jump past the end")
	}
	return nil
}
