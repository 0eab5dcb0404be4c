package history

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// file is a file being written. Its first error is permanent: nothing is written after
// it.
type file struct {
	f   *os.File
	w   *bufio.Writer
	err error
}

func createFile(path string) (*file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return nil, err
	}
	return &file{f: f, w: bufio.NewWriterSize(f, 1<<18)}, nil
}

func (f *file) Write(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.w.Write(p)
	f.err = err
	return n, err
}

// finish synchronizes the file to disk and closes it.
func (f *file) finish() error {
	err := f.err
	if err == nil {
		err = f.w.Flush()
	}
	if err == nil {
		err = f.f.Sync()
	}
	return errors.Join(err, f.f.Close())
}

// remove closes and removes the file.
func (f *file) remove() {
	f.f.Close() // a second time does nothing
	os.Remove(f.f.Name())
}

// syncDir makes renames in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// move renames a file durably, and creates the target directory if necessary.
func move(from, to string) error {
	if err := makeDirs(filepath.Dir(to)); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return errors.Join(syncDir(filepath.Dir(to)), syncDir(filepath.Dir(from)))
}

// makeDirs is a durable os.MkdirAll.
func makeDirs(dir string) error {
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDirs(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// writeFile creates a durable file.
func writeFile(path, text string) error {
	f, err := createFile(path)
	if err != nil {
		return err
	}
	f.Write([]byte(text)) // finish reports errors
	if err := f.finish(); err != nil {
		f.remove()
		return err
	}
	return nil
}
