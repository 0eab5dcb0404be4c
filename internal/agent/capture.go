package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pcapper/pcapper/internal/agent/capture"
	"github.com/pcapper/pcapper/internal/agent/decode"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/wire"
	"golang.org/x/net/bpf"
	"golang.org/x/sync/errgroup"
)

// capturer runs a capture while anyone wants one. Between captures it keeps the next
// one open in standby, where it receives no packets and costs nothing, so that it
// starts within microseconds of a collector connecting.
type capturer struct {
	open func([]bpf.RawInstruction) (capture.Source, error)
	fill func(func(free []wire.Record) int) // the hub's
	keep func([]wire.Record) int            // removes records that must not be reported, see compact; or nil

	wishes chan wish
	ended  chan struct{} // closed once want is no longer served
	failed func(error)   // called immediately with the error of a capture that broke
	always func()        // if the capture is wanted throughout: called once it has started; or nil

	mu      sync.Mutex
	filter  []bpf.RawInstruction
	standby capture.Source
	current capture.Source   // attached and wanted
	reading []capture.Source // attached, and not yet read to the end
	past    capture.Stats    // of captures that have ended

	decoder  *decode.Decoder              // owned by read
	early    *decode.Decoder              // the same for frames that are seen again after the queue; nil if there are none
	local    atomic.Pointer[decode.Local] // update for the decoder, until read takes it
	wanted   atomic.Pointer[wanted]       // likewise
	counters counts                       // published by read after each block
}

// wanted decides which fragments to report. It is nil if the kernel has decided.
type wanted func(*packet.Frame) bool

// counts are counters that may be read while packets are processed.
type counts struct {
	mu      sync.Mutex
	decoder decode.Counters
	dropped uint64 // records that were filtered out
	twice   uint64 // records of packets that another record counts
	bytes   uint64 // IP lengths of the records that were kept
}

func newCapturer(open func([]bpf.RawInstruction) (capture.Source, error), filter []bpf.RawInstruction, d *decode.Decoder) (*capturer, error) {
	c := &capturer{open: open, filter: filter, wishes: make(chan wish), ended: make(chan struct{}), decoder: d}
	var err error
	c.standby, err = open(filter)
	return c, err
}

// wish is a request to start or stop the capture.
type wish struct {
	capture bool
	granted chan<- struct{} // closed once it is granted
}

// want sets whether a capture is wanted. It returns once the capture is running or has
// begun to stop. It must not be called concurrently.
func (c *capturer) want(yes bool) {
	granted := make(chan struct{})
	select {
	case c.wishes <- wish{yes, granted}:
	case <-c.ended:
		return
	}
	select {
	case <-granted:
	case <-c.ended:
	}
}

// run starts and stops captures as wanted until ctx is done. It returns once everything
// captured has been published.
func (c *capturer) run(ctx context.Context) error {
	sources := make(chan capture.Source)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.readAll(sources) })
	g.Go(func() error {
		defer close(sources)
		return c.control(ctx, sources, g)
	})
	err := g.Wait()
	c.close()
	return err
}

// close closes the captures that are open but not running.
func (c *capturer) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range append(c.reading, c.standby) {
		if s != nil {
			s.Close()
		}
	}
	c.reading, c.standby = nil, nil
}

// control is the only goroutine that attaches and drains captures.
func (c *capturer) control(ctx context.Context, sources chan<- capture.Source, g *errgroup.Group) error {
	defer c.finish()
	defer close(c.ended)
	capturing := false
	if c.always != nil {
		src, err := c.attach()
		if err != nil {
			return err
		}
		capturing = true
		c.always()
		sources <- src
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case w := <-c.wishes:
			var begun capture.Source
			w.capture = w.capture || c.always != nil
			switch {
			case w.capture == capturing:
			case w.capture:
				var err error
				if begun, err = c.attach(); err != nil {
					return err
				}
			default:
				g.Go(c.detach())
			}
			capturing = w.capture
			close(w.granted)
			if begun != nil {
				sources <- begun // once the previous one has been read
			}
		}
	}
}

// capturing reports whether a capture runs.
func (c *capturer) capturing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current != nil
}

func (c *capturer) attach() (capture.Source, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.standby == nil {
		var err error
		if c.standby, err = c.open(c.filter); err != nil {
			return nil, fault.WithCode(captureCode(err), err)
		}
	}
	if err := c.standby.Attach(); err != nil {
		return nil, fault.WithCode(captureCode(err), err)
	}
	c.current, c.standby = c.standby, nil
	c.reading = append(c.reading, c.current)
	return c.current, nil
}

// detach makes the current capture no longer current and returns the function that
// drains it; readAll still reads its last packets. Draining takes some milliseconds,
// and the next attach need not wait for it.
func (c *capturer) detach() (drain func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.current
	c.current = nil
	return func() error {
		if old != nil { // nil if it failed
			old.Drain()
			c.prepareStandby()
		}
		return nil
	}
}

// finish ends the current capture, with no other to follow.
func (c *capturer) finish() {
	c.mu.Lock()
	last := c.current
	c.current = nil
	c.mu.Unlock()
	if last != nil {
		last.Drain()
	}
}

// prepareStandby opens the next capture. It ignores errors: attach tries again, and
// reports them.
func (c *capturer) prepareStandby() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.standby == nil && c.current == nil {
		c.standby, _ = c.open(c.filter)
	}
}

// setFilter replaces the filter of current and future captures.
func (c *capturer) setFilter(filter []bpf.RawInstruction) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.filter = filter
	for _, s := range []capture.Source{c.current, c.standby} {
		if s == nil {
			continue
		}
		if err := s.SetFilter(filter); err != nil {
			return fault.WithCode(captureCode(err), err)
		}
	}
	return nil
}

// setOwn tells the captures which addresses belong to this host. With a capture that
// cannot use them, the agent filters out its feed itself.
func (c *capturer) setOwn(addrs []netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range []capture.Source{c.current, c.standby} {
		if l, ok := s.(leaver); ok {
			_ = l.SetOwnAddrs(addrs) // if the map is full, we filter them ourselves
		}
	}
}

// readAll reads the captures one after another, each to its end.
func (c *capturer) readAll(sources <-chan capture.Source) error {
	var first error
	for src := range sources {
		if err := c.read(src); err != nil && first == nil {
			first = err
			c.failed(err)
		}
		c.end(src)
	}
	return first
}

// end closes a capture that has been read to its end.
func (c *capturer) end(src capture.Source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	src.Close()
	addStats(&c.past, src.Stats())
	c.reading = slices.DeleteFunc(c.reading, func(s capture.Source) bool { return s == src })
	if c.current == src {
		c.current = nil
	}
}

func addStats(sum *capture.Stats, s capture.Stats) {
	sum.Received += s.Received
	sum.Dropped += s.Dropped
	sum.Freezes += s.Freezes
	sum.Own += s.Own
	sum.Wakes += s.Wakes
	sum.Outages += s.Outages
}

// read decodes frames directly into the hub's memory. It waits for the kernel only. The
// work of readers that keep up is done in this goroutine as well (hub.Reader.Attend).
func (c *capturer) read(src capture.Source) error {
	var block *capture.Block
	var dropped, bytes, twice uint64
	var frame packet.Frame
	fill := func(free []wire.Record) int {
		n := 0
		for n < len(free) {
			recs := free[n:min(n+together, len(free))]
			got := c.decode(block, &frame, recs)
			if got == 0 {
				break
			}
			kept := got
			if c.keep != nil {
				kept = c.keep(recs[:got])
			}
			dropped += uint64(got - kept)
			for i := range recs[:kept] {
				if recs[i].Flags&wire.Uncounted != 0 {
					twice++
					continue
				}
				bytes += uint64(recs[i].Length)
			}
			n += kept
		}
		return n
	}
	for {
		var err error
		block, err = src.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fault.WithCode(ExitDevice, fmt.Errorf("capture: %w", err))
		}
		if l := c.local.Swap(nil); l != nil {
			c.decoder.SetLocal(*l)
			if c.early != nil {
				c.early.SetLocal(*l)
			}
		}
		if w := c.wanted.Swap(nil); w != nil {
			c.decoder.SetWanted(*w)
			if c.early != nil {
				c.early.SetWanted(*w)
			}
		}
		for block.Len() > 0 || c.decoderOf(&frame).Pending() {
			c.fill(fill)
		}
		block.Release()
		c.counters.publish(c.decoder.Counters(), dropped, bytes, twice)
		dropped, bytes, twice = 0, 0, 0
	}
}

// together is the number of records decoded before they are filtered: few enough to
// stay in the first-level cache.
const together = 128

// decode decodes frames of the block into recs until either is used up.
func (c *capturer) decode(block *capture.Block, frame *packet.Frame, recs []wire.Record) (n int) {
	for n < len(recs) {
		from := n
		if d := c.decoderOf(frame); d.Pending() {
			n += d.Drain(recs[n:])
		} else if parsed, offset := block.Parsed(len(recs) - n); len(parsed) > 0 {
			c.decoder.DecodeParsed(parsed, offset, recs[n:])
			n += len(parsed)
			continue
		} else if block.Next(frame) {
			n += c.decoderOf(frame).Decode(frame, recs[n:])
		} else {
			break
		}
		if frame.BeforeQueue {
			flags := wire.BeforeQueue
			if frame.Twice {
				flags |= wire.Uncounted
			}
			for i := range recs[from:n] {
				recs[from+i].Flags |= flags
			}
		}
	}
	return n
}

// decoderOf returns the decoder for a frame, which also holds its pending records.
// Frames seen before the queue have their own decoder, because one that remembers
// streams and fragments would take the second observation for a duplicate.
func (c *capturer) decoderOf(frame *packet.Frame) *decode.Decoder {
	if frame.Twice {
		return c.early
	}
	return c.decoder
}

// compact removes the records for which drop returns true, preserving the order of the
// others, and returns the number left.
func compact(recs []wire.Record, drop func(*wire.Record) bool) (kept int) {
	for i := range recs {
		if drop(&recs[i]) {
			continue
		}
		if kept != i {
			recs[kept] = recs[i]
		}
		kept++
	}
	return kept
}

func (c *counts) publish(d decode.Counters, dropped, bytes, twice uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.decoder = d
	c.dropped += dropped
	c.bytes += bytes
	c.twice += twice
}

// uncounted returns the number of records of packets that another record counts.
func (c *counts) uncounted() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.twice
}

func (c *counts) get() (d decode.Counters, dropped, bytes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.decoder, c.dropped, c.bytes
}

// stats returns the sum over all captures so far.
func (c *capturer) stats() capture.Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := c.past
	for _, s := range c.reading {
		addStats(&sum, s.Stats())
	}
	return sum
}
