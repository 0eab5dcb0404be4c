package capture

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A classic BPF program becomes the body of filter() in bpf/tap.c, which defines the
// contents of the registers when it is called:
const (
	regFrame = asm.R1 // the copied bytes of the frame
	regCap   = asm.R2 // number of copied bytes
	regLen   = asm.R3 // length of the frame
	regKind  = asm.R4 // packet type, and in bit 8 whether a tag was removed
	regTag   = asm.R5 // TCI of that tag, and from bit 16 the frame's protocol
	regA     = asm.R0 // the classic machine's registers
	regX     = asm.R6
	regTmp   = asm.R7
	regEnd   = asm.R8
)

// Offsets at which classic BPF loads data outside the frame: SKF_AD_OFF, SKF_NET_OFF,
// and SKF_LL_OFF of linux/filter.h, as unsigned numbers.
const (
	skfAD  = 0xfffff000
	skfNet = 0xfff00000
	skfLL  = 0xffe00000

	adProtocol       = 0
	adPacketType     = 4
	adVLANTag        = 44
	adVLANTagPresent = 48
)

// errUntranslatable is wrapped by errors that explain why a filter cannot run in the
// programs of a Tap. A packet socket can still run it.
var errUntranslatable = errors.New("filter cannot be translated to eBPF")

// translation is a filter translated to eBPF.
type translation struct {
	code asm.Instructions
	look int // number of bytes of a frame that it can read
}

// translate translates a classic BPF program to eBPF, for frames of which at most snap
// bytes are visible: like a filter on a capture file, it treats the bytes beyond as
// absent. link is the length of the link header.
//
// Unreachable code, which filter compilers sometimes generate, is removed, because the
// kernel rejects it.
func translate(program []bpf.RawInstruction, link, snap int) (translation, error) {
	t := translator{program: program, link: uint32(link), snap: uint32(snap), reached: make([]bool, len(program))}
	if err := t.reach(0); err != nil {
		return translation{}, err
	}
	t.emit(asm.Mov.Imm32(regA, 0), asm.Mov.Imm32(regX, 0))
	if t.memory {
		t.emit(asm.Mov.Imm32(regTmp, 0))
		for i := range int16(unix.BPF_MEMWORDS) {
			t.emit(asm.StoreMem(asm.R10, cell(uint32(i)), regTmp, asm.Word))
		}
	}
	for i, ins := range program {
		if !t.reached[i] {
			continue
		}
		t.label = label(i)
		if err := t.one(i, ins); err != nil {
			return translation{}, fmt.Errorf("%w: instruction %d: %w", errUntranslatable, i, err)
		}
	}
	t.label = drop
	t.emit(asm.Mov.Imm32(asm.R0, 0), asm.Return())
	return translation{code: prune(t.code), look: int(t.look)}, nil
}

// prune removes unreachable code, including what follows a load that always fails.
func prune(code asm.Instructions) asm.Instructions {
	at := make(map[string]int)
	for i, ins := range code {
		if s := ins.Symbol(); s != "" {
			at[s] = i
		}
	}
	reached := make([]bool, len(code))
	reached[0] = true
	for i, ins := range code { // jumps go forward only
		if !reached[i] {
			continue
		}
		op := ins.OpCode.JumpOp()
		if target := ins.Reference(); target != "" {
			reached[at[target]] = true
		}
		if op != asm.Exit && op != asm.Ja && i+1 < len(code) {
			reached[i+1] = true
		}
	}
	out := code[:0]
	for i, ins := range code {
		if reached[i] {
			out = append(out, ins)
		}
	}
	return out
}

type translator struct {
	program []bpf.RawInstruction
	link    uint32
	snap    uint32
	reached []bool
	memory  bool // M[] is used
	look    uint32

	code  asm.Instructions
	label string // of the next instruction
}

const drop = "drop"

func label(i int) string { return "at" + strconv.Itoa(i) }

// cell returns the position of M[i] on the stack.
func cell(i uint32) int16 { return -4 * int16(unix.BPF_MEMWORDS-i) }

func (t *translator) emit(ins ...asm.Instruction) {
	for _, i := range ins {
		if t.label != "" {
			i = i.WithSymbol(t.label)
			t.label = ""
		}
		t.code = append(t.code, i)
	}
}

// reach marks what is reachable from instruction i. Jumps go forward only, so a single
// pass suffices.
func (t *translator) reach(i int) error {
	if len(t.program) == 0 || len(t.program) > bpfMost {
		return fmt.Errorf("%w: %d instructions, the kernel takes 1 to %d", ErrFilter, len(t.program), bpfMost)
	}
	t.reached[i] = true
	for i, ins := range t.program {
		if !t.reached[i] {
			continue
		}
		var next []uint64
		switch {
		case ins.Op&7 == unix.BPF_RET:
			continue
		case ins.Op == opJump:
			next = []uint64{uint64(ins.K)}
		case ins.Op&7 == unix.BPF_JMP:
			next = []uint64{uint64(ins.Jt), uint64(ins.Jf)}
		default:
			next = []uint64{0}
		}
		for _, n := range next {
			to := uint64(i) + 1 + n
			if to >= uint64(len(t.program)) {
				return fmt.Errorf("%w: instruction %d goes beyond the end", ErrFilter, i)
			}
			t.reached[to] = true
		}
		switch op := ins.Op; {
		case op == unix.BPF_ST, op == unix.BPF_STX,
			op == unix.BPF_LD|unix.BPF_MEM, op == unix.BPF_LDX|unix.BPF_MEM:
			t.memory = true
		}
	}
	return nil
}

func (t *translator) one(i int, ins bpf.RawInstruction) error {
	switch ins.Op & 7 {
	case unix.BPF_LD:
		return t.load(ins)
	case unix.BPF_LDX:
		return t.loadX(ins)
	case unix.BPF_ST, unix.BPF_STX:
		return t.store(ins)
	case unix.BPF_ALU:
		return t.alu(ins)
	case unix.BPF_JMP:
		return t.jump(i, ins)
	case unix.BPF_RET:
		switch ins.Op {
		case opRetK:
			t.emit(asm.Mov.Imm32(asm.R0, int32(ins.K)), asm.Return())
		case opRetA:
			t.emit(asm.Return())
		default:
			return unknown(ins)
		}
		return nil
	}
	switch ins.Op { // BPF_MISC
	case unix.BPF_MISC | unix.BPF_TAX:
		t.emit(asm.Mov.Reg32(regX, regA))
	case unix.BPF_MISC | unix.BPF_TXA:
		t.emit(asm.Mov.Reg32(regA, regX))
	default:
		return unknown(ins)
	}
	return nil
}

func unknown(ins bpf.RawInstruction) error { return fmt.Errorf("unknown operation %#x", ins.Op) }

func (t *translator) load(ins bpf.RawInstruction) error {
	size, ok := sizeOf(ins.Op)
	if !ok {
		return unknown(ins)
	}
	switch ins.Op & 0xe0 {
	case unix.BPF_IMM:
		t.emit(asm.Mov.Imm32(regA, int32(ins.K)))
	case unix.BPF_LEN:
		t.emit(asm.Mov.Reg32(regA, regLen))
	case unix.BPF_MEM:
		if ins.K >= unix.BPF_MEMWORDS {
			return unknown(ins)
		}
		t.emit(asm.LoadMem(regA, asm.R10, cell(ins.K), asm.Word))
	case unix.BPF_ABS:
		if ins.K >= skfAD {
			return t.ancillary(ins.K - skfAD)
		}
		return t.absolute(ins.K, size)
	case unix.BPF_IND:
		return t.indirect(ins.K, size)
	default:
		return unknown(ins)
	}
	return nil
}

func sizeOf(op uint16) (asm.Size, bool) {
	switch op & 0x18 {
	case unix.BPF_W:
		return asm.Word, true
	case unix.BPF_H:
		return asm.Half, true
	case unix.BPF_B:
		return asm.Byte, true
	}
	return 0, false
}

// frameOffset converts an offset from the network or the link header to an offset in
// the frame.
func (t *translator) frameOffset(k uint32) (uint32, error) {
	switch {
	case k >= skfAD:
		return 0, fmt.Errorf("load of kernel data at %#x", k)
	case k >= skfNet:
		return k - skfNet + t.link, nil
	case k >= skfLL:
		return k - skfLL, nil
	case k >= 1<<31:
		return 0, fmt.Errorf("load at %#x", k)
	}
	return k, nil
}

func (t *translator) absolute(k uint32, size asm.Size) error {
	k, err := t.frameOffset(k)
	if err != nil {
		return err
	}
	end := k + uint32(size.Sizeof())
	if end > t.snap {
		t.look = t.snap
		t.emit(asm.Ja.Label(drop))
		return nil
	}
	t.look = max(t.look, end)
	t.emit(asm.JLT.Imm(regCap, int32(end), drop), asm.LoadMem(regA, regFrame, int16(k), size))
	t.toHost(size)
	return nil
}

// indirect loads from X+k. Its bounds checks show the verifier that nothing outside the
// snapshot is read.
func (t *translator) indirect(k uint32, size asm.Size) error {
	k, err := t.frameOffset(k)
	if err != nil {
		return err
	}
	t.look = t.snap
	n := int32(size.Sizeof())
	if k > t.snap {
		t.emit(asm.Ja.Label(drop))
		return nil
	}
	t.emit(
		asm.Mov.Reg32(regTmp, regX), // clears the upper bits
		asm.Add.Imm(regTmp, int32(k)),
		asm.JGT.Imm(regTmp, int32(t.snap)-n, drop),
		asm.Mov.Reg(regEnd, regTmp),
		asm.Add.Imm(regEnd, n),
		asm.JGT.Reg(regEnd, regCap, drop),
		asm.Add.Reg(regTmp, regFrame),
		asm.LoadMem(regA, regTmp, 0, size),
	)
	t.toHost(size)
	return nil
}

func (t *translator) toHost(size asm.Size) {
	if size != asm.Byte {
		t.emit(asm.HostTo(asm.BE, regA, size))
	}
}

func (t *translator) ancillary(what uint32) error {
	switch what {
	case adProtocol:
		t.emit(asm.Mov.Reg32(regA, regTag), asm.RSh.Imm32(regA, 16))
	case adPacketType:
		t.emit(asm.Mov.Reg32(regA, regKind), asm.And.Imm32(regA, 7))
	case adVLANTag:
		t.emit(asm.Mov.Reg32(regA, regTag), asm.And.Imm32(regA, 0xffff))
	case adVLANTagPresent:
		t.emit(asm.Mov.Reg32(regA, regKind), asm.RSh.Imm32(regA, 8))
	default:
		return fmt.Errorf("load of kernel data %d", what)
	}
	return nil
}

func (t *translator) loadX(ins bpf.RawInstruction) error {
	switch ins.Op {
	case unix.BPF_LDX | unix.BPF_IMM:
		t.emit(asm.Mov.Imm32(regX, int32(ins.K)))
	case unix.BPF_LDX | unix.BPF_LEN:
		t.emit(asm.Mov.Reg32(regX, regLen))
	case unix.BPF_LDX | unix.BPF_MEM:
		if ins.K >= unix.BPF_MEMWORDS {
			return unknown(ins)
		}
		t.emit(asm.LoadMem(regX, asm.R10, cell(ins.K), asm.Word))
	case unix.BPF_LDX | unix.BPF_MSH | unix.BPF_B: // the length of an IPv4 header
		k, err := t.frameOffset(ins.K)
		if err != nil {
			return err
		}
		if k >= t.snap {
			t.look = t.snap
			t.emit(asm.Ja.Label(drop))
			return nil
		}
		t.look = max(t.look, k+1)
		t.emit(
			asm.JLT.Imm(regCap, int32(k+1), drop),
			asm.LoadMem(regX, regFrame, int16(k), asm.Byte),
			asm.And.Imm32(regX, 0x0f),
			asm.LSh.Imm32(regX, 2),
		)
	default:
		return unknown(ins)
	}
	return nil
}

func (t *translator) store(ins bpf.RawInstruction) error {
	if ins.K >= unix.BPF_MEMWORDS {
		return unknown(ins)
	}
	switch ins.Op {
	case unix.BPF_ST:
		t.emit(asm.StoreMem(asm.R10, cell(ins.K), regA, asm.Word))
	case unix.BPF_STX:
		t.emit(asm.StoreMem(asm.R10, cell(ins.K), regX, asm.Word))
	default:
		return unknown(ins)
	}
	return nil
}

var aluOps = map[uint16]asm.ALUOp{
	unix.BPF_ADD: asm.Add, unix.BPF_SUB: asm.Sub, unix.BPF_MUL: asm.Mul, unix.BPF_DIV: asm.Div,
	unix.BPF_OR: asm.Or, unix.BPF_AND: asm.And, unix.BPF_LSH: asm.LSh, unix.BPF_RSH: asm.RSh,
	unix.BPF_MOD: asm.Mod, unix.BPF_XOR: asm.Xor,
}

func (t *translator) alu(ins bpf.RawInstruction) error {
	code := ins.Op & 0xf0
	if code == unix.BPF_NEG {
		t.emit(asm.Instruction{OpCode: asm.OpCode(asm.ALUClass).SetALUOp(asm.Neg), Dst: regA})
		return nil
	}
	op, ok := aluOps[code]
	if !ok {
		return unknown(ins)
	}
	divides := code == unix.BPF_DIV || code == unix.BPF_MOD
	if ins.Op&unix.BPF_X != 0 {
		if divides { // classic BPF ends here, eBPF continues
			t.emit(asm.JEq.Imm32(regX, 0, drop))
		}
		t.emit(op.Reg32(regA, regX))
		return nil
	}
	switch {
	case divides && ins.K == 0, (code == unix.BPF_LSH || code == unix.BPF_RSH) && ins.K >= 32:
		return fmt.Errorf("%w: operand %d", ErrFilter, ins.K)
	}
	t.emit(op.Imm32(regA, int32(ins.K)))
	return nil
}

var jumpOps = map[uint16]asm.JumpOp{
	unix.BPF_JEQ: asm.JEq, unix.BPF_JGT: asm.JGT, unix.BPF_JGE: asm.JGE, unix.BPF_JSET: asm.JSet,
}

func (t *translator) jump(i int, ins bpf.RawInstruction) error {
	if ins.Op == opJump {
		t.emit(asm.Ja.Label(label(i + 1 + int(ins.K))))
		return nil
	}
	op, ok := jumpOps[ins.Op&0xf0]
	if !ok {
		return unknown(ins)
	}
	yes, no := label(i+1+int(ins.Jt)), label(i+1+int(ins.Jf))
	if ins.Op&unix.BPF_X != 0 {
		t.emit(op.Reg32(regA, regX, yes))
	} else {
		t.emit(op.Imm32(regA, int32(ins.K), yes))
	}
	if ins.Jf != 0 {
		t.emit(asm.Ja.Label(no))
	}
	return nil
}
