package export

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// repairBuffer is the number of bytes of messages kept for receivers that missed
	// some, repairMessages the number of messages.
	repairBuffer   = 4 << 20
	repairMessages = 1 << 16
	// repairTimeout bounds the time of one receiver's requests and their answers,
	// repairClients the number of receivers served at a time.
	repairTimeout = 10 * time.Second
	repairClients = 32
)

// repairs keeps the messages last sent to a group, for receivers that missed some.
type repairs struct {
	allow  func(netip.Addr) bool
	served atomic.Uint64

	mu       sync.Mutex
	port     uint16   // of the current session: its UDP source port
	messages [][]byte // those with data records, oldest first
	bytes    int
}

func newRepairs(allow func(netip.Addr) bool) *repairs { return &repairs{allow: allow} }

// begin starts a new session and forgets the previous one.
func (r *repairs) begin(port uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.port, r.messages, r.bytes = port, nil, 0
}

// keep remembers a message.
func (r *repairs) keep(msg []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, append([]byte(nil), msg...))
	r.bytes += len(msg)
	drop := 0
	for r.bytes > repairBuffer || len(r.messages)-drop > repairMessages {
		r.bytes -= len(r.messages[drop])
		r.messages[drop] = nil
		drop++
	}
	r.messages = r.messages[drop:]
}

// find returns the kept messages of a session and observation domain that begin at one
// of the count sequence numbers from first on. Receivers that miss data messages
// already have the templates.
func (r *repairs) find(port uint16, domain, first, count uint32) (found [][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if port != r.port {
		return nil
	}
	for _, m := range r.messages {
		if binary.BigEndian.Uint32(m[12:]) == domain && binary.BigEndian.Uint32(m[8:])-first < count {
			found = append(found, m)
		}
	}
	return found
}

// serveRepairs serves requests until ctx is done. A receiver connects and requests, one
// line each and any number of times, the data records that it misses, by session,
// observation domain, first sequence number, and count ("repair PORT DOMAIN FIRST
// COUNT\n"). It is sent those messages that are still kept.
func (e *Exporter) serveRepairs(ctx context.Context) {
	var ln net.Listener
	var err error
	for {
		if ln, err = net.Listen("tcp", net.JoinHostPort(e.cfg.Listen, strconv.Itoa(int(e.cfg.Target.Repair)))); err == nil {
			break
		}
		e.cfg.Say("%v: cannot listen for repairs: %s; trying again", e, failure(err))
		if sleep(ctx, maxRetry); ctx.Err() != nil {
			return
		}
	}
	var conns sync.WaitGroup
	defer conns.Wait()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	slots := make(chan struct{}, repairClients)
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil {
			sleep(ctx, 100*time.Millisecond)
			continue
		}
		addr := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if !e.repair.allow(addr) {
			conn.Close()
			continue
		}
		slots <- struct{}{}
		conns.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			conn.SetDeadline(time.Now().Add(repairTimeout))
			e.repair.serve(conn)
		})
	}
}

// serve answers one receiver's requests.
func (r *repairs) serve(conn net.Conn) {
	in := bufio.NewScanner(conn)
	in.Buffer(make([]byte, 256), 256)
	for in.Scan() {
		var port uint16
		var domain, first, count uint32
		if n, err := fmt.Sscanf(in.Text(), "repair %d %d %d %d", &port, &domain, &first, &count); err != nil || n != 4 {
			return
		}
		for _, m := range r.find(port, domain, first, count) {
			if _, err := conn.Write(m); err != nil {
				return
			}
			r.served.Add(1)
		}
	}
}
