package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pcapper/pcapper/internal/test/ledgertest"
	"github.com/pcapper/pcapper/wire"
)

// agentPatience is the most that an agent waits for its collector.
const agentPatience = 30 * time.Second

// agents are those of one script: real TCP servers that say what they are
// told to.
type agents struct {
	mu     sync.Mutex
	byName map[string]*agent
}

type agentsKey struct{}

type agent struct {
	address  string
	listener *net.TCPListener // nil while killed
	conn     *net.TCPConn     // nil unless a collector is attached
}

func newAgents() *agents { return &agents{byName: map[string]*agent{}} }

// start makes an agent, or brings one back at its address.
func (as *agents) start(name string) error {
	as.mu.Lock()
	defer as.mu.Unlock()
	a := as.byName[name]
	if a == nil {
		a = &agent{address: "127.0.0.1:0"}
		as.byName[name] = a
	}
	l, err := net.Listen("tcp", a.address)
	// Another program's connection may have the port for a moment.
	for end := time.Now().Add(10 * time.Second); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
		l, err = net.Listen("tcp", a.address)
	}
	if err != nil {
		return err
	}
	a.listener, a.address = l.(*net.TCPListener), l.Addr().String()
	return nil
}

// attached waits for the agent's collector.
func (as *agents) attached(name string) (*agent, error) {
	as.mu.Lock()
	defer as.mu.Unlock()
	a := as.byName[name]
	if a == nil {
		return nil, fmt.Errorf("no agent %q", name)
	}
	if a.conn != nil {
		return a, nil
	}
	a.listener.SetDeadline(time.Now().Add(agentPatience))
	conn, err := a.listener.AcceptTCP()
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(agentPatience))
	said := make([]byte, 5)
	if _, err := io.ReadFull(conn, said); err != nil || string(said) != "bulk\n" {
		return nil, fmt.Errorf("the collector announces %q, %v", said, err)
	}
	a.conn = conn
	return a, nil
}

// send writes the records of a log file, in pieces of so many bytes if size is
// not 0.
func (as *agents) send(name string, log []byte, size int) error {
	a, err := as.attached(name)
	if err != nil {
		return err
	}
	var stream []byte
	for line := range bytes.Lines(log) {
		var r wire.Record
		if err := wire.ParseLine(line, &r); err != nil {
			return err
		}
		var ok bool
		if stream, ok = wire.AppendBinary(stream, &r); !ok {
			return fmt.Errorf("%q: not for 28 bytes", line)
		}
	}
	return a.write(stream, size)
}

func (a *agent) write(stream []byte, size int) error {
	if size == 0 {
		size = max(len(stream), 1)
	}
	for piece := range slices.Chunk(stream, size) {
		if _, err := a.conn.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// end closes the connection in order and waits until the collector has taken
// everything and closed it, too.
func (as *agents) end(name string) error {
	a, err := as.attached(name)
	if err != nil {
		return err
	}
	conn := a.conn
	a.conn = nil
	defer conn.Close()
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// closed waits until the collector has closed the connection.
func (as *agents) closed(name string) error {
	a, err := as.attached(name)
	if err != nil {
		return err
	}
	conn := a.conn
	a.conn = nil
	defer conn.Close()
	_, err = io.Copy(io.Discard, conn)
	return err
}

// kill ends the agent as a killed process does.
func (as *agents) kill(name string) error {
	as.mu.Lock()
	defer as.mu.Unlock()
	a := as.byName[name]
	if a == nil {
		return fmt.Errorf("no agent %q", name)
	}
	if a.conn != nil {
		a.conn.SetLinger(0)
		a.conn.Close()
		a.conn = nil
	}
	err := a.listener.Close()
	a.listener = nil
	return err
}

func (as *agents) close() {
	for name, a := range as.byName {
		if a.listener != nil {
			as.kill(name)
		}
	}
}

// agentCommand is the script command "agent":
//
//	agent start NAME             sets $NAME to the address; also after kill
//	agent attach NAME            waits for the collector
//	agent send NAME FILE [SIZE]  sends log lines as records, in pieces of SIZE bytes
//	agent bytes NAME FILE        sends a file as it is
//	agent end NAME               closes the connection once all has been read
//	agent closed NAME            waits until the collector has closed the connection
//	agent kill NAME              resets the connection and stops listening
func agentCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: agent start|attach|send|bytes|end|kill NAME ...")
	}
	as := ts.Value(agentsKey{}).(*agents)
	verb, name := args[0], args[1]
	switch verb {
	case "start":
		ts.Check(as.start(name))
		ts.Setenv(name, as.byName[name].address)
	case "attach":
		_, err := as.attached(name)
		ts.Check(err)
	case "send":
		size := 0
		if len(args) > 3 {
			var err error
			size, err = strconv.Atoi(args[3])
			ts.Check(err)
		}
		ts.Check(as.send(name, []byte(ts.ReadFile(args[2])), size))
	case "bytes":
		a, err := as.attached(name)
		ts.Check(err)
		ts.Check(a.write([]byte(ts.ReadFile(args[2])), 0))
	case "end":
		ts.Check(as.end(name))
	case "closed":
		ts.Check(as.closed(name))
	case "kill":
		ts.Check(as.kill(name))
	default:
		ts.Fatalf("agent: unknown %q", verb)
	}
}

// configCommand is the script command "config FILE": it replaces $NAME by the
// address of the agent with that name.
func configCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: config FILE")
	}
	text := ts.ReadFile(args[0])
	for name, a := range ts.Value(agentsKey{}).(*agents).byName {
		text = strings.ReplaceAll(text, "$"+name, a.address)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o644))
}

// closesCommand fails unless the ledger closes that the last command printed.
func closesCommand(ts *testscript.TestScript, neg bool, args []string) {
	f := &scriptFailures{ts: ts}
	if ledgertest.Closes(f, ts.ReadFile("stderr")); f.text != "" {
		ts.Fatalf("%s", f.text)
	}
}

// scriptFailures notes what ledgertest finds.
type scriptFailures struct {
	testing.TB
	ts   *testscript.TestScript
	text string
}

func (f *scriptFailures) Helper() {}
func (f *scriptFailures) Errorf(format string, args ...any) {
	f.text += fmt.Sprintf(format, args...) + "\n"
}
