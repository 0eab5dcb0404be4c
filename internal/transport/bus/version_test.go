package bus_test

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/transport/bus"
)

// TestOldServer uses the nats-server of the distribution. Debian 12 has 2.9, which
// forgets the metadata of streams: that is an error which names its version.
func TestOldServer(t *testing.T) {
	program, err := exec.LookPath("nats-server")
	if err != nil {
		t.Skip("there is no nats-server in the path")
	}
	text, err := exec.Command(program, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, version, _ := strings.Cut(strings.TrimSpace(string(text)), ": v")
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(address)
	server := exec.Command(program, "-a", "127.0.0.1", "-p", port, "-js", "-sd", t.TempDir())
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	target, err := bus.Parse("nats://" + address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := bus.Connect(bus.Config{Target: target, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for end := time.Now().Add(20 * time.Second); !c.Connected(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the server does not start")
		}
	}
	_, err = c.EnsureStreams(t.Context(), bus.Streams{Partitions: 1, MaxBytes: 1 << 20})
	old := major < 2 || major == 2 && minor < 10
	var told *fault.Error
	switch {
	case !old && err != nil:
		t.Errorf("nats-server %s: %v", version, err)
	case old && (!errors.As(err, &told) || !strings.Contains(err.Error(), "nats-server "+version+" is too old") || told.Hint() == ""):
		t.Errorf("got %v of nats-server %s, want an error that names the version, and a hint", err, version)
	}
}
