// Package bustest is for tests and the bench only: servers of NATS as users have
// them, publishers and writers, in processes of their own, which may be killed and
// started again; and sieges, in which they are.
package bustest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// built is the directory that Program is in; "" if it was not asked for.
var built string

// Program is nats-server, built once for a test program from the module that
// ours is built with. Remove the directory that it is in at the end.
var Program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pcapper-nats")
	if err != nil {
		return "", err
	}
	built = dir
	bin := filepath.Join(dir, "nats-server")
	out, err := exec.Command("go", "build", "-o", bin, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		os.RemoveAll(dir)
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return bin, nil
})

// Server is a server on loopback with JetStream, whose directory outlives it.
type Server struct {
	t      testing.TB
	config string
	addr   string
	cmd    *exec.Cmd
}

// Start starts one on a free port. extra is more of its configuration.
func Start(t testing.TB, extra string) *Server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	s := &Server{t: t, addr: addr, config: WriteConfig(t, addr, extra)}
	t.Cleanup(s.Kill)
	s.Restart()
	return s
}

// WriteConfig writes the configuration of a server at an address, with a
// directory of its own, and gives its path.
func WriteConfig(t testing.TB, addr, extra string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: %q\njetstream: { store_dir: %q, max_mem: 64M, max_file: 8G }\n%s\n", addr, dir, extra)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// URL is where it is.
func (s *Server) URL() string { return "nats://" + s.addr }

// Addr is its host and port.
func (s *Server) Addr() string { return s.addr }

// Kill ends it by SIGKILL.
func (s *Server) Kill() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

// Pause has it stand still (SIGSTOP), and Resume go on.
func (s *Server) Pause() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume ends Pause.
func (s *Server) Resume() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// Messages is how many messages a stream has.
func (s *Server) Messages(t testing.TB, stream string) uint64 {
	t.Helper()
	nc, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return st.CachedInfo().State.Msgs
}

// Restart starts it, and waits until it accepts connections.
func (s *Server) Restart() {
	s.t.Helper()
	bin, err := Program()
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd = exec.Command(bin, "-c", s.config)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for range 1000 {
		conn, err := net.Dial("tcp", s.addr)
		if err == nil {
			conn.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("nats-server does not listen on %s", s.addr)
}

// RemoveProgram removes what Program has built, if it has.
func RemoveProgram() {
	if built != "" {
		os.RemoveAll(built)
	}
}
