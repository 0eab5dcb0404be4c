// Package netns runs functions in network namespaces (network_namespaces(7)), and asks
// for host names in UTS namespaces. It finds none: a namespace comes from a path.
package netns

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace. It lasts as long as this is open.
type Namespace struct {
	fd    int
	inode uint64
}

// Own stands for the calling thread's namespace, which is the program's own but in
// Do. (/proc/self/ns/net is that of the program's first thread, which Do may have had, and
// left in another one for good.)
const Own = "/proc/thread-self/ns/net"

// Current is the namespace of the calling thread.
func Current() (*Namespace, error) { return Open(Own) }

// Open opens the namespace that path stands for: /run/netns/NAME,
// /proc/PID/ns/net. Close it in the end.
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

// Inode tells namespaces that exist at the same time apart. It is the number
// that the kernel calls inum.
func (n *Namespace) Inode() uint64 { return n.inode }

// CurrentInode returns the inode of the calling thread's namespace, see Inode.
func CurrentInode() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(Own, &st); err != nil {
		return 0, fmt.Errorf("network namespace %s: %w", Own, err)
	}
	return st.Ino, nil
}

// Do calls f on a thread that is in the namespace. What f opens stays there.
// Entering another namespace takes CAP_SYS_ADMIN, see setns(2). A nil Namespace
// is the one that the calling thread is in.
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
		// The thread ends with the goroutine, as it is not unlocked.
		runtime.LockOSThread()
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

// Hostname is the host name in a UTS namespace (uts_namespaces(7)): /proc/PID/ns/uts.
func Hostname(path string) (name string, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("UTS namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread ends with the goroutine, as it is not unlocked.
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

// Close lets the namespace end, if nobody else has it.
func (n *Namespace) Close() error {
	if n == nil || n.fd < 0 {
		return nil
	}
	err := unix.Close(n.fd)
	n.fd = -1
	return err
}
