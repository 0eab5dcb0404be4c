package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Rights on files and directories.
const (
	rightsRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	rightsWrite = rightsRead | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR |
		unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_REFER
	rightsExec = rightsRead | unix.LANDLOCK_ACCESS_FS_EXECUTE
	// rightsFile are the rights that a rule for anything other than a directory may
	// have.
	rightsFile = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
)

// always are read by the Go runtime, by metrics and host statistics, and by the eBPF
// library.
var always = []string{"/proc", "/sys", "/etc/localtime", "/usr/share/zoneinfo"}

// programs are the directories of executables, and of what they need.
var programs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc"}

// handled returns the rights known to a version of the interface (ABI). A ruleset
// forbids the rights that it handles, except where its rules allow them.
func handled(abi int) (fs uint64) {
	fs = 1<<13 - 1 // EXECUTE to MAKE_SYM
	if abi >= 2 {
		fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 5 {
		fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	return fs
}

// landlock removes access to the file system except for what cfg names. Open files stay
// usable.
func landlock(cfg Config, r *Report) error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		r.add("landlock", "no: this kernel has none, or has it turned off (%v)", errno)
		return nil
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: handled(int(abi))}
	if abi >= 4 && !cfg.Network {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if abi >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_SIGNAL // only to itself and its children
	}
	// Kernels accept the shorter structure of older versions.
	size := unsafe.Sizeof(attr.Handled_access_fs)
	if abi >= 4 {
		size += unsafe.Sizeof(attr.Handled_access_net)
	}
	if abi >= 6 {
		size += unsafe.Sizeof(attr.Scoped)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	defer unix.Close(int(fd))
	allow := func(rights uint64, paths ...string) error {
		for _, path := range paths {
			if err := beneath(int(fd), path, rights&attr.Handled_access_fs); err != nil {
				return fmt.Errorf("landlock: %q: %w", path, err)
			}
		}
		return nil
	}
	err := allow(rightsRead, append(always, directories(cfg.Read)...)...)
	if err == nil {
		err = allow(rightsWrite, cfg.Write...)
	}
	if err == nil {
		err = allow(rightsRead|unix.LANDLOCK_ACCESS_FS_WRITE_FILE, os.DevNull)
	}
	if err == nil && cfg.Exec {
		err = allow(rightsExec, programs...)
	}
	if err != nil {
		return err
	}
	if err := all(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	text := fmt.Sprintf("version %d", abi)
	if len(cfg.Write) > 0 {
		text += ", writes in " + strings.Join(cfg.Write, ", ") + " only"
	} else {
		text += ", writes nowhere"
	}
	if attr.Handled_access_net != 0 {
		text += ", opens no other TCP port or connection"
	}
	r.add("landlock", "%s", text)
	return nil
}

// directories returns the directories of the files and, if they are symbolic links, of
// their targets: a file may be replaced by another one with the same name, to which a
// rule for the file would not apply.
func directories(paths []string) (dirs []string) {
	for _, path := range paths {
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			dirs = append(dirs, path)
			continue
		}
		dirs = append(dirs, filepath.Dir(path))
		if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	return dirs
}

// beneath allows the use of a file, or of everything in a directory. A path that does
// not exist needs no rule.
func beneath(ruleset int, path string, rights uint64) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	f, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(f)
	if st, err := os.Stat(path); err == nil && !st.IsDir() {
		rights &= rightsFile
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(f)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
