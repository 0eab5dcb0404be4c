package collector

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/host/sandbox"
	"github.com/pcapper/pcapper/internal/host/service"
)

// settle is called when everything is open: it drops privileges and tells the service
// manager that the collector is ready.
func (c *collector) settle(ctx context.Context, cfg Config) (err error) {
	if c.manager, err = service.Find(); err != nil {
		c.say.printf("%v; going on without", err)
		c.manager = &service.Manager{}
	}
	if !cfg.Unconfined {
		// Certificates, logs to replay, and the files for name lookups are read later,
		// and may belong to anyone. Nothing is written except open files and the
		// history.
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

// writes returns the directories in which files are created.
func (c *collector) writes() []string {
	if c.view == nil || c.view.archive == nil {
		return nil
	}
	return []string{c.view.archive.Dir()}
}
