package netns_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/netns"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

func inode(t *testing.T) uint64 {
	t.Helper()
	n, err := netns.CurrentInode()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDoHere: a nil Namespace is the caller's, which takes no privilege.
func TestDoHere(t *testing.T) {
	var here *netns.Namespace
	var in uint64
	if err := here.Do(func() error { in = inode(t); return nil }); err != nil || in != inode(t) {
		t.Errorf("in %d, %v, want %d", in, err, inode(t))
	}
	current, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer current.Close()
	if got := current.Inode(); got != inode(t) {
		t.Errorf("the current namespace is %d, want %d", got, inode(t))
	}
}

// What runs in Do is in the namespace, and nothing else ever is, also when Do has
// had every thread of the program, the first one included.
func TestDo(t *testing.T) {
	a, _ := nettest.Pair(t)
	n, err := netns.Open(a.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	outside := inode(t)
	if n.Inode() == outside {
		t.Fatal("the namespace is our own")
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 20 {
				var inside, nested uint64
				err := n.Do(func() error {
					inside = inode(t)
					return n.Do(func() error {
						nested = inode(t)
						return nil
					})
				})
				if err != nil || inside != n.Inode() || nested != n.Inode() {
					t.Errorf("in %d and %d instead of %d: %v", inside, nested, n.Inode(), err)
				}
				if got := inode(t); got != outside {
					t.Errorf("outside of Do we are in %d instead of %d", got, outside)
				}
			}
		})
	}
	all.Wait()
}

func TestNoNamespace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "a file of another kind", file + "y": "no such file"} {
		if _, err := netns.Open(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", path, err, want)
		}
	}
}
