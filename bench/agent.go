package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/wire"
)

// Of the 28-byte record, see package wire.
const (
	recordDstPort = 18
	agentPort     = 7073
)

// agent is pcapper with one collector.
type agent struct {
	*program
	announce  string // what the collector says first
	collector *collector
	base      uint64 // records before the measurement
}

// start runs the agent with its log to /dev/null, attaches the collector and
// feeds both until records flow.
func (a *agent) start(ctx context.Context, b *bench) (err error) {
	a.program, err = b.launch(ctx, b.opt.agent, "-i", "eth0", "-p", strconv.Itoa(agentPort), "-m", "src", "-f", os.DevNull)
	if err != nil {
		return err
	}
	if err := a.waitFor("listening on", 10*time.Second); err != nil {
		return err
	}
	conn, err := b.host.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", agentPort))
	if err != nil {
		return fmt.Errorf("attach a collector: %w", err)
	}
	if a.collector, err = newCollector(conn.(*net.TCPConn), a.announce); err != nil {
		return err
	}
	for range 50 {
		if _, err := b.send(ctx, warmUp, 1000); err != nil {
			return err
		}
		if a.collector.records.Load() > 0 {
			a.base = a.collector.quiet(time.Second, 0)
			return nil
		}
	}
	return fmt.Errorf("the agent sends no records: %s", a.said())
}

func (a *agent) pid() int { return a.cmd.Process.Pid }

var (
	agentDropped = regexp.MustCompile(`([\d,]+) dropped by the kernel`)
	agentSlow    = regexp.MustCompile(`([\d,]+) dropped by slow readers`)
)

// received waits for n records, or until no more come, and then reads the
// agent's own summary.
func (a *agent) received(n uint64) (got, dropped uint64, err error) {
	got = a.collector.quiet(settle, a.base+n) - a.base
	said, err := a.stop()
	if err != nil {
		return 0, 0, fmt.Errorf("agent: %w: %s", err, said)
	}
	if err := a.collector.close(); err != nil {
		return 0, 0, err
	}
	kernel, err1 := number(said, agentDropped)
	slow, err2 := number(said, agentSlow)
	return got, kernel + slow, errors.Join(err1, err2)
}

func (a *agent) kill() {
	a.program.kill()
	if a.collector != nil {
		_ = a.collector.close()
	}
}

// collector counts the records of a feed, on the tap's processor: that much of
// the work a real one would do there, too, if it ran on the same host.
type collector struct {
	conn    *net.TCPConn
	records atomic.Uint64 // of the sender's frames
	done    chan error
}

// newCollector says what it wants, if anything, and reads on a blocking socket:
// a thread of its own costs less than the runtime's poller.
func newCollector(conn *net.TCPConn, announce string) (*collector, error) {
	if _, err := conn.Write([]byte(announce)); err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	file, err := conn.File() // a duplicate in blocking mode
	if err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	c := &collector{conn: conn, done: make(chan error, 1)}
	go func() {
		defer file.Close()
		onCPU(tapCPU, func(err error) {
			if err == nil {
				err = c.read(int(file.Fd()))
			}
			c.done <- err
		})
	}()
	return c, nil
}

func (c *collector) read(fd int) error {
	buf := make([]byte, 256<<10)
	held := 0
	for {
		n, err := unix.Read(fd, buf[held:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECONNRESET, err == nil && n == 0:
			if held != 0 {
				return fmt.Errorf("collector: the feed ended %d bytes into a record", held)
			}
			return nil
		case err != nil:
			return fmt.Errorf("collector: %w", err)
		}
		held = c.count(buf[:held+n])
	}
}

// count counts whole records and moves the rest to the front.
func (c *collector) count(b []byte) (rest int) {
	var ours uint64
	whole := b
	for ; len(whole) >= wire.Size; whole = whole[wire.Size:] {
		if binary.BigEndian.Uint16(whole[recordDstPort:]) == dstPort {
			ours++
		}
	}
	c.records.Add(ours)
	return copy(b, whole)
}

// quiet waits until there are n records (if n is not 0) or no more have come
// for a time, and gives their number.
func (c *collector) quiet(d time.Duration, n uint64) uint64 {
	last, since := c.records.Load(), time.Now()
	for time.Since(since) < d && (n == 0 || last < n) {
		time.Sleep(5 * time.Millisecond)
		if now := c.records.Load(); now != last {
			last, since = now, time.Now()
		}
	}
	return last
}

func (c *collector) close() error {
	// The duplicate is another descriptor: a shutdown reaches both.
	err := c.conn.CloseRead()
	if errors.Is(err, unix.ENOTCONN) {
		err = nil
	}
	return errors.Join(err, <-c.done, c.conn.Close())
}
