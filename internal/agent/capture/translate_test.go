package capture

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/net/bpf"

	"github.com/pcapper/pcapper/internal/test/nettest"
)

// judge runs frames through the programs of a tap that is attached to nothing,
// in the kernel, and tells which of them passed its filter.
func judge(t *testing.T, h *nettest.Host, filter []bpf.RawInstruction, frames [][]byte) []bool {
	t.Helper()
	tap := openTap(t, h, Config{Ethernet: true, Filter: filter, RingBytes: 1})
	defer tap.Close()
	if err := tap.progs.setVar("egress", turnBeforeQueue); err != nil {
		t.Fatal(err)
	}
	passed := make([]bool, len(frames))
	for i, f := range frames {
		before := tap.Stats().Received
		if _, err := tap.progs.coll.Programs[progEgress].Run(&ebpf.RunOptions{Data: f}); err != nil {
			t.Fatalf("frame %d of %d bytes: %v", i, len(f), err)
		}
		passed[i] = tap.Stats().Received > before
	}
	return passed
}

// randomProgram is one that the kernel would take, made of all instructions.
func randomProgram(rng *rand.Rand, n int) []bpf.Instruction {
	sizes := []int{1, 2, 4}
	value := func() uint32 {
		return []uint32{0, 1, 4, 14, 20, 45, 80, 255, 0x800, 0xffff, 1 << 31, 0xffffffff, rng.Uint32()}[rng.IntN(13)]
	}
	reg := func() bpf.Register { return bpf.Register(rng.IntN(2)) }
	var p []bpf.Instruction
	for i := range n {
		left := n - i // to the first of the two returns
		skip := func() uint8 { return uint8(rng.IntN(min(left, 6))) }
		switch rng.IntN(15) {
		case 0:
			p = append(p, bpf.LoadConstant{Dst: reg(), Val: value()})
		case 1, 2, 3:
			p = append(p, bpf.LoadAbsolute{Off: uint32(rng.IntN(70)), Size: sizes[rng.IntN(3)]})
		case 4, 5:
			p = append(p, bpf.LoadIndirect{Off: uint32(rng.IntN(40)), Size: sizes[rng.IntN(3)]})
		case 6:
			p = append(p, bpf.LoadMemShift{Off: uint32(rng.IntN(30))})
		case 7:
			p = append(p, bpf.LoadExtension{Num: bpf.ExtLen})
		case 8:
			p = append(p, bpf.StoreScratch{Src: reg(), N: rng.IntN(16)}, bpf.LoadScratch{Dst: reg(), N: rng.IntN(16)})
		case 9:
			ops := []bpf.ALUOp{bpf.ALUOpAdd, bpf.ALUOpSub, bpf.ALUOpMul, bpf.ALUOpOr, bpf.ALUOpAnd, bpf.ALUOpXor}
			p = append(p, bpf.ALUOpConstant{Op: ops[rng.IntN(len(ops))], Val: value()})
		case 10:
			ops := []bpf.ALUOp{bpf.ALUOpDiv, bpf.ALUOpMod}
			p = append(p, bpf.ALUOpConstant{Op: ops[rng.IntN(2)], Val: 1 + uint32(rng.IntN(100))},
				bpf.ALUOpConstant{Op: []bpf.ALUOp{bpf.ALUOpShiftLeft, bpf.ALUOpShiftRight}[rng.IntN(2)], Val: uint32(rng.IntN(32))})
		case 11:
			ops := []bpf.ALUOp{bpf.ALUOpAdd, bpf.ALUOpSub, bpf.ALUOpMul, bpf.ALUOpDiv, bpf.ALUOpMod, bpf.ALUOpOr, bpf.ALUOpAnd, bpf.ALUOpXor}
			p = append(p, bpf.ALUOpX{Op: ops[rng.IntN(len(ops))]}, bpf.TXA{}, bpf.TAX{})
		case 12:
			p = append(p, bpf.TAX{})
		case 13:
			p = append(p, bpf.JumpIf{Cond: bpf.JumpTest(rng.IntN(8)), Val: value(), SkipTrue: skip(), SkipFalse: skip()})
		case 14:
			p = append(p, bpf.JumpIfX{Cond: bpf.JumpTest(rng.IntN(8)), SkipTrue: skip(), SkipFalse: skip()})
		}
	}
	return append(p, bpf.RetConstant{Val: uint32(rng.IntN(2)) * 100}, bpf.RetA{}, bpf.RetConstant{Val: 7},
		bpf.RetConstant{}, bpf.RetConstant{Val: 1}, bpf.RetConstant{}, bpf.RetConstant{Val: 3})
}

// What the kernel makes of a translated filter is what an interpreter of classic
// BPF makes of the filter. A few dozen programs only: see the warning at
// TestSetFilterLeavesNoGap.
func TestTranslation(t *testing.T) {
	a, b := nettest.Pair(t)
	rng := rand.New(rand.NewPCG(3, 5))
	var frames [][]byte
	for range 60 {
		f := make([]byte, 14+rng.IntN(300))
		for i := range f {
			f[i] = byte(rng.IntN(256) * rng.IntN(2))
		}
		frames = append(frames, f)
	}
	for _, n := range []int{0, 18, 500} {
		f := udp(a, b, make([]byte, n))
		frames = append(frames, f.Ethernet())
	}
	both := 0
	for i := range 30 {
		program := randomProgram(rng, 5+i)
		raw, err := bpf.Assemble(program)
		if err != nil {
			t.Fatal(err)
		}
		vm, err := bpf.NewVM(program)
		if err != nil {
			t.Fatalf("program %d: %v\n%v", i, err, program)
		}
		got := judge(t, a, raw, frames)
		var yes, no bool
		for k, f := range frames {
			n, err := vm.Run(f[:min(len(f), tapSnap)])
			if err != nil {
				t.Fatal(err)
			}
			if want := n > 0; got[k] != want {
				t.Errorf("program %d passes frame %d (% x): %v, want %v\n%v", i, k, f, got[k], want, program)
			}
			yes, no = yes || n > 0, no || n == 0
		}
		if yes && no {
			both++
		}
	}
	t.Logf("%d of 30 programs tell frames apart", both)
	if both < 5 {
		t.Errorf("only %d programs tell frames apart", both)
	}
}

// What no program can say about copied bytes is refused, not guessed.
func TestUntranslatable(t *testing.T) {
	for name, program := range map[string][]bpf.RawInstruction{
		"kernel data":    {{Op: 0x20, K: skfAD + 12}, {Op: opRetA}},
		"far offset":     {{Op: 0x20, K: 1 << 31}, {Op: opRetA}},
		"scratch 16":     {{Op: 0x60, K: 16}, {Op: opRetA}},
		"unknown":        {{Op: 0xff}, {Op: opRetA}},
		"divided by 0":   {{Op: 0x34, K: 0}, {Op: opRetA}},
		"shifted by 32":  {{Op: 0x64, K: 32}, {Op: opRetA}},
		"return of X":    {{Op: 0x0e}},
		"past the end":   {{Op: opJump, K: 7}},
		"without an end": {{Op: 0x80}},
		"empty":          {},
	} {
		_, err := translate(program, 14, tapSnap)
		if !errors.Is(err, errUntranslatable) && !errors.Is(err, ErrFilter) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
