package nettest

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Kernel reports whether the running kernel is that version or a later one.
func Kernel(major, minor int) bool {
	var u unix.Utsname
	var a, b int
	if unix.Uname(&u) != nil {
		return false
	}
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}

// NeedTCX skips a test of the eBPF engine where the kernel is too old for it.
func NeedTCX(t TB) {
	t.Helper()
	if !Kernel(6, 6) {
		t.Skipf("this kernel has no tcx (Linux 6.6)")
	}
}
