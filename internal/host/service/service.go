// Package service reports the program's state to a service manager with the protocol of
// sd_notify(3): ready, alive, stopping. Without a service manager it does nothing.
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

// Manager is the service manager that started the program, if any.
type Manager struct {
	conn     *net.UnixConn // nil without a manager
	watchdog time.Duration // 0 if the manager does not want keep-alives
}

// Find connects to the service manager named in the environment. It must be called
// before the program drops the privileges needed for that.
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
	// Our children must not report to the manager.
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"} {
		os.Unsetenv(name)
	}
	return m, nil
}

// Ready reports that startup is complete; status says in a few words what the program
// does.
func (m *Manager) Ready(status string) { m.tell("READY=1\nSTATUS=" + status) }

// Stopping reports that the program is about to end.
func (m *Manager) Stopping() { m.tell("STOPPING=1") }

// Watch reports, as often as the manager requires it, that the program is alive, until
// ctx is done. It calls alive each time, which must return: if the program's parts are
// deadlocked, the manager restarts it.
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

// tell ignores errors, such as those while the manager itself restarts; it is called
// again.
func (m *Manager) tell(state string) {
	if m.conn != nil {
		m.conn.Write([]byte(state))
	}
}
