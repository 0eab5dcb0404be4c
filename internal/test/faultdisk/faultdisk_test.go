package faultdisk

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestFaults: the disk fails as asked for, for files that are open, too, and works again afterwards.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		fault Fault
		want  error
	}{{Full, syscall.ENOSPC}, {IOErrors, syscall.EIO}, {ReadOnly, syscall.EROFS}, {Slow, nil}, {Removed, nil}} {
		t.Run(c.fault.String(), func(t *testing.T) {
			t.Parallel()
			d := New(t, "1m")
			f, err := os.OpenFile(filepath.Join(d.Dir, "f"), os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			write := func() error {
				_, err := f.Write(make([]byte, 8192))
				return err
			}
			if err := write(); err != nil {
				t.Fatal(err)
			}
			d.Begin(c.fault)
			begun := time.Now()
			if err := write(); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if took := time.Since(begun); c.fault == Slow && took < delay {
				t.Errorf("took %v, want %v at least", took, delay)
			}
			if _, err := os.Stat(d.Dir); errors.Is(err, os.ErrNotExist) != (c.fault == Removed) {
				t.Errorf("got %v of the directory", err)
			}
			d.End(c.fault)
			if err := os.WriteFile(filepath.Join(d.Dir, "g"), make([]byte, 8192), 0o600); err != nil {
				t.Error(err)
			}
			if err := write(); err != nil {
				t.Error(err)
			}
		})
	}
}
