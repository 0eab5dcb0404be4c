//go:build nats

package agent

import (
	"crypto/x509"
	"fmt"
	"os"

	"github.com/pcapper/pcapper/internal/agent/export"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/internal/transport/publish"
	"github.com/pcapper/pcapper/internal/transport/spool"
)

func init() {
	k := export.BusKind
	k.Params = append(export.BusParams(), new(bus.Target).Params()...)
	k.New = func(url string) (export.Target, error) {
		t, err := export.ParseBus(url)
		if err == nil {
			_, err = bus.Parse(t.Bus)
		}
		return t, err
	}
	export.Outputs.Register(k)
	openers[export.NATS] = (*exporting).prepareBus
}

// busExporter is a publish.Exporter that counts as others do.
type busExporter struct{ *publish.Exporter }

func (e busExporter) Reopen() {}

func (e busExporter) Counts() export.Counts {
	c := e.Exporter.Counts()
	return export.Counts{Messages: c.Batches, Records: c.Records, Packets: c.Packets, Failed: c.Refused}
}

// Held is what waits in memory.
func (e busExporter) Held() (waiting, lost uint64) {
	c := e.Exporter.Counts()
	return c.Waiting, c.GivenUp
}

// busSpool is a queue as package publish takes it.
type busSpool struct{ *spool.Queue }

func (s busSpool) GivenUp() uint64 { return s.Status().DroppedNew }

// prepareBus makes the exporter, and reads the files that it will, so that a
// wrong one is told.
func (x *exporting) prepareBus() error {
	target, err := bus.Parse(x.target.Bus)
	if err != nil {
		return fault.WithCode(ExitUsage, fmt.Errorf("-export: %w", err))
	}
	if target.Secure && target.CA == "" {
		_, _ = x509.SystemCertPool() // is read once, while all files may be
	}
	x.busFiles = target.Files()
	for _, file := range x.busFiles {
		if _, err := os.ReadFile(file); err != nil {
			return fault.WithCode(ExitCerts, fmt.Errorf("-export %q: %w", x.target.URL, err))
		}
	}
	e := publish.New(publish.Config{
		Bus:   bus.Config{Target: target, Name: "pcapper " + x.name(), Patient: true, Say: x.a.out.printf, Peer: x.a.self.peer},
		Agent: x.name(), PerSecond: x.target.PerSecond, Reader: x.reader,
		Lost: func() uint64 { return x.reader.Status().Lost },
	})
	x.exporter, x.setSpool = busExporter{e}, func(q *spool.Queue) { e.SetSpool(busSpool{q}) }
	return nil
}
