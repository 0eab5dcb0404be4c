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
)

func init() {
	k := export.BusKind
	k.Params = append(export.BusParams(), new(bus.ClusterURL).Params()...)
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

// busExporter adapts a publish.Exporter to the exporter interface.
type busExporter struct{ *publish.Exporter }

func (e busExporter) Reopen() {}

func (e busExporter) Counts() export.Counts {
	c := e.Exporter.Counts()
	return export.Counts{Messages: c.Batches, Records: c.Records, Packets: c.Packets, Failed: c.Refused, Lost: c.GivenUp, Waiting: c.Waiting}
}

// prepareBus creates the exporter. It reads the exporter's files once now, so that
// errors in them are reported at startup.
func (x *exporting) prepareBus() error {
	target, err := bus.Parse(x.target.Bus)
	if err != nil {
		return fault.WithCode(ExitUsage, fmt.Errorf("-export: %w", err))
	}
	if target.Secure && target.CA == "" {
		_, _ = x509.SystemCertPool() // is read once, before privileges are dropped
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
	x.exporter, x.setSpool = busExporter{e}, func(s countedSpool) { e.SetSpool(s) }
	return nil
}
