package sink

import (
	"os"

	"golang.org/x/sys/unix"
)

// reserve preallocates space for n bytes at an offset, without changing the file's size
// (fallocate(2), FALLOC_FL_KEEP_SIZE).
func reserve(f *os.File, offset, n int64) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if e := raw.Control(func(fd uintptr) {
		err = unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, offset, n)
	}); e != nil {
		return e
	}
	return err
}
