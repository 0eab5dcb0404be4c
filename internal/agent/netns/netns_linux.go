// Package netns runs functions in network namespaces (network_namespaces(7)) and reads
// host names of UTS namespaces. Namespaces are identified by a path; the package does
// not search for them.
package netns

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace is an open network namespace. The namespace exists at least until Close.
type Namespace struct {
	fd    int
	inode uint64
}

// Own is the path of the calling thread's namespace, which is the program's own except
// in Do. (/proc/self/ns/net is the namespace of the program's first thread, which Do
// may have moved to another namespace for good.)
const Own = "/proc/thread-self/ns/net"

// Current opens the namespace of the calling thread.
func Current() (*Namespace, error) { return Open(Own) }

// Open opens the namespace at path, such as /run/netns/NAME or /proc/PID/ns/net. The
// caller must Close it.
func Open(path string) (*Namespace, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	n := &Namespace{fd: fd}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := unix.Fstatfs(fd, &fs); err != nil || int64(fs.Type) != unix.NSFS_MAGIC {
		n.Close()
		return nil, fmt.Errorf("network namespace %s: it is a file of another kind", path)
	}
	if err := unix.Fstat(fd, &st); err != nil {
		n.Close()
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	n.inode = st.Ino
	return n, nil
}

// Inode identifies the namespace among those that exist at the same time. It is the
// number that the kernel calls inum.
func (n *Namespace) Inode() uint64 { return n.inode }

// CurrentInode returns the inode of the calling thread's namespace, see Inode.
func CurrentInode() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(Own, &st); err != nil {
		return 0, fmt.Errorf("network namespace %s: %w", Own, err)
	}
	return st.Ino, nil
}

// Do calls f on a thread in the namespace; what f opens stays there. Entering another
// namespace requires CAP_SYS_ADMIN, see setns(2). A nil Namespace is that of the
// calling thread.
func (n *Namespace) Do(f func() error) error {
	if n == nil {
		return f()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if inode, err := CurrentInode(); err == nil && inode == n.inode {
		return f()
	}
	result := make(chan error)
	go func() {
		// The thread ends with the goroutine, because it is not unlocked.
		runtime.LockOSThread()
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

// Hostname returns the host name in a UTS namespace (uts_namespaces(7)), such as
// /proc/PID/ns/uts.
func Hostname(path string) (name string, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("UTS namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread ends with the goroutine, because it is not unlocked.
		runtime.LockOSThread()
		if err = unix.Setns(fd, unix.CLONE_NEWUTS); err != nil {
			err = fmt.Errorf("enter UTS namespace %s: %w", path, err)
			return
		}
		var u unix.Utsname
		if err = unix.Uname(&u); err == nil {
			name = unix.ByteSliceToString(u.Nodename[:])
		}
	}()
	<-done
	return name, err
}

// Close closes the namespace, which ceases to exist unless something else uses it.
func (n *Namespace) Close() error {
	if n == nil || n.fd < 0 {
		return nil
	}
	err := unix.Close(n.fd)
	n.fd = -1
	return err
}
