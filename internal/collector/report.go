package collector

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// Prefix begins each line on stderr.
const Prefix = "recollect: "

// lossEvery is the minimum interval between two messages about a slow stdout.
const lossEvery = 10 * time.Second

// printer writes lines with Prefix. Each line is a single write, so that lines of
// several goroutines do not mix.
type printer struct {
	mu    sync.Mutex
	w     io.Writer
	muted bool
	shown bool // a progress line is on the terminal
}

func newPrinter(w io.Writer) *printer { return &printer{w: w} }

// mute suppresses lines on a terminal with the live view, which shows the same
// information in its own way.
func (p *printer) mute(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muted = on
}

func (p *printer) printf(format string, args ...any) {
	text := PrintableLines(Prefix+fmt.Sprintf(format, args...)) + "\n"
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		text = eraseLine + text
		p.shown = false
	}
	if !p.muted {
		io.WriteString(p.w, text)
	}
}

// PrintableLines keeps line breaks but removes all other characters that affect a
// terminal: messages may contain names and text from elsewhere.
func PrintableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = wire.Printable(lines[i])
	}
	return strings.Join(lines, "\n")
}

// eraseLine restarts the terminal's line (ECMA-48, EL).
const eraseLine = "\r\x1b[K"

// progress replaces the last progress line on a terminal.
func (p *printer) progress(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown || text != "" {
		io.WriteString(p.w, eraseLine+text)
	}
	p.shown = text != ""
}

// report reports lost records, and prints the summary when requested, until ctx is
// done.
func (c *collector) report(ctx context.Context, out output, cfg Config) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	losses := lossReport{every: lossEvery}
	ended := false // a replay that stays at its end
	for {
		select {
		case <-ctx.Done():
			return
		case <-cfg.Summary:
			c.summarize(out)
			if cfg.Report != nil {
				for _, line := range cfg.Report() {
					c.say.printf("%s", line)
				}
			}
			for _, line := range cfg.Ledger.Read().Lines() {
				c.say.printf("%s", line)
			}
		case now := <-tick.C:
			if n := losses.news(now, out.status().hub.Lost); n > 0 {
				c.say.printf("stdout takes lines too slowly: %d records lost (oldest first)", n)
			}
			for _, a := range c.present() {
				a.reportLosses(now)
			}
			if c.player != nil && !ended && c.player.Status().Ended {
				ended = true
				c.say.printf("the logs have been played to their end")
			}
		}
	}
}

// lossReport decides when losses are worth a line.
type lossReport struct {
	every time.Duration
	told  uint64
	last  time.Time
}

// news returns the number of records lost since the last line, or 0 if it is too early
// for another.
func (l *lossReport) news(now time.Time, lost uint64) uint64 {
	n := lost - l.told
	if n == 0 || !l.last.IsZero() && now.Sub(l.last) < l.every {
		return 0
	}
	l.told, l.last = lost, now
	return n
}

// summarize reports what has been done so far.
func (c *collector) summarize(out output) {
	var b strings.Builder
	total := uint64(0)
	for _, a := range c.all() {
		n := a.records.Load()
		total += n
		if a.gone.Load() && n == 0 {
			continue
		}
		if c.player != nil {
			fmt.Fprintf(&b, "\n%s  %v: %s", Prefix, a, a.done())
			continue
		}
		fmt.Fprintf(&b, "\n%s  %v: %s, %s", Prefix, a,
			count(n, "record"), count(a.connections.Load(), "connection"))
		if l := a.losses(); l.Any() {
			fmt.Fprintf(&b, "; missing: %v", l)
		}
		if a.gone.Load() {
			b.WriteString("; no longer configured")
			continue
		}
		if d := a.detail(); d != nil && d.Level > batch.Packets {
			fmt.Fprintf(&b, "; %s are kept: %s", kept(d.Level), d.Why)
		}
	}
	if c.batcher != nil {
		fmt.Fprintf(&b, "\n%s  %s", Prefix, c.batcher.summary())
	}
	if l := c.listening(); l.Evicted+l.Malformed+l.NotAllowed+l.Refused > 0 {
		fmt.Fprintf(&b, "\n%s  -listen: %s forgotten to make room, %s malformed, %d not allowed, %s refused", Prefix,
			count(l.Evicted, "session"), count(l.Malformed, "datagram"), l.NotAllowed, count(l.Refused, "connection"))
	}
	if n := c.withheld(); n > 0 {
		fmt.Fprintf(&b, "\n%s  %s withheld: other collectors may have them, as this one had been stopped", Prefix, count(n, "record"))
	}
	st := out.status()
	source := "agent"
	if c.player != nil {
		source = "log"
	}
	c.say.printf("%s from %s in %v; %s, %s lost%s",
		count(total, "record"), count(uint64(len(c.present())), source),
		time.Since(c.started).Round(100*time.Millisecond), st.done, count(st.hub.Lost, "record"), b.String())
}

// count returns "1 record", "2 records".
func count(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// withheld returns the number of records discarded because another collector may have
// them.
func (c *collector) withheld() (n uint64) {
	for _, a := range c.all() {
		n += a.withheld.Load()
	}
	return n
}
