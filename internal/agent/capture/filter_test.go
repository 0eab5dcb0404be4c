package capture

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// assemble turns instructions into what the kernel takes.
func assemble(t testing.TB, program ...bpf.Instruction) []bpf.RawInstruction {
	t.Helper()
	raw, err := bpf.Assemble(program)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// run is the program's answer for a frame. It reports false if the virtual
// machine refuses the program.
func run(raw []bpf.RawInstruction, frame []byte) (int, bool) {
	program := make([]bpf.Instruction, len(raw))
	for i, r := range raw {
		program[i] = r.Disassemble()
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		return 0, false
	}
	n, err := vm.Run(frame)
	return n, err == nil
}

func TestClamp(t *testing.T) {
	const snaplen = 100
	for _, test := range []struct {
		name    string
		program []bpf.Instruction
		want    int
	}{
		{"none", nil, snaplen},
		{"reject", []bpf.Instruction{bpf.RetConstant{Val: 0}}, 0},
		{"all", []bpf.Instruction{bpf.RetConstant{Val: 0x40000}}, snaplen},
		{"less", []bpf.Instruction{bpf.RetConstant{Val: 20}}, 20},
		{"A over", []bpf.Instruction{bpf.LoadConstant{Val: 5000}, bpf.RetA{}}, snaplen},
		{"A as much", []bpf.Instruction{bpf.LoadConstant{Val: 100}, bpf.RetA{}}, snaplen},
		{"A less", []bpf.Instruction{bpf.LoadConstant{Val: 99}, bpf.RetA{}}, 99},
		{"A rejects", []bpf.Instruction{bpf.LoadConstant{Val: 0}, bpf.RetA{}}, 0},
		{"A of two, both ways", []bpf.Instruction{
			bpf.LoadConstant{Val: 7},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: 7, SkipTrue: 1},
			bpf.RetA{},
			bpf.LoadConstant{Val: 200},
			bpf.RetA{},
		}, snaplen},
	} {
		t.Run(test.name, func(t *testing.T) {
			program := assemble(t, test.program...)
			before := slices.Clone(program)
			got, ok := run(clamp(program, snaplen), make([]byte, 64))
			if !ok || got != test.want {
				t.Errorf("answer %d, %v, want %d", got, ok, test.want)
			}
			if !slices.Equal(program, before) {
				t.Error("clamp changed its argument")
			}
		})
	}
}

// Whatever the program: the answer is the same one, cut.
func FuzzClamp(f *testing.F) {
	f.Add([]byte{0, 6, 0xff, 0, 0}, uint16(64))
	f.Add([]byte{0, 0, 200, 0, 0, 0, 0x16, 0, 0, 0}, uint16(64))
	f.Add([]byte{0, 0x20, 3, 0, 0, 0, 0x15, 9, 0, 1, 0, 0x16, 0, 0, 0, 0, 6, 1, 0, 0}, uint16(8))
	frame := []byte("a frame of some bytes, to be loaded by the programs that load")
	f.Fuzz(func(t *testing.T, code []byte, snaplen uint16) {
		var program []bpf.RawInstruction
		for ; len(code) >= 5; code = code[5:] {
			program = append(program, bpf.RawInstruction{
				Op: uint16(code[0])<<8 | uint16(code[1]), K: uint32(code[2]), Jt: code[3], Jf: code[4],
			})
		}
		want, ok := run(program, frame)
		if !ok {
			return
		}
		got, ok := run(clamp(program, uint32(snaplen)), frame)
		if want = min(want, int(snaplen)); !ok || got != want {
			t.Errorf("answer %d, %v, want %d", got, ok, want)
		}
	})
}

func TestFilterThatIsNone(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for name, program := range map[string][]bpf.RawInstruction{
		"no return":     {{Op: unix.BPF_LD | unix.BPF_IMM}},
		"jump too far":  {{Op: opJump, K: 5}, {Op: opRetK}},
		"no such opode": {{Op: 0xffff}, {Op: opRetK}},
		"too long":      make([]bpf.RawInstruction, bpfMost+1),
		"empty":         {},
	} {
		if err := attachProgram(fd, program); !errors.Is(err, ErrFilter) {
			t.Errorf("%s: error %v, want %v", name, err, ErrFilter)
		}
	}
	if err := attachProgram(fd, rejectAll); err != nil {
		t.Errorf("reject all: %v", err)
	}
}
