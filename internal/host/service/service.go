// Package service tells a service manager how the program does, by the
// protocol of sd_notify(3): ready, alive, stopping. Without a service manager
// nothing happens.
package service

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Manager is who started the program, or nobody.
type Manager struct {
	conn     *net.UnixConn // nil: nobody
	watchdog time.Duration // 0: it does not ask
}

// Find connects to the service manager that the environment names. It is
// called before the program gives up what it takes to connect.
func Find() (*Manager, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return &Manager{}, nil
	}
	if strings.HasPrefix(path, "@") {
		path = "\x00" + path[1:] // the abstract namespace (unix(7))
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("service manager: %w", err)
	}
	m := &Manager{conn: conn}
	pid, err := strconv.Atoi(os.Getenv("WATCHDOG_PID"))
	if mine := err != nil || pid == os.Getpid(); mine {
		if us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 {
			m.watchdog = time.Duration(us) * time.Microsecond
		}
	}
	// What we start is no service of theirs.
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"} {
		os.Unsetenv(name)
	}
	return m, nil
}

// Ready says that the program is set up, and what it does in a few words.
func (m *Manager) Ready(status string) { m.tell("READY=1\nSTATUS=" + status) }

// Stopping says that the program is about to end.
func (m *Manager) Stopping() { m.tell("STOPPING=1") }

// Watch says, as often as the manager asks for it, that the program is alive,
// until ctx is done. alive must come back for that: a program whose parts wait
// for each other forever is started again by its manager.
func (m *Manager) Watch(ctx context.Context, alive func()) error {
	if m.watchdog == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(m.watchdog / 3)
	defer tick.Stop()
	for {
		alive()
		m.tell("WATCHDOG=1")
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// tell may fail, as when the manager itself starts anew; it will ask again.
func (m *Manager) tell(state string) {
	if m.conn != nil {
		m.conn.Write([]byte(state))
	}
}
