package agent

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/pcapper/pcapper/internal/agent/decode"
	"github.com/pcapper/pcapper/internal/agent/match"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/agent/pcapfile"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/wire"
)

// ExitDamaged: a capture file is damaged; everything before the damage was printed.
const ExitDamaged = 8

// lineBuffer is how much text ReadFile gathers before it writes.
const lineBuffer = 256 << 10

// ReadFile prints a log line for every packet of a capture file. If the file is
// damaged, it prints everything before the damage and returns an error.
func ReadFile(ctx context.Context, cfg Config) error {
	in, err := pcapfile.Open(cfg.Read)
	if err != nil {
		return fault.WithCode(ExitDevice, err)
	}
	defer in.Close()
	p := filePrinter{
		ctx: ctx, cfg: &cfg, decoder: decode.New(cfg.decoder()), out: cfg.Stdout,
		recs: make([]wire.Record, 512), text: make([]byte, 0, lineBuffer+512*wire.MaxLine+wire.LineRoom),
		self: newSelf(nil, cfg.Addrs),
	}
	p.decoder.SetWanted(p.wantedFragment)
	p.decoder.SetLocal(decode.Local{MAC: cfg.MAC, Addrs: cfg.Addrs})
	err = p.all(in)
	if flushErr := p.flush(); flushErr != nil {
		return flushErr
	}
	p.account(in)
	var damage *pcapfile.DamageError
	if errors.As(err, &damage) {
		return fault.WithCode(ExitDamaged, err)
	}
	return err
}

// filePrinter prints the frames of a file as text.
type filePrinter struct {
	ctx     context.Context
	cfg     *Config
	decoder *decode.Decoder
	filters [packet.LinkTypes]*match.Filter // by packet.LinkType, made when first needed
	self    *self
	recs    []wire.Record
	text    []byte
	lines   wire.Lines
	out     io.Writer
	// unmatched is the number of frames that -m filtered out.
	unmatched uint64
}

// account prints, one line per reason, how many frames yielded no line.
func (p *filePrinter) account(in *pcapfile.Reader) {
	out := printer{w: p.cfg.Stderr, prefix: in.Name() + ": "}
	if n := in.Skipped(); n > 0 {
		out.printf("%s of link types %v, which are not understood, gave no record", frames(n), in.SkippedLinks())
	}
	c := p.decoder.Counters()
	c.ShortLink += in.Short()
	p.unmatched += c.FragmentsUnwanted
	c.FragmentsUnwanted = 0
	c.WithoutRecord(func(reason string, n uint64) {
		if n > 0 {
			out.printf("%s gave no record: %s", frames(n), reason)
		}
	})
	switch {
	case in.Packets() == 0:
		out.printf("no packets in it")
	case p.unmatched > 0 && p.unmatched == in.Packets()-in.Skipped()-in.Short():
		out.printf("-m %q matches none of %s", p.cfg.Mode, frames(p.unmatched))
	}
}

// frames returns a number of frames as text.
func frames(n uint64) string {
	if n == 1 {
		return "1 frame"
	}
	return number(n) + " frames"
}

func (p *filePrinter) all(in *pcapfile.Reader) error {
	var f packet.Frame
	for n := 0; ; n++ {
		if err := in.Next(&f); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if p.cfg.Mode != "none" {
			ok, err := p.wanted(&f)
			if err != nil {
				return err
			}
			if !ok {
				p.unmatched++
				continue
			}
		}
		p.print(p.decoder.Decode(&f, p.recs))
		for p.decoder.Pending() {
			p.print(p.decoder.Drain(p.recs))
		}
		if len(p.text) >= lineBuffer || in.Buffered() == 0 { // the next read from a live pipe may block
			if err := p.flush(); err != nil {
				return err
			}
		}
		if n&1023 == 0 && p.ctx.Err() != nil {
			return nil // interrupted: what was printed is correct
		}
	}
}

// wanted applies -m.
func (p *filePrinter) wanted(f *packet.Frame) (bool, error) {
	if p.filters[f.Link] == nil {
		filter, err := match.CompileFile(p.ctx, p.cfg.kernelMode(), p.cfg.MAC, p.cfg.Addrs, f.Link)
		if err != nil {
			return false, fault.WithCode(filterCode(err), err)
		}
		if filter.Limit != "" {
			fmt.Fprintf(p.cfg.Stderr, "pcapper: warning: -m: %s\n", filter.Limit)
		}
		p.filters[f.Link] = filter
	}
	return p.filters[f.Link].Match(f), nil
}

// wantedFragment tests fragments that the kernel's filter passes untested.
func (p *filePrinter) wantedFragment(f *packet.Frame) bool {
	filter := p.filters[f.Link]
	return filter == nil || filter.Wanted(f)
}

func (p *filePrinter) print(n int) {
	for i := range n {
		if p.cfg.spoofInside() && !p.self.local(p.recs[i].SrcAddr()) {
			continue
		}
		p.text = p.lines.Append(p.text, &p.recs[i])
	}
}

func (p *filePrinter) flush() error {
	_, err := p.out.Write(p.text)
	p.text = p.text[:0]
	if err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
}
