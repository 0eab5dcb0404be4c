package collector

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/host/sandbox"
	"github.com/pcapper/pcapper/internal/host/service"
)

// settle is called when everything is open: it gives up privileges and tells
// the service manager that the collector is ready.
func (c *collector) settle(ctx context.Context, cfg Config) (err error) {
	if c.manager, err = service.Find(); err != nil {
		c.say.printf("%v; going on without", err)
		c.manager = &service.Manager{}
	}
	if !cfg.Unconfined {
		// Certificates, logs to replay and what names are looked up in are read
		// later, and may be anywhere and anyone's. Nothing is written but what
		// is open, and the history.
		report, err := sandbox.Apply(sandbox.Config{
			User: "root", Keep: []int{unix.CAP_NET_BIND_SERVICE, unix.CAP_DAC_READ_SEARCH}, Read: []string{"/"}, Write: append(c.writes(), cfg.Writes...), Network: true,
		})
		if err != nil {
			return fmt.Errorf("cannot give up privileges: %w", err)
		}
		if cfg.Verbose {
			for _, line := range report {
				c.say.printf("%s", line)
			}
		}
	}
	c.manager.Ready(fmt.Sprintf("collecting from %s", count(uint64(len(c.present())), "agent")))
	context.AfterFunc(ctx, c.manager.Stopping)
	return nil
}

// writes are the directories in which files are made.
func (c *collector) writes() []string {
	if c.view == nil || c.view.archive == nil {
		return nil
	}
	return []string{c.view.archive.Dir()}
}
