// Package faultdisk gives tests a disk that fails when they say so: a small file system that can be full, and
// a layer above it (FUSE) that returns errors or takes its time.
package faultdisk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	loopback "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Fault is a way in which a disk fails.
type Fault int32

// Faults. Removed is of a directory on the disk, and ends with an empty one.
const (
	None Fault = iota
	Full
	IOErrors
	ReadOnly
	Slow
	Removed
)

func (f Fault) String() string {
	return [...]string{"none", "disk full", "I/O errors", "read-only", "slow disk", "directory removed"}[f]
}

// Faults are all of them.
var Faults = []Fault{Full, IOErrors, ReadOnly, Slow, Removed}

// delay is what a slow disk takes for whatever changes it.
const delay = 50 * time.Millisecond

// Disk is a file system.
type Disk struct {
	// Dir is a directory on it, which is there until it is removed.
	Dir string

	t       testing.TB
	below   string // what the layer is above of
	removed bool   // Dir has been
	in      io.WriteCloser
	out     *bufio.Reader
}

// New mounts a disk of so many bytes. It skips the test where that is not possible.
func New(t testing.TB, size string) *Disk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("the kernel has no FUSE: %v", err)
	}
	d := &Disk{t: t, below: t.TempDir()}
	above := t.TempDir()
	if err := syscall.Mount("pcapper-test", d.below, "tmpfs", 0, "mode=755,size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, d.below) })
	d.serve(above)
	d.Dir = filepath.Join(above, "dir")
	d.makeDir()
	return d
}

// served has the directories in the environment of the process that serves the layer. It is not the test's own:
// one that is killed could not answer the kernel, which waits for answers when it closes the process's files.
const served = "PCAPPER_FAULTDISK"

// serve starts that process, which ends if this one does.
func (d *Disk) serve(above string) {
	d.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), served+"="+d.below+":"+above)
	cmd.Stderr = os.Stderr
	var err error
	if d.in, err = cmd.StdinPipe(); err != nil {
		d.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	d.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		unmount(d.t, above)
		d.in.Close()
		cmd.Wait()
	})
	d.answered()
}

// answered waits until what was asked for is done.
func (d *Disk) answered() {
	d.t.Helper()
	if _, err := d.out.ReadByte(); err != nil {
		d.t.Fatalf("the disk has ended: %v", err)
	}
}

// set has the layer fail in a way.
func (d *Disk) set(f Fault) {
	d.t.Helper()
	if _, err := d.in.Write([]byte{byte(f)}); err != nil {
		d.t.Fatal(err)
	}
	d.answered()
}

func init() {
	if below, above, ok := strings.Cut(os.Getenv(served), ":"); ok {
		if err := run(below, above); err != nil {
			fmt.Fprintln(os.Stderr, "faultdisk:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// run serves the layer until its standard input ends, each byte of which is a Fault.
func run(below, above string) error {
	d := new(disk)
	root := &layer{LoopbackNode: loopback.LoopbackNode{RootData: &loopback.LoopbackRoot{Path: below}}, disk: d}
	root.RootData.NewNode = func(data *loopback.LoopbackRoot, _ *loopback.Inode, _ string, _ *syscall.Stat_t) loopback.InodeEmbedder {
		return &layer{LoopbackNode: loopback.LoopbackNode{RootData: data}, disk: d}
	}
	options := fuse.MountOptions{DirectMountStrict: true, FsName: "pcapper-test"}
	if _, err := loopback.Mount(above, root, &loopback.Options{MountOptions: options}); err != nil {
		return err
	}
	for b := []byte{0}; ; {
		if _, err := os.Stdout.Write(b); err != nil {
			break
		}
		if _, err := os.Stdin.Read(b); err != nil {
			break
		}
		d.fault.Store(int32(b[0]))
	}
	_ = syscall.Unmount(above, syscall.MNT_DETACH) // unless the test has
	return nil
}

// disk is what fails.
type disk struct{ fault atomic.Int32 }

func unmount(t testing.TB, dir string) {
	if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
		t.Error(err)
	}
}

func (d *Disk) makeDir() {
	d.t.Helper()
	if err := os.MkdirAll(d.Dir, 0o755); err != nil {
		d.t.Fatal(err)
	}
}

// Begin makes the disk fail. A full one is full until End, whatever is removed meanwhile.
func (d *Disk) Begin(f Fault) {
	d.t.Helper()
	switch f {
	case Full:
		d.Fill()
	case Removed:
		d.removed = true
		err := os.RemoveAll(d.Dir)
		for errors.Is(err, syscall.ENOTEMPTY) { // somebody writes to it
			err = os.RemoveAll(d.Dir)
		}
		if err != nil {
			d.t.Fatal(err)
		}
	default:
		d.set(f)
	}
}

// End makes it work again.
func (d *Disk) End(f Fault) {
	d.t.Helper()
	d.set(None)
	if f == Full {
		if err := os.Remove(d.ballast()); err != nil {
			d.t.Fatal(err)
		}
	}
	d.makeDir()
}

func (d *Disk) ballast() string { return filepath.Join(d.below, "ballast") }

// Fill leaves no room, again.
func (d *Disk) Fill() {
	d.t.Helper()
	f, err := os.OpenFile(d.ballast(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 16, 1 << 12, 1} {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			d.t.Fatal(err)
		}
		err = nil
	}
}

// change is called before whatever changes the disk.
func (d *disk) change() syscall.Errno {
	switch Fault(d.fault.Load()) {
	case IOErrors:
		return syscall.EIO
	case ReadOnly:
		return syscall.EROFS
	case Slow:
		time.Sleep(delay)
	}
	return 0
}

// layer is a file or a directory.
type layer struct {
	loopback.LoopbackNode
	disk *disk
}

func (n *layer) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*loopback.Inode, loopback.FileHandle, uint32, syscall.Errno) {
	if err := n.disk.change(); err != 0 {
		return nil, nil, 0, err
	}
	inode, h, flags, err := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, n.handle(h, err), flags, err
}

func (n *layer) Open(ctx context.Context, flags uint32) (loopback.FileHandle, uint32, syscall.Errno) {
	if Fault(n.disk.fault.Load()) == ReadOnly && flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return nil, 0, syscall.EROFS
	}
	h, flags, err := n.LoopbackNode.Open(ctx, flags)
	return n.handle(h, err), flags, err
}

func (n *layer) handle(h loopback.FileHandle, err syscall.Errno) loopback.FileHandle {
	if err != 0 {
		return nil
	}
	return &file{h.(handle), n.disk}
}

func (n *layer) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*loopback.Inode, syscall.Errno) {
	if err := n.disk.change(); err != 0 {
		return nil, err
	}
	return n.LoopbackNode.Mkdir(ctx, name, mode, out)
}

func (n *layer) Rename(ctx context.Context, name string, to loopback.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if err := n.disk.change(); err != 0 {
		return err
	}
	return n.LoopbackNode.Rename(ctx, name, to, newName, flags)
}

func (n *layer) Unlink(ctx context.Context, name string) syscall.Errno {
	if err := n.disk.change(); err != 0 {
		return err
	}
	return n.LoopbackNode.Unlink(ctx, name)
}

func (n *layer) Rmdir(ctx context.Context, name string) syscall.Errno {
	if err := n.disk.change(); err != 0 {
		return err
	}
	return n.LoopbackNode.Rmdir(ctx, name)
}

func (n *layer) Setattr(ctx context.Context, h loopback.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if err := n.disk.change(); err != 0 {
		return err
	}
	return n.LoopbackNode.Setattr(ctx, h, in, out)
}

// handle is what an open file of the loopback can do.
type handle interface {
	loopback.FileReader
	loopback.FileWriter
	loopback.FileFlusher
	loopback.FileFsyncer
	loopback.FileReleaser
	loopback.FileGetattrer
	loopback.FileSetattrer
	loopback.FileAllocater
	loopback.FileLseeker
}

// file is an open file.
type file struct {
	handle
	disk *disk
}

func (f *file) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if err := f.disk.change(); err != 0 {
		return 0, err
	}
	return f.handle.Write(ctx, data, off)
}

func (f *file) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if err := f.disk.change(); err != 0 {
		return err
	}
	return f.handle.Fsync(ctx, flags)
}

func (f *file) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	if err := f.disk.change(); err != 0 {
		return err
	}
	return f.handle.Allocate(ctx, off, size, mode)
}
