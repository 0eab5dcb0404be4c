// Package natstest runs a NATS JetStream server in the process of a test. It opens no port: a
// connection to it is a pipe (nats.InProcessServer).
package natstest

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// startTime is how long finding its files may take: long after a kill.
	startTime = 60 * time.Second
	// bufferedBytes is what a stream takes in before it stores it.
	bufferedBytes = 16 << 20
)

// Config of a server.
type Config struct {
	// Dir is where its streams are. It is made if need be.
	Dir string
	// Size is the most bytes they may have together.
	Size int64
	// Say takes what the server warns of. It may be nil.
	Say func(format string, args ...any)
}

// Server is one that runs.
type Server struct{ s *server.Server }

// Start starts a server, and returns once it takes connections.
func Start(cfg Config) (*Server, error) {
	options := &server.Options{
		ServerName: "embedded", DontListen: true, NoSigs: true, DisableJetStreamBanner: true,
		JetStream: true, StoreDir: cfg.Dir, SyncAlways: true,
		JetStreamMaxStore: cfg.Size, JetStreamMaxMemory: -1,
		StreamMaxBufferedSize: bufferedBytes,
	}
	s, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("embedded bus in %q: %w", cfg.Dir, err)
	}
	log := &logger{say: cfg.Say}
	s.SetLoggerV2(log, false, false, false)
	s.Start()
	if !s.ReadyForConnections(startTime) || !s.JetStreamEnabled() {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("embedded bus in %q: %w", cfg.Dir, log.why())
	}
	return &Server{s}, nil
}

// InProcessConn makes a connection.
func (s *Server) InProcessConn() (net.Conn, error) { return s.s.InProcessConn() }

// Stop stops it, once its files are complete.
func (s *Server) Stop() {
	s.s.Shutdown()
	s.s.WaitForShutdown()
}

// logger passes on what matters.
type logger struct {
	say  func(format string, args ...any)
	last string
}

// why is the last that went wrong.
func (l *logger) why() error {
	if l.last == "" {
		return errors.New("it does not start")
	}
	if strings.Contains(l.last, syscall.EACCES.Error()) || strings.Contains(l.last, syscall.EROFS.Error()) {
		return fmt.Errorf("%s: the directory must be writable", l.last)
	}
	return errors.New(l.last)
}

func (l *logger) warn(format string, args ...any) {
	l.last = fmt.Sprintf(format, args...)
	if l.say != nil {
		l.say("embedded bus: %s", l.last)
	}
}

func (l *logger) Noticef(string, ...any)            {}
func (l *logger) Warnf(format string, args ...any)  { l.warn(format, args...) }
func (l *logger) Fatalf(format string, args ...any) { l.warn(format, args...) }
func (l *logger) Errorf(format string, args ...any) { l.warn(format, args...) }
func (l *logger) Debugf(string, ...any)             {}
func (l *logger) Tracef(string, ...any)             {}
