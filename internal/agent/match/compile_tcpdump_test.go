//go:build !(libpcap && cgo)

package match

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// onlyPath makes dir the one place where tcpdump is looked for.
func onlyPath(t *testing.T, dir string) {
	t.Helper()
	t.Setenv("PATH", dir)
	old := tcpdumpDirs
	tcpdumpDirs = nil
	t.Cleanup(func() { tcpdumpDirs = old })
}

func TestNoCompiler(t *testing.T) {
	onlyPath(t, t.TempDir())
	_, err := Compile(t.Context(), "udp", ethernet)
	wantError(t, err, ErrNoCompiler, `filter "udp": no compiler: pcap filter expressions need tcpdump, and there is none`)
	for _, mode := range []string{"src", "dst", "spoof", "none"} {
		if _, err := Compile(t.Context(), mode, ethernet); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

// TestFoundOutsidePath: services often have no sbin in their PATH.
func TestFoundOutsidePath(t *testing.T) {
	needCompiler(t)
	t.Setenv("PATH", t.TempDir())
	if _, err := CompileFile(t.Context(), "udp", nil, nil, packet.Ethernet); err != nil {
		t.Error(err)
	}
}

// program installs a shell script under the name tcpdump: one that does what
// the real one does only in bad times.
func program(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "tcpdump"), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	onlyPath(t, dir)
}

func TestSlowCompiler(t *testing.T) {
	program(t, "exec /bin/sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := Compile(ctx, "host far.away", ethernet)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestBadCompilers(t *testing.T) {
	tests := []struct {
		script, want string
		kind         error
	}{
		{"echo 'tcpdump: first'; echo 'tcpdump: Warning: x' >&2; echo 'tcpdump: second' >&2; exit 1", ": second", ErrSyntax},
		{"exit 3", "exit status 3", ErrSyntax},
		{"kill -9 $$", "signal: killed", ErrNoCompiler},
		{"echo nonsense", "unexpected output", ErrNoCompiler},
		{"echo 2; echo 6 0 0 1", "1 lines after the count", ErrNoCompiler},
		{"echo 1; echo 6 0 0", "not four numbers", ErrNoCompiler},
		{"echo 1; echo 6 0 0 4294967296", "out of range", ErrNoCompiler},
		{"echo 1; echo 0 0 0 0", "does not return", ErrSyntax},
	}
	for _, tt := range tests {
		program(t, tt.script)
		_, err := Compile(t.Context(), "udp", ethernet)
		wantError(t, err, tt.kind, tt.want)
	}
}

func FuzzParseProgram(f *testing.F) {
	f.Add("2\n40 0 0 12\n6 0 0 262144\n")
	f.Add("1\n6 0 256 0\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, out string) {
		prog, err := parseProgram([]byte(out))
		if err == nil && len(prog) > strings.Count(out, "\n")+1 {
			t.Errorf("%d instructions of %q", len(prog), out)
		}
	})
}
