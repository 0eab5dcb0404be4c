package capture

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// doorbell is the ring buffer through which the kernel side of a tap wakes its reader.
// Its contents do not matter. The reader waits in the runtime's poller, so no thread
// and no timer of ours runs while it waits.
type doorbell struct {
	file     *os.File
	raw      syscall.RawConn
	mem      [2][]byte
	taken    *uint64 // the buffer's consumer position, which we advance
	rung     *uint64 // its producer position
	flushed  atomic.Bool
	deadline bool // a deadline is set
}

func newDoorbell(m *ebpf.Map) (*doorbell, error) {
	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	b := &doorbell{file: os.NewFile(uintptr(fd), "doorbell")}
	if err := b.open(fd); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// open maps the positions, each of which has a page of its own: see ringbuf.c in
// libbpf.
func (b *doorbell) open(fd int) (err error) {
	if b.raw, err = b.file.SyscallConn(); err != nil {
		return err
	}
	if err := b.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	page := os.Getpagesize()
	for i, protection := range []int{unix.PROT_READ | unix.PROT_WRITE, unix.PROT_READ} {
		if b.mem[i], err = unix.Mmap(fd, int64(i*page), page, protection, unix.MAP_SHARED); err != nil {
			return os.NewSyscallError("mmap", err)
		}
	}
	b.taken = (*uint64)(unsafe.Pointer(&b.mem[0][0]))
	b.rung = (*uint64)(unsafe.Pointer(&b.mem[1][0]))
	return nil
}

// wait blocks until ready returns true, until Flush, or until limit has passed, unless
// limit is 0. It calls ready first, and again each time the bell rings.
func (b *doorbell) wait(ready func() bool, limit time.Duration) error {
	if b.flushed.Swap(false) {
		return nil
	}
	if limit > 0 || b.deadline {
		var at time.Time
		if b.deadline = limit > 0; b.deadline {
			at = time.Now().Add(limit)
		}
		if err := b.file.SetReadDeadline(at); err != nil {
			return err
		}
	}
	err := b.raw.Read(func(uintptr) bool {
		atomic.StoreUint64(b.taken, atomic.LoadUint64(b.rung))
		return ready() || b.flushed.Swap(false)
	})
	if errors.Is(err, os.ErrDeadlineExceeded) { // or it was flushed
		b.deadline = true
		return nil
	}
	return err
}

// Flush ends the current wait, or the next one.
func (b *doorbell) Flush() error {
	b.flushed.Store(true)
	return b.file.SetReadDeadline(time.Unix(1, 0))
}

func (b *doorbell) Close() error {
	err := b.file.Close()
	for i := range b.mem {
		if b.mem[i] != nil {
			err = errors.Join(err, unix.Munmap(b.mem[i]))
			b.mem[i] = nil
		}
	}
	return err
}
