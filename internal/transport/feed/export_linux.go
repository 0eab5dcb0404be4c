package feed

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/wire/ipfix"
)

const (
	// statisticsEvery is the interval at which a collector of IPFIX is told what was
	// lost, lossEvery the minimum interval if there are new losses.
	statisticsEvery = 10 * time.Second
	lossEvery       = time.Second
)

// Exporter describes the agent to collectors of IPFIX.
type Exporter[R ItemReader] struct {
	// Domain and PEN are those of ipfix.Writer.
	Domain, PEN uint32
	// Names identify what the domain observes, if the collector needs to know.
	Names ipfix.Names
	// Statistics returns NotSent and Ignored for one collector.
	Statistics func(R) ipfix.Statistics
}

// export sends IPFIX: templates, followed by records in messages that fit in a TLS
// record. Like sendSecure, it takes nothing from the reader before there is room for
// it. It returns errEnd when the stream has ended.
func (c *collector[R]) export(left context.Context, raw syscall.RawConn) error {
	e := exporting[R]{c: c, writer: ipfix.Writer{
		Domain: c.server.cfg.Exporter.Domain, PEN: c.server.cfg.Exporter.PEN, Names: c.server.cfg.Exporter.Names,
	}}
	if _, err := c.stream.Write(e.writer.Templates(nil, time.Now())); err != nil {
		return err
	}
	for {
		if err := e.tell(time.Now()); err != nil {
			return err
		}
		err := e.wait(left)
		switch {
		case errors.Is(err, io.EOF):
			e.due, e.looked = time.Time{}, time.Time{}
			if err := e.tell(time.Now()); err != nil { // the final counts
				return err
			}
			return errEnd
		case left.Err() != nil:
			return left.Err()
		case err != nil:
			continue // it is time to tell
		}
		if err := e.sendMessages(raw); err != nil {
			return err
		}
	}
}

// exporting is the state of one session.
type exporting[R ItemReader] struct {
	c      *collector[R]
	writer ipfix.Writer
	due    time.Time // of the next statistics
	told   ipfix.Statistics
	looked time.Time // when new losses were last checked for
}

// wait waits for the reader, but no longer than until statistics are due.
func (e *exporting[R]) wait(left context.Context) error {
	ctx, cancel := context.WithDeadline(left, e.due)
	defer cancel()
	return e.c.reader.Wait(ctx)
}

// tell sends statistics if they are due or there are new losses.
func (e *exporting[R]) tell(now time.Time) error {
	if now.Sub(e.looked) < lossEvery {
		return nil
	}
	e.looked = now
	s := e.c.server.cfg.Exporter.Statistics(e.c.reader)
	if now.Before(e.due) && s == e.told {
		return nil
	}
	e.told, e.due = s, now.Add(statisticsEvery)
	_, err := e.c.stream.Write(e.writer.Statistics(nil, now, s))
	return err
}

// sendMessages sends until there is nothing to read, or statistics are due.
func (e *exporting[R]) sendMessages(raw syscall.RawConn) error {
	c := e.c
	for {
		if err := raw.Write(func(fd uintptr) bool { return writable(int(fd)) }); err != nil {
			return err
		}
		buf, ends := c.reader.Encoded(c.server.cfg.IPFIX)
		if len(ends) == 0 {
			return nil
		}
		plain := plainBuffers.Get().(*[maxPlain]byte)
		now := time.Now()
		msg, n := e.writer.Message(plain[:0], now, maxPlain, buf, ends)
		whole := expressed(ends[:n+1])
		c.reader.Advance(n)
		c.sent.Add(int64(n))
		var err error
		if len(msg) > 0 {
			_, err = c.stream.Write(msg)
		}
		plainBuffers.Put(plain)
		if err != nil {
			c.disown(whole) // part of a message is useless
			return err
		}
		if err := e.tell(now); err != nil {
			return err
		}
	}
}
