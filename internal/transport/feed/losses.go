package feed

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/pcapper/pcapper/wire/ipfix"
)

// Losses is what a collector knows to be missing, over all connections to one agent.
// All fields except Malformed are known with IPFIX only.
type Losses struct {
	Missing uint64 // data records missing according to sequence numbers
	NotSent uint64 // data records that, according to the exporter, it was too slow to send
	Ignored uint64 // packets that, according to the exporter, it could not capture since its start
	Unknown uint64 // sets without a template
	Other   uint64 // data records that describe no packet
	// Malformed are invalid 28-byte records, which were skipped.
	Malformed uint64
}

// Any reports whether anything is missing.
func (l Losses) Any() bool { return l != Losses{} }

// String lists what is missing.
func (l Losses) String() string {
	text := ""
	add := func(n uint64, what string) {
		if n > 0 {
			if text != "" {
				text += ", "
			}
			text += fmt.Sprintf("%d %s", n, what)
		}
	}
	add(l.Ignored, "packets not captured by the agent")
	add(l.NotSent, "records not sent by the agent")
	add(l.Missing, "records lost in transit")
	add(l.Unknown, "sets without a template")
	add(l.Other, "records of other kinds")
	add(l.Malformed, "malformed records")
	return text
}

// Plus returns the sum of the losses of two streams.
func (l Losses) Plus(o Losses) Losses {
	return Losses{l.Missing + o.Missing, l.NotSent + o.NotSent, l.Ignored + o.Ignored, l.Unknown + o.Unknown, l.Other + o.Other, l.Malformed + o.Malformed}
}

func (l Losses) minus(o Losses) Losses {
	return Losses{l.Missing - o.Missing, l.NotSent - o.NotSent, l.Ignored - o.Ignored, l.Unknown - o.Unknown, l.Other - o.Other, l.Malformed - o.Malformed}
}

// losses are those of one client.
type losses struct {
	mu  sync.Mutex
	sum Losses // of connections that have ended, except Ignored
	now Losses // of this connection, except Ignored
	// Ignored counts since the agent's start, so connections must not be added up.
	ignored, before uint64 // of this agent process, and of those before it

	malformed atomic.Uint64
}

// Losses returns the client's losses. It may be called concurrently.
func (c *Client) Losses() Losses { return c.losses.get() }

func (l *losses) get() Losses {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Losses{
		Missing: l.sum.Missing + l.now.Missing, NotSent: l.sum.NotSent + l.now.NotSent,
		Unknown: l.sum.Unknown + l.now.Unknown, Other: l.sum.Other + l.now.Other, Ignored: l.before + l.ignored,
		Malformed: l.malformed.Load(),
	}
}

// lossesOf returns the losses known to one decoder.
func lossesOf(d *ipfix.Decoder) Losses {
	counts, said := d.Counts(), d.Statistics()
	return Losses{
		Missing: counts.Lost, NotSent: said.NotSent, Ignored: said.Ignored, Unknown: counts.Unknown, Other: counts.Other,
	}
}

func (l *losses) update(d *ipfix.Decoder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = lossesOf(d)
	if d.Statistics().Messages == 0 {
		return // no statistics yet
	}
	if l.now.Ignored < l.ignored {
		l.before += l.ignored
	}
	l.ignored = l.now.Ignored
}

// settle ends a connection.
func (l *losses) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum.Missing += l.now.Missing
	l.sum.NotSent += l.now.NotSent
	l.sum.Unknown += l.now.Unknown
	l.sum.Other += l.now.Other
	l.now = Losses{}
}

// deliverMessages is deliver for IPFIX: it passes on the contents of the whole messages
// in b.
func (c *Client) deliverMessages(b []byte) (used int, err error) {
	defer func() { c.losses.update(c.decoder) }()
	for {
		n, err := ipfix.Length(b[used:])
		if err == nil && (n == 0 || n > len(b)-used) {
			return used, nil
		}
		if err == nil {
			c.batch, err = c.decoder.Decode(b[used:used+n], c.batch[:0])
			if len(c.batch) > 0 {
				c.cfg.Records(c.batch)
			}
		}
		if err != nil {
			return used, fmt.Errorf("%w: %w", ErrNotRecords, err)
		}
		used += n
	}
}
