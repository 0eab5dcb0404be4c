package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/pcapper/pcapper/internal/agent/export"
	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/host/sandbox"
	"github.com/pcapper/pcapper/internal/transport/spool"
)

// exporter sends records: an export.Exporter or, in builds with NATS, a
// publish.Exporter.
type exporter interface {
	fmt.Stringer
	Run(context.Context) error
	// State returns what it is doing, in a few words.
	State() string
	Counts() export.Counts
	// Reopen reopens a file.
	Reopen()
}

// exporting is one -export and its position in the stream.
type exporting struct {
	a        *agent
	target   export.Target
	exporter exporter
	setSpool func(countedSpool)
	reader   *recordReader
	queue    *spool.Queue // nil without -spool
	before   spool.Status // of queue, when it was opened
	files    certs.Files  // for TLS
	busFiles []string     // for NATS
}

// openers create the exporters that package export does not implement.
var openers = map[export.Kind]func(*exporting) error{}

// prepareExports creates the exports from the command line. Packets are captured for
// them from the start, whether or not a receiver is connected.
func (a *agent) prepareExports() error {
	if len(a.cfg.Exports) == 0 {
		return nil
	}
	a.capture.always = func() { a.out.printf("capturing from now on, for exports") }
	if a.log != nil {
		a.log.always = true
	}
	for _, t := range a.cfg.Exports {
		if err := t.Ready(); err != nil && t.Kind == export.File {
			return notReady(&t, err)
		}
		x := &exporting{a: a, target: t, reader: a.hub.NewReader()}
		a.exports = append(a.exports, x)
		if open := openers[t.Kind]; open != nil {
			if err := open(x); err != nil {
				return err
			}
			continue
		}
		config := export.Config{
			Target: t, Domain: a.domain(), PEN: a.cfg.PEN, Names: a.point.names, Reader: x.reader, Format: formatIPFIX,
			Lost:    x.lost,
			Ignored: func() uint64 { return a.capture.stats().Dropped },
			Peer:    a.self.peer, Allow: a.allowed, Say: a.out.printf,
		}
		if t.Kind == export.TLS {
			var err error
			if config.TLS, err = x.tls(); err != nil {
				return err
			}
		}
		if a.cfg.Listen.IsValid() {
			config.Listen = a.cfg.Listen.String()
		}
		e := export.New(config)
		x.exporter, x.setSpool = e, func(s countedSpool) { e.SetSpool(s) }
	}
	return nil
}

// notReady wraps err, which says what an export lacks, with a hint.
func notReady(t *export.Target, err error) error {
	hint := "create the directory first; the agent drops the right to"
	if t.Kind != export.File {
		hint = "pcapper -D lists this host's interfaces; without -check the agent waits for this one"
	}
	return fault.WithCode(ExitUsage, fault.WithHint(fmt.Errorf("-export %q: %w", t.URL, err), hint))
}

// tls determines the files of an export over TLS: its own, or those of the feed. They
// are read now so that errors are reported at startup, and again for each connection.
func (x *exporting) tls() (func() (*tls.Config, error), error) {
	t, global := &x.target, &x.a.cfg.TLS
	f := certs.Files{Cert: t.Cert, Key: t.Key, CA: t.CA}
	for _, s := range []struct{ value, global *string }{
		{&f.Cert, &global.Cert}, {&f.Key, &global.Key}, {&f.CA, &global.CA},
	} {
		if *s.value == "" {
			*s.value = *s.global
		}
		if *s.value == "" {
			return nil, fault.WithCode(ExitUsage, fault.WithHint(fmt.Errorf("-export %q: no certificate, key or authority", t.URL),
				"give cert=FILE, key=FILE and ca=FILE behind a question mark, or -tls-cert, -tls-key and -tls-client-ca"))
		}
	}
	name := t.Name
	if name == "" {
		name = t.Host
	}
	if _, err := f.Load(); err != nil {
		return nil, fault.WithCode(ExitCerts, fmt.Errorf("-export %q: %w", t.URL, err))
	}
	x.files = f
	return func() (*tls.Config, error) {
		pair, err := f.Load()
		if err != nil {
			return nil, err
		}
		return pair.Client(name), nil
	}, nil
}

// allowed reports whether -allow permits an address.
func (a *agent) allowed(addr netip.Addr) bool {
	return len(a.cfg.Allow) == 0 || slices.ContainsFunc(a.cfg.Allow, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// needs adds what an export does after privileges are dropped.
func (x *exporting) needs(cfg *sandbox.Config) {
	t := &x.target
	if t.Kind == export.File {
		cfg.Write = append(cfg.Write, logDir(t.Path))
		cfg.Append = append(cfg.Append, t.Path)
		return
	}
	if t.Kind != export.UDP || t.Repair != 0 {
		cfg.Network = true
	}
	cfg.Read = append(cfg.Read, x.busFiles...)
	if _, err := netip.ParseAddr(t.Host); err != nil {
		cfg.Network = true // name servers may require TCP
		cfg.Read = append(cfg.Read, "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf")
	}
	if x.files != (certs.Files{}) {
		cfg.Read = append(cfg.Read, x.files.Cert, x.files.Key, x.files.CA)
	}
}

// name returns the name of the records' agent on a bus. With several interfaces, each
// has its own.
func (x *exporting) name() string {
	name, label := x.target.Name, x.a.point.label
	switch {
	case name != "" && label != "":
		return name + "/" + label
	case name+label != "":
		return name + label
	}
	name, err := os.Hostname()
	if err != nil {
		return x.a.cfg.Interface
	}
	return name
}

func (x *exporting) announce() {
	what := "a record for each packet"
	if x.target.PerSecond {
		what = "a record for each flow and second"
	}
	if err := x.target.Ready(); err != nil {
		what += fmt.Sprintf("; not yet: %v", err)
	}
	if x.target.Kind == export.NATS {
		x.a.out.printf("publishing to %s as %q: %s", x.target.URL, x.name(), what)
	} else {
		x.a.out.printf("exporting IPFIX to %s: %s", x.target.URL, what)
	}
	if x.queue != nil {
		share, _ := x.a.cfg.SpoolShare()
		x.a.out.printf("while it is away, up to %s bytes wait in %q; %s packets left from a previous run", number(uint64(share)), x.a.cfg.Spool.Dir,
			number(x.queue.Status().Waiting.Weight))
	}
}

// String returns the export's line for the summary.
func (x *exporting) String() string {
	c, s := x.exporter.Counts(), x.status()
	line := fmt.Sprintf("%v (%s): %s records of %s packets sent in %s messages, %s lost", x.exporter, x.exporter.State(),
		number(c.Records), number(c.Packets), number(c.Messages), number(s.Lost))
	if c.Failed > 0 {
		line += fmt.Sprintf(", %s records failed", number(c.Failed))
	}
	if c.Repaired > 0 {
		line += fmt.Sprintf(", %s messages repeated", number(c.Repaired))
	}
	if s.Pending > 0 {
		line += fmt.Sprintf(", %s in flight", number(s.Pending))
	}
	if x.queue != nil {
		line += "; " + spooled(x.queue.Status())
	}
	return line
}
