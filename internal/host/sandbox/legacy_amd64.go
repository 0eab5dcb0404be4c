package sandbox

import "golang.org/x/sys/unix"

// legacyCalls are system calls that newer architectures do not have.
var legacyCalls = []int{
	unix.SYS_OPEN, unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_ACCESS, unix.SYS_READLINK, unix.SYS_PIPE, unix.SYS_DUP2, unix.SYS_POLL, unix.SYS_SELECT,
	unix.SYS_EPOLL_WAIT, unix.SYS_ACCEPT, unix.SYS_ARCH_PRCTL, unix.SYS_TIME, unix.SYS_UNLINK, unix.SYS_RENAME,
	unix.SYS_MKDIR, unix.SYS_VFORK, unix.SYS_GETPGRP,
}
