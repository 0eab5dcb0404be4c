package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/wire"
)

// collector counts the records of a feed, on the taps' processor. As a rule it
// lets the kernel throw them away: the work of a real one is done on another
// host. It looks at them when delays are asked for.
type collector struct {
	conn   *net.TCPConn
	base   uint64 // records before the first measurement
	bytes  atomic.Uint64
	worked atomic.Int64 // CPU time of the thread so far, ns
	done   chan error

	variable bool // records are not all of the same size

	looking atomic.Bool
	mu      sync.Mutex
	delays  histogram
}

// newCollector says what it wants, if anything, and reads on a blocking socket:
// a thread of its own costs less than the runtime's poller.
func newCollector(conn *net.TCPConn, announce string) (*collector, error) {
	if _, err := conn.Write([]byte(announce)); err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	fd, err := descriptor(conn)
	if err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	c := &collector{conn: conn, done: make(chan error, 1)}
	go onCPU(tapCPU, func(err error) {
		if err == nil {
			err = c.read(fd)
		}
		unix.Close(fd)
		c.done <- err
	})
	return c, nil
}

func (c *collector) read(fd int) error {
	buf := make([]byte, 256<<10)
	flags := 0
	choose := func() int {
		if flags = unix.MSG_TRUNC; c.looking.Load() {
			flags = 0
		}
		return flags
	}
	err := receive(fd, buf, choose, func(n int) {
		at := c.bytes.Add(uint64(n)) - uint64(n)
		if flags == 0 {
			c.look(buf[:n], at)
		}
		c.worked.Store(int64(threadCPU()))
	})
	if rest := c.bytes.Load() % wire.Size; err == nil && rest != 0 && !c.variable {
		err = fmt.Errorf("collector: the feed ended %d bytes into a record", rest)
	}
	return err
}

// look notes how old each record is whose time stamp is whole in b, which
// begins so many bytes into the feed.
func (c *collector) look(b []byte, at uint64) {
	now := time.Now().UnixMicro()
	c.mu.Lock()
	defer c.mu.Unlock()
	skip := int((wire.Size - at%wire.Size) % wire.Size)
	for ; skip+8 <= len(b); skip += wire.Size {
		sec, usec := binary.BigEndian.Uint32(b[skip:]), binary.BigEndian.Uint32(b[skip+4:])
		c.delays.add(time.Duration(now-int64(sec)*1e6-int64(usec)) * time.Microsecond)
	}
}

// listen measures delays while f runs.
func (c *collector) listen(f func() error) (histogram, error) {
	c.mu.Lock()
	c.delays = histogram{}
	c.mu.Unlock()
	c.looking.Store(true)
	err := f()
	c.quiet(100*time.Millisecond, 0)
	c.looking.Store(false)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.delays, err
}

func (c *collector) records() uint64    { return c.bytes.Load() / wire.Size }
func (c *collector) cpu() time.Duration { return time.Duration(c.worked.Load()) }

// quiet waits until there are n records (if n is not 0) or no more have come
// for a time, and gives their number.
func (c *collector) quiet(d time.Duration, n uint64) uint64 {
	last, since := c.records(), time.Now()
	for time.Since(since) < d && (n == 0 || last < n) {
		time.Sleep(2 * time.Millisecond)
		if now := c.records(); now != last {
			last, since = now, time.Now()
		}
	}
	return last
}

func (c *collector) close() error {
	// The other descriptor is of the same socket: a shutdown reaches both.
	err := c.conn.CloseRead()
	if errors.Is(err, unix.ENOTCONN) {
		err = nil
	}
	return errors.Join(err, <-c.done, c.conn.Close())
}

// histogram counts delays to 10 microseconds, up to a second.
type histogram struct {
	n      uint64
	counts []uint32
}

const (
	bucket  = 10 * time.Microsecond
	buckets = int(time.Second / bucket)
)

func (h *histogram) add(d time.Duration) {
	if h.counts == nil {
		h.counts = make([]uint32, buckets)
	}
	h.counts[min(max(int(d/bucket), 0), buckets-1)]++
	h.n++
}

// quantile is the delay that a share of all do not exceed, 0 if there are none.
func (h *histogram) quantile(q float64) time.Duration {
	left := uint64(q * float64(h.n))
	for i, n := range h.counts {
		if uint64(n) > left {
			return time.Duration(i) * bucket
		}
		left -= uint64(n)
	}
	return 0
}
