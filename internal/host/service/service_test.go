package service

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// manager is a service manager's end, at a path or an abstract name.
func manager(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	address := name
	if name[0] == '@' {
		address = "\x00" + name[1:]
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	return conn
}

func hears(t *testing.T, conn *net.UnixConn, want string) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 1000)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != want {
		t.Errorf("the manager hears %q, %v, want %q", buf[:n], err, want)
	}
}

func TestManagerHearsEverything(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@pcapper-test-" + strconv.Itoa(os.Getpid())} {
		conn := manager(t, name)
		t.Setenv("WATCHDOG_USEC", "30000")
		t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
		m, err := Find()
		if err != nil {
			t.Fatal(err)
		}
		if os.Getenv("NOTIFY_SOCKET") != "" {
			t.Error("what we start takes itself for the service")
		}
		m.Ready("on duty")
		hears(t, conn, "READY=1\nSTATUS=on duty")
		ctx, cancel := context.WithCancel(t.Context())
		asked, done := 0, make(chan struct{})
		go func() { m.Watch(ctx, func() { asked++ }); close(done) }()
		for range 3 {
			hears(t, conn, "WATCHDOG=1")
		}
		cancel()
		<-done
		if asked < 3 {
			t.Errorf("it looked %d times", asked)
		}
		conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		for buf := make([]byte, 100); ; { // one more may have been sent
			if _, err := conn.Read(buf); err != nil {
				break
			}
		}
		m.Stopping()
		hears(t, conn, "STOPPING=1")
	}
}

func TestWatchdogOfAnother(t *testing.T) {
	manager(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", "1")
	if m, err := Find(); err != nil || m.watchdog != 0 {
		t.Errorf("%v, %v", m, err)
	}
}

func TestNobody(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	m, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	m.Ready("x")
	m.Stopping()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.Watch(ctx, func() { t.Error("nobody asked") })
	t.Setenv("NOTIFY_SOCKET", "/nonexistent/notify")
	if _, err := Find(); err == nil {
		t.Error("no error for a manager that is not there")
	}
}
