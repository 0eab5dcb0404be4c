package sandbox

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (seccomp(2)).
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArg2   = 32 // the lower half, on the little-endian architectures in auditArch
)

// Results of a filter (linux/seccomp.h).
const (
	actionKill  = 0x80000000 // the process
	actionErrno = 0x00050000 | uint32(unix.EPERM)
	actionAllow = 0x7fff0000
)

// auditArch maps architectures to seccomp's names for them; others have no list of
// calls.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// calls are those of the Go runtime and our programs: memory, threads, time, signals to
// itself, files, sockets, bpf(2).
var calls = []int{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE, unix.SYS_FSTAT, unix.SYS_LSEEK, unix.SYS_PREAD64, unix.SYS_PWRITE64,
	unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FCNTL, unix.SYS_IOCTL, unix.SYS_FLOCK,
	unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_STATX, unix.SYS_NEWFSTATAT, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_READLINKAT, unix.SYS_GETDENTS64,
	unix.SYS_GETCWD, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_MKDIRAT, unix.SYS_STATFS, unix.SYS_FSTATFS,
	unix.SYS_FCHMOD, unix.SYS_COPY_FILE_RANGE, unix.SYS_SENDFILE, unix.SYS_SPLICE, unix.SYS_PIPE2, unix.SYS_DUP, unix.SYS_DUP3,

	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MPROTECT, unix.SYS_MREMAP, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK, unix.SYS_MSYNC,

	unix.SYS_CLONE, unix.SYS_CLONE3, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_FUTEX, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ,
	unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SCHED_SETAFFINITY, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETPPID,
	unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID, unix.SYS_GETRUSAGE, unix.SYS_PRLIMIT64, unix.SYS_GETRLIMIT,
	unix.SYS_PRCTL, unix.SYS_CAPGET, unix.SYS_UNAME, unix.SYS_SYSINFO, unix.SYS_GETRANDOM, unix.SYS_MEMBARRIER, unix.SYS_RESTART_SYSCALL,
	unix.SYS_GETCPU, unix.SYS_SET_TID_ADDRESS,

	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_SIGALTSTACK, unix.SYS_TGKILL, unix.SYS_KILL,

	unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_GETRES, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_NANOSLEEP, unix.SYS_GETTIMEOFDAY,
	unix.SYS_TIMERFD_CREATE, unix.SYS_TIMERFD_SETTIME, unix.SYS_SETITIMER, unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE,

	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_EVENTFD2, unix.SYS_PPOLL, unix.SYS_PSELECT6,

	unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_ACCEPT4, unix.SYS_CONNECT, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME,
	unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKOPT, unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_SENDMMSG,
	unix.SYS_RECVMMSG, unix.SYS_SHUTDOWN,

	unix.SYS_BPF,
}

// execCalls are the additional ones for starting a program, and those that such
// programs (tcpdump -d) usually make.
var execCalls = []int{
	unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_WAIT4, unix.SYS_WAITID, unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_SEND_SIGNAL,
	unix.SYS_SETSID, unix.SYS_SETPGID, unix.SYS_CHDIR, unix.SYS_UMASK, unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETGROUPS,
	unix.SYS_GETGROUPS, unix.SYS_SET_TID_ADDRESS, unix.SYS_CLOSE_RANGE, unix.SYS_CAPSET,
}

// seccomp makes all other system calls fail with EPERM.
func seccomp(cfg Config, r *Report) error {
	arch, known := auditArch[runtime.GOARCH]
	if !known {
		r.add("seccomp", "no: there is no list of system calls for %s", runtime.GOARCH)
		return nil
	}
	list := slices.Concat(calls, legacyCalls)
	if cfg.Exec {
		list = append(list, execCalls...)
	}
	if cfg.Namespaces {
		list = append(list, unix.SYS_SETNS)
	}
	slices.Sort(list)
	list = slices.Compact(list)
	raw, err := bpf.Assemble(program(arch, list, cfg.Network))
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, ins := range raw {
		filter[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setModeFilter = 1
	// In all threads at once.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	if errno == unix.ENOSYS || errno == unix.EINVAL {
		r.add("seccomp", "no: this kernel has none")
		return nil
	}
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	r.add("seccomp", "%d system calls allowed", len(list))
	return nil
}

// program returns the filter that allows the calls in list, which must be sorted: it
// uses binary search, because every system call passes through it. Without network it
// allows no multipath TCP sockets, which Landlock's rules for TCP do not cover.
func program(arch uint32, list []int, network bool) []bpf.Instruction {
	head := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arch, SkipTrue: 1},
		bpf.RetConstant{Val: actionKill},
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
	}
	if !network {
		head = append(head,
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_SOCKET, SkipTrue: 4},
			bpf.LoadAbsolute{Off: offsetArg2, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_MPTCP, SkipTrue: 1},
			bpf.RetConstant{Val: actionErrno},
			bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
		)
	}
	return append(head, search(list)...)
}

// search returns code that ends with a verdict on the number in A.
func search(list []int) []bpf.Instruction {
	if len(list) <= 4 {
		var leaf []bpf.Instruction
		for i, number := range list {
			leaf = append(leaf, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(number), SkipTrue: uint8(len(list) - i)})
		}
		return append(leaf, bpf.RetConstant{Val: actionErrno}, bpf.RetConstant{Val: actionAllow})
	}
	half := len(list) / 2
	low, high := search(list[:half]), search(list[half:])
	return append(append([]bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(list[half]), SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(low))},
	}, low...), high...)
}
