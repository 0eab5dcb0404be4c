package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// port is the one that all agents listen on, each at an address of its own.
const port = 7073

// agents are simulated: each has an address on loopback, waits for a collector
// there, and sends it 28-byte records. One socket listens for all, as files may be
// scarce: the address that a collector has dialled tells whom it wants.
type agents struct {
	listener net.Listener
	list     []*agent
	every    time.Duration // between an agent's messages
	sent     atomic.Uint64 // records
	late     atomic.Uint64 // messages sent more than a second after their time
	once     sync.Once
	done     chan struct{}  // closed: no more is sent
	ended    sync.WaitGroup // accepting
	quiet    sync.WaitGroup // sending
}

type agent struct {
	conn    atomic.Pointer[net.Conn] // nil: nobody is attached
	message []byte
}

// address is the ith agent's: 127.1.0.0 and on, which all are this host's.
func address(i int) string { return fmt.Sprintf("127.%d.%d.%d:%d", 1+i>>16, i>>8&255, i&255, port) }

// number is which agent has an address, or -1.
func (a *agents) number(address netip.Addr) int {
	b := address.Unmap().As4()
	i := (int(b[1])-1)<<16 | int(b[2])<<8 | int(b[3])
	if b[0] != 127 || i < 0 || i >= len(a.list) {
		return -1
	}
	return i
}

// newAgents makes n, each of which sends rate records a second in one message
// every so often.
func newAgents(n, rate int, every time.Duration) (*agents, error) {
	l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, err
	}
	a := &agents{listener: l, every: every, done: make(chan struct{})}
	for i := range n {
		a.list = append(a.list, &agent{message: message(i, max(int(float64(rate)*every.Seconds()), 1))})
	}
	a.ended.Go(a.accept)
	return a, nil
}

// message is what an agent sends again and again, with other times: records of 20
// conversations with its neighbours.
func message(host, records int) (data []byte) {
	for i := range records {
		n := i % 20
		r := wire.Record{Proto: wire.ProtoUDP, SrcPort: uint16(5000 + n), DstPort: uint16(2000 + (host+n)%100), Length: uint32(100 + 50*n)}
		r.SetSrc4([4]byte{10, byte(host >> 8), byte(host), 1})
		r.SetDst4([4]byte{10, byte((host + n) >> 8), byte(host + n), 1})
		data, _ = wire.AppendBinary(data, &r)
	}
	return data
}

// accept lets in one collector after the other; an agent sends to its newest.
func (a *agents) accept() {
	for {
		conn, err := a.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			fmt.Println("site: the agents' port:", err)
			time.Sleep(time.Second)
			continue
		}
		i := a.number(conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr())
		if i < 0 {
			conn.Close()
		} else if old := a.list[i].conn.Swap(&conn); old != nil {
			(*old).Close()
		}
	}
}

// config is a collector.conf of all.
func (a *agents) config() string {
	var b strings.Builder
	for i := range a.list {
		fmt.Fprintf(&b, "n%d:%s\n", i+1, address(i))
	}
	return b.String()
}

func (a *agents) attached() (n int) {
	for _, one := range a.list {
		if one.conn.Load() != nil {
			n++
		}
	}
	return n
}

// stop ends sending. It may be called twice.
func (a *agents) stop() {
	a.once.Do(func() { close(a.done) })
	a.quiet.Wait()
}

// send goes round all agents, evenly.
func (a *agents) send() {
	next := time.Now()
	for {
		for i, one := range a.list {
			due := next.Add(time.Duration(i) * a.every / time.Duration(len(a.list)))
			if wait := time.Until(due); wait > time.Millisecond {
				time.Sleep(wait)
			}
			select {
			case <-a.done:
				return
			default:
				a.sendOne(one, due)
			}
		}
		next = next.Add(a.every)
	}
}

func (a *agents) sendOne(one *agent, due time.Time) {
	conn := one.conn.Load()
	if conn == nil {
		return
	}
	now := time.Now()
	if now.Sub(due) > time.Second {
		a.late.Add(1)
	}
	stamp := uint64(now.Unix())<<32 | uint64(now.Nanosecond()/1000)
	for at := 0; at < len(one.message); at += wire.Size {
		binary.BigEndian.PutUint64(one.message[at:], stamp)
	}
	if _, err := (*conn).Write(one.message); err != nil {
		one.conn.CompareAndSwap(conn, nil)
		return
	}
	a.sent.Add(uint64(len(one.message) / wire.Size))
}

func (a *agents) close() {
	a.listener.Close()
	for _, one := range a.list {
		if conn := one.conn.Load(); conn != nil {
			(*conn).Close()
		}
	}
	a.ended.Wait()
}
