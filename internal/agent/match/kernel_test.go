package match

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// attachTo attaches a program to a socket.
func attachTo(fd int, prog []bpf.RawInstruction) error {
	filter := (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(prog)))
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: filter}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog)
}

// pipe is a pair of sockets with a filter in the kernel between them: the
// program's data are the bytes that are sent, without any header. It needs no
// privilege.
type pipe struct{ in, out int }

func newPipe(t testing.TB) *pipe {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return &pipe{in: fds[0], out: fds[1]}
}

// run returns how much the attached program keeps of data, as the kernel says.
func (p *pipe) run(t testing.TB, data []byte) int {
	t.Helper()
	if err := unix.Sendto(p.in, data, 0, nil); err != nil && err != unix.EPERM {
		t.Fatalf("send %d bytes: %v", len(data), err)
	}
	buf := make([]byte, len(data)+1)
	n, _, err := unix.Recvfrom(p.out, buf, 0)
	if err == unix.EAGAIN {
		return 0
	}
	must(t, err)
	return n
}

// attach fails the test if the kernel does not take the filter's program.
func attach(t testing.TB, f *Filter) {
	t.Helper()
	if err := attachTo(newPipe(t).out, f.Instructions()); err != nil {
		t.Errorf("the kernel refuses the %d instructions of %q: %v", len(f.prog), f.Text, err)
	}
}

// compareWithKernel runs a program on data in both machines. What goes through
// a pipe has no link header.
func compareWithKernel(t testing.TB, p *pipe, prog []bpf.RawInstruction, data []byte) {
	t.Helper()
	m := &machine{prog: prog, link: packet.Network}
	kept := min(m.evaluate(&packet.Frame{Data: data, WireLen: len(data)}), uint32(len(data)))
	if n := p.run(t, data); n != int(kept) {
		t.Fatalf("the kernel keeps %d of %d bytes, we %d\ndata %x\nprogram %v", n, len(data), kept, data, prog)
	}
}

// TestModesInKernel: the kernel and we say the same of many frames and of
// every piece of them.
func TestModesInKernel(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	target := ethernet
	target.Addrs = append(append(randomAddrs(r, 60, true), randomAddrs(r, 60, false)...), addrsMine...)
	frames := [][]byte{
		ether(macPeer, macMine, 0x0806, make([]byte, 28)),
		etherIP(macMine, ipMine, ipPeer),
		etherIP(macNear, ipMine2, ipPeer, tag{0x9100, 1}),
	}
	for range 100 {
		a := target.Addrs[r.IntN(len(target.Addrs))]
		frames = append(frames, etherIP(macPeer, a, a), etherIP(macPeer, a, a, tag{0x88a8, 1}, tag{0x8100, 2}),
			etherIP(macPeer, randomAddr(r, a.Is4()), a, tag{0x8100, 3}))
	}
	for _, mode := range []string{"src", "dst", "spoof", "none"} {
		prog := compile(t, mode, target).prog
		p := newPipe(t)
		must(t, attachTo(p.out, prog))
		for _, frame := range frames {
			for n := 1; n <= min(len(frame), 64); n++ {
				compareWithKernel(t, p, prog, frame[:n])
			}
		}
	}
}

// kernelPrograms bounds how many programs a run of these tests attaches. The
// kernel frees each of them later, in a work item of its own, under one lock
// (bpf_prog_free_deferred); its holder may have to wait for another item of
// the same queue, and the queue runs 1024 at a time. A test that attaches and
// drops programs without end can so block that lock, and with it every filter
// on the machine, until it is booted anew. Fewer programs than that cannot;
// each is tried on much data instead. For the same reason no fuzz target here
// touches the kernel.
const kernelPrograms = 400

// TestMachineInKernel: random programs on random data.
func TestMachineInKernel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	p := newPipe(t)
	for range kernelPrograms {
		prog := randomProgram(r)
		must(t, verify(prog))
		must(t, attachTo(p.out, prog))
		for range 50 {
			data := make([]byte, 1+r.IntN(48))
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			compareWithKernel(t, p, prog, data)
		}
	}
}

// randomProgram makes a program that verify and the kernel accept: it writes
// the memory words first, for the kernel refuses to read one that may not have
// been written.
func randomProgram(r *rand.Rand) []bpf.RawInstruction {
	n := memWords + 2 + r.IntN(20)
	prog := make([]bpf.RawInstruction, 0, n)
	for word := range uint32(memWords) {
		prog = append(prog, op(unix.BPF_ST, word))
	}
	for len(prog) < n-1 {
		in := randomInstruction(r, n-1-len(prog))
		if verifyOne(in, n-1-len(prog)) == nil && (in.Op&0x07 != unix.BPF_RET || r.IntN(4) == 0) {
			prog = append(prog, in)
		}
	}
	return append(prog, bpf.RawInstruction{Op: unix.BPF_RET | unix.BPF_A})
}

func randomInstruction(r *rand.Rand, left int) bpf.RawInstruction {
	in := bpf.RawInstruction{Op: uint16(r.IntN(256)), Jt: uint8(r.IntN(left)), Jf: uint8(r.IntN(left))}
	switch class := in.Op & 0x07; {
	case class == unix.BPF_ST || class == unix.BPF_STX || in.Op&opMode == unix.BPF_MEM && class <= unix.BPF_LDX:
		in.K = uint32(r.IntN(memWords))
	case class <= unix.BPF_LDX:
		in.K = uint32(r.IntN(64))
	case in.Op&0xff == unix.BPF_JMP|unix.BPF_JA:
		in.K = uint32(r.IntN(left))
	default:
		in.K = []uint32{uint32(r.IntN(40)), r.Uint32(), 0xffffffff, 1 << 31, fromNetwork, fromLink}[r.IntN(6)]
	}
	return in
}

// FuzzMachine reads a program from bytes: verify refuses all that would make
// run fail, and where golang.org/x/net/bpf has a machine for the program, the
// two agree. The kernel's opinion is TestMachineInKernel's; see kernelPrograms.
func FuzzMachine(f *testing.F) {
	for _, mode := range []string{"src", "dst", "spoof", "none"} {
		f.Add(encodeProgram(compile(f, mode, ethernet).prog), etherIP(macPeer, ip6Mine, ipPeer))
	}
	r := rand.New(rand.NewPCG(13, 14))
	for range 20 {
		f.Add(encodeProgram(randomProgram(r)), etherIP(macPeer, ipMine, ipPeer))
	}
	f.Fuzz(func(t *testing.T, code, data []byte) {
		prog := decodeProgram(code)
		if verify(prog) != nil {
			return
		}
		kept := (&machine{prog: prog}).evaluate(&packet.Frame{Data: data, WireLen: len(data)})
		if slices.ContainsFunc(prog, differsInVM) {
			return
		}
		insns, _ := bpf.Disassemble(prog)
		vm, err := bpf.NewVM(insns)
		if err != nil {
			return
		}
		if n, err := vm.Run(data); err == nil && uint32(n) != kept {
			t.Errorf("x/net/bpf returns %d, we %d\ndata %x\nprogram %v", n, kept, data, prog)
		}
	})
}

func encodeProgram(prog []bpf.RawInstruction) (b []byte) {
	for _, in := range prog {
		b = binary.BigEndian.AppendUint16(b, in.Op)
		b = append(b, in.Jt, in.Jf)
		b = binary.BigEndian.AppendUint32(b, in.K)
	}
	return b
}

func decodeProgram(b []byte) (prog []bpf.RawInstruction) {
	for ; len(b) >= 8; b = b[8:] {
		prog = append(prog, bpf.RawInstruction{Op: binary.BigEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.BigEndian.Uint32(b[4:])})
	}
	return prog
}

// differsInVM reports whether x/net/bpf does something else than the kernel:
// shifts by 32 bits and more, negative offsets, negation, the length in X (it
// puts that into A), what is beside the data.
func differsInVM(in bpf.RawInstruction) bool {
	switch in.Op & 0x07 {
	case unix.BPF_LD:
		return isAncillary(in) || in.Op&opMode == unix.BPF_IND
	case unix.BPF_LDX:
		return in.Op&opMode == unix.BPF_LEN
	case unix.BPF_ALU:
		alu := in.Op & opALU
		return alu == unix.BPF_NEG || in.Op&unix.BPF_X != 0 && (alu == unix.BPF_LSH || alu == unix.BPF_RSH)
	}
	return false
}

func TestVerifyRefuses(t *testing.T) {
	ret := bpf.RawInstruction{Op: unix.BPF_RET}
	tests := map[string][]bpf.RawInstruction{
		"empty":              {},
		"too long":           slices.Repeat([]bpf.RawInstruction{ret}, maxInstructions+1),
		"no return":          {{Op: unix.BPF_LD | unix.BPF_IMM}},
		"jump past the end":  {{Op: unix.BPF_JMP | unix.BPF_JA, K: 1}, ret},
		"jump far past":      {{Op: unix.BPF_JMP | unix.BPF_JA, K: 0xffffffff}, ret},
		"true past the end":  {{Op: unix.BPF_JMP | unix.BPF_JEQ, Jt: 1}, ret},
		"false past the end": {{Op: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_X, Jf: 7}, ret},
		"unknown jump":       {{Op: unix.BPF_JMP | 0x50}, ret},
		"memory word 16":     {{Op: unix.BPF_ST, K: 16}, ret},
		"load word 16":       {{Op: unix.BPF_LDX | unix.BPF_MEM, K: 16}, ret},
		"division by zero":   {{Op: unix.BPF_ALU | unix.BPF_DIV}, ret},
		"modulo zero":        {{Op: unix.BPF_ALU | unix.BPF_MOD}, ret},
		"shift by 32":        {{Op: unix.BPF_ALU | unix.BPF_LSH, K: 32}, ret},
		"unknown ALU":        {{Op: unix.BPF_ALU | 0xb0}, ret},
		"negate X":           {{Op: unix.BPF_ALU | unix.BPF_NEG | unix.BPF_X}, ret},
		"unknown ancillary":  {{Op: unix.BPF_LD | unix.BPF_ABS, K: adOff + 12}, ret},
		"network offset":     {{Op: unix.BPF_LD | unix.BPF_ABS, K: 1<<32 - 0x100000}, ret},
		"byte length":        {{Op: unix.BPF_LD | unix.BPF_LEN | unix.BPF_B}, ret},
		"return X":           {{Op: unix.BPF_RET | unix.BPF_X}},
		"unknown misc":       {{Op: unix.BPF_MISC | 0x40}, ret},
		"store half":         {{Op: unix.BPF_STX | unix.BPF_H}, ret},
		"high bits":          {{Op: 0x100 | unix.BPF_ALU}, ret},
	}
	for name, prog := range tests {
		if err := verify(prog); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestAncillary: what the kernel knows beside the bytes.
func TestAncillary(t *testing.T) {
	m := &machine{index: 7}
	frame := &packet.Frame{WireLen: 99, Protocol: 0x86dd, Direction: packet.Outgoing,
		VLAN: packet.VLAN{TCI: 0x2005, TPID: 0x88a8, Present: true}}
	bare := &packet.Frame{VLAN: packet.VLAN{TCI: 1, TPID: 2}}
	tests := []struct {
		k          uint32
		full, none uint32
	}{
		{adProtocol, 0x86dd, 0}, {adPacketType, 4, 0}, {adIfIndex, 7, 7},
		{adTag, 0x2005, 0}, {adTagPresent, 1, 0}, {adTagProtocol, 0x88a8, 0},
	}
	for _, tt := range tests {
		m.prog = []bpf.RawInstruction{{Op: unix.BPF_LD | unix.BPF_ABS, K: tt.k}, {Op: unix.BPF_RET | unix.BPF_A}}
		must(t, verify(m.prog))
		if full, none := m.evaluate(frame), m.evaluate(bare); full != tt.full || none != tt.none {
			t.Errorf("ancillary %d: %#x and %#x, want %#x and %#x", tt.k-adOff, full, none, tt.full, tt.none)
		}
	}
	m.prog = []bpf.RawInstruction{{Op: unix.BPF_LD | unix.BPF_LEN}, {Op: unix.BPF_RET | unix.BPF_A}}
	if n := m.evaluate(frame); n != 99 {
		t.Errorf("length %d, want that on the wire, 99", n)
	}
}

// TestHeaderOffsets: negative offsets that an expression computes, in the
// kernel and here.
func TestHeaderOffsets(t *testing.T) {
	data := etherIP(macPeer, ipMine, ipPeer)
	p := newPipe(t)
	for _, base := range []uint32{0, fromNetwork, fromLink, adOff, 1 << 31} {
		for _, d := range []uint32{0, 1, uint32(len(data)) - 4, uint32(len(data)) - 3, 1<<32 - 1} {
			prog := []bpf.RawInstruction{op(unix.BPF_LDX|unix.BPF_IMM, base), op(unix.BPF_LD|unix.BPF_W|unix.BPF_IND, d), op(unix.BPF_RET, 17)}
			must(t, attachTo(p.out, prog))
			compareWithKernel(t, p, prog, data)
		}
	}
	m := &machine{link: packet.Ethernet}
	for off, want := range map[uint32]uint32{fromNetwork: 14, fromNetwork + 9: 23, fromLink: 0, fromLink + 6: 6, 7: 7} {
		if got := m.resolve(off); got != want {
			t.Errorf("offset %#x is %d of an Ethernet frame, want %d", off, got, want)
		}
	}
}

func ExampleFilter() {
	f, err := Compile(context.Background(), "src", Interface{Name: "eth0", Ethernet: true, MAC: macMine})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(f.Text)
	fmt.Println(f.Match(&packet.Frame{Data: etherIP(macMine, ipMine, ipPeer)}))
	// Output:
	// ether src 02:00:00:00:00:0a
	// true
}
