package bustest

import (
	"io"
	"net"
	"sync"
)

// Link passes connections on, and can be cut: then nothing passes in either
// direction, and neither end is told, as in a network that is partitioned.
type Link struct {
	ln     net.Listener
	target string

	mu    sync.Mutex
	whole *sync.Cond
	cut   bool
	conns map[net.Conn]bool
}

// NewLink returns a link to an address, on a free port of loopback.
func NewLink(target string) (*Link, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Link{ln: ln, target: target, conns: map[net.Conn]bool{}}
	l.whole = sync.NewCond(&l.mu)
	go l.accept()
	return l, nil
}

// Addr is where to dial instead of the target.
func (l *Link) Addr() string { return l.ln.Addr().String() }

// Cut cuts the link, or mends it.
func (l *Link) Cut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	l.whole.Broadcast()
}

// Close ends the link and all connections over it.
func (l *Link) Close() {
	l.ln.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		conn.Close()
	}
	l.cut = false
	l.whole.Broadcast()
}

func (l *Link) accept() {
	for {
		conn, err := l.ln.Accept()
		if err != nil {
			return
		}
		go l.pass(conn)
	}
}

// pass waits for the link to be whole, so that a dial seems to be answered by
// nobody, as the handshakes of NATS begin with the server.
func (l *Link) pass(near net.Conn) {
	defer near.Close()
	l.wait()
	far, err := net.Dial("tcp4", l.target)
	if err != nil {
		return
	}
	defer far.Close()
	l.mu.Lock()
	l.conns[near], l.conns[far] = true, true
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.copy(far, near) })
	both.Go(func() { l.copy(near, far) })
	both.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, near)
	delete(l.conns, far)
}

// copy passes on until one end closes, and closes the other.
func (l *Link) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		l.wait()
		if _, failed := to.Write(buf[:n]); failed != nil || err == io.EOF || err != nil {
			return
		}
	}
}

func (l *Link) wait() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.cut {
		l.whole.Wait()
	}
}
