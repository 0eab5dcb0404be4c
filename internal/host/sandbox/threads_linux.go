package sandbox

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// all makes a system call in every thread.
func all(call, a, b, c uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall(call, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

// setCapabilities makes set the permitted and effective capabilities of all threads,
// and clears the inheritable ones.
func setCapabilities(set uint64) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		half := uint32(set >> (32 * i))
		data[i].Permitted, data[i].Effective = half, half
	}
	return all(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data[0])), 0)
}
