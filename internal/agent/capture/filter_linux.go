package capture

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Opcodes of classic BPF (linux/bpf_common.h) that clamp looks for or emits.
const (
	opRetK  = unix.BPF_RET | unix.BPF_K
	opRetA  = unix.BPF_RET | unix.BPF_A
	opJump  = unix.BPF_JMP | unix.BPF_JA
	opJgtK  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	bpfMost = unix.BPF_MAXINSNS
)

// rejectAll accepts no frame.
var rejectAll = []bpf.RawInstruction{{Op: opRetK, K: 0}}

// clamp returns the program with its results limited to snaplen, because the result is
// the number of bytes that the kernel keeps of a frame. It does not modify its
// argument.
func clamp(program []bpf.RawInstruction, snaplen uint32) []bpf.RawInstruction {
	if len(program) == 0 {
		return []bpf.RawInstruction{{Op: opRetK, K: snaplen}}
	}
	out := make([]bpf.RawInstruction, len(program), len(program)+3)
	copy(out, program)
	var returnsA bool
	for i := range out {
		switch ins := &out[i]; ins.Op {
		case opRetK:
			ins.K = min(ins.K, snaplen)
		case opRetA:
			// 32-bit jumps reach the tail from anywhere, so no other jump has to be
			// changed.
			*ins = bpf.RawInstruction{Op: opJump, K: uint32(len(program) - i - 1)}
			returnsA = true
		}
	}
	if returnsA {
		out = append(out,
			bpf.RawInstruction{Op: opJgtK, Jt: 0, Jf: 1, K: snaplen},
			bpf.RawInstruction{Op: opRetK, K: snaplen},
			bpf.RawInstruction{Op: opRetA})
	}
	return out
}

// attachProgram replaces the socket's filter with program.
func attachProgram(fd int, program []bpf.RawInstruction) error {
	if len(program) > bpfMost {
		return fmt.Errorf("%w: %d instructions, the kernel takes %d", ErrFilter, len(program), bpfMost)
	}
	// bpf.RawInstruction is laid out like struct sock_filter.
	prog := unix.SockFprog{
		Len:    uint16(len(program)),
		Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(program))),
	}
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
	runtime.KeepAlive(program)
	if err != nil {
		return fmt.Errorf("%w by the kernel: %w", ErrFilter, err)
	}
	return nil
}
