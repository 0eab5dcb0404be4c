package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// flushes is how often a second each agent sends.
const flushes = 10

// conversations of each agent, and flows of all.
const (
	conversations = 20
	flows         = 100
)

// fleet is agents that send 28-byte records at a fixed rate.
type fleet struct {
	agents []*agent
	sent   atomic.Uint64
	late   atomic.Uint64 // records sent more than a second after their time
	done   chan struct{}
	ended  sync.WaitGroup
}

type agent struct {
	listener net.Listener
	conn     net.Conn
	batch    []byte
}

func newFleet(agents, rate int) (*fleet, error) {
	f := &fleet{done: make(chan struct{})}
	for i := range agents {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			f.close()
			return nil, err
		}
		f.agents = append(f.agents, &agent{listener: l, batch: batchOf(i, agents, max(rate/flushes, 1))})
	}
	return f, nil
}

// batchOf is what an agent sends again and again, with other times.
func batchOf(host, hosts, records int) (batch []byte) {
	address := func(i int) [4]byte { return [4]byte{10, byte(i >> 8), byte(i), 1} }
	for i := range records {
		n := i % conversations
		r := wire.Record{Proto: wire.ProtoUDP, SrcPort: uint16(5000 + n), DstPort: uint16(2000 + (host+n)%flows), Length: uint32(100 + 50*n)}
		r.SetSrc4(address(host))
		r.SetDst4(address((host + 1 + n/5) % hosts))
		if n%2 == 0 {
			r.FlowID, r.Flags = uint32(1+(host+n)%flows), wire.MGEN
		}
		batch, _ = wire.AppendBinary(batch, &r)
	}
	return batch
}

func (f *fleet) config() string {
	var b strings.Builder
	for i := range flows {
		fmt.Fprintf(&b, "%d=%d\n%d=M%d\n", i+1, 2000+i, i+1, 1+i)
	}
	for i, a := range f.agents {
		fmt.Fprintf(&b, "%d:%v\n", i+1, a.listener.Addr())
	}
	return b.String()
}

func (f *fleet) connect(patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for i, a := range f.agents {
		a.listener.(*net.TCPListener).SetDeadline(deadline)
		var err error
		if a.conn, err = a.listener.Accept(); err != nil {
			return fmt.Errorf("agent %d of %d is not dialled: %w", i+1, len(f.agents), err)
		}
	}
	return nil
}

// send goes round all agents, a tenth of a second for each round.
func (f *fleet) send() {
	f.ended.Add(1)
	defer f.ended.Done()
	next := time.Now()
	for {
		for i, a := range f.agents {
			due := next.Add(time.Duration(i) * time.Second / time.Duration(flushes*len(f.agents)))
			if wait := time.Until(due); wait > time.Millisecond {
				time.Sleep(wait)
			}
			select {
			case <-f.done:
				return
			default:
			}
			now := time.Now()
			stamp := uint64(now.Unix())<<32 | uint64(now.Nanosecond()/1000)
			for at := 0; at < len(a.batch); at += wire.Size {
				binary.BigEndian.PutUint64(a.batch[at:], stamp)
			}
			if _, err := a.conn.Write(a.batch); err != nil {
				continue // the collector ends, or has ended; its report tells
			}
			records := uint64(len(a.batch) / wire.Size)
			f.sent.Add(records)
			if now.Sub(due) > time.Second {
				f.late.Add(records)
			}
		}
		next = next.Add(time.Second / flushes)
	}
}

func (f *fleet) stop() {
	close(f.done)
	f.ended.Wait()
}

func (f *fleet) close() {
	for _, a := range f.agents {
		a.listener.Close()
		if a.conn != nil {
			a.conn.Close()
		}
	}
}
