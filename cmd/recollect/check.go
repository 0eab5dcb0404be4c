package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/pcapper/pcapper/internal/collector"
)

// checkFiles implements -check: it validates all files named by the options strictly,
// reports problems, and returns the exit code. It makes no connections and opens no
// ports.
func (o *options) checkFiles() int {
	cfg := collector.Config{TLS: o.tls}
	if err := o.readAgents(&cfg); err != nil {
		return explain(err)
	}
	var errs []error
	errs = append(errs, o.checkConfig(cfg.File))
	errs = append(errs, collector.CheckAgents(cfg.File, &cfg)...)
	_, err := collector.FindPalette()
	errs = append(errs, err)
	_, err = o.readNames()
	errs = append(errs, err)
	_, err = o.page.access()
	errs = append(errs, err)
	_, err = o.page.readRules()
	errs = append(errs, err)
	failed := 0
	for _, err := range errs {
		failed = max(failed, explain(err))
	}
	if failed == 0 {
		fmt.Fprintf(os.Stdout, "no errors; flow lines: %d, %s\n", len(cfg.File.Flows), o.sources(&cfg))
	}
	return failed
}

// checkConfig returns what is wrong with the configuration.
func (o *options) checkConfig(file *collector.File) error {
	err := file.Check()
	bad, ok := errors.AsType[*collector.ConfigError](err)
	// Agents need not come from the configuration.
	if ok && bad.Total == 1 && len(file.Notes) == 0 && (o.replay != nil || o.listen != nil || o.keep.bus != "") {
		return nil
	}
	return err
}

// sources describes where records come from.
func (o *options) sources(cfg *collector.Config) string {
	if cfg.Replay != nil {
		return fmt.Sprintf("logs: %d", cfg.Replay.Len())
	}
	return fmt.Sprintf("agents: %d", len(cfg.File.Hosts))
}
