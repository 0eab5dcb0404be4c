package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/pcapper/pcapper/internal/collector"
)

// checkFiles is -check: it reads all files that the options name, as strictly as
// their descriptions are, says what is wrong with them, and gives the exit code.
// Nobody is dialled and nothing is opened for others.
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
	failed := 0
	for _, err := range errs {
		failed = max(failed, explain(err))
	}
	if failed == 0 {
		fmt.Fprintf(os.Stdout, "no errors; flow lines: %d, %s\n", len(cfg.File.Flows), o.sources(&cfg))
	}
	return failed
}

// checkConfig is what is wrong with the configuration.
func (o *options) checkConfig(file *collector.File) error {
	err := file.Check()
	bad, ok := errors.AsType[*collector.ConfigError](err)
	// Others than a configuration's agents will do.
	if ok && bad.Total == 1 && len(file.Notes) == 0 && (o.replay != nil || o.listen != nil || o.keep.bus != "") {
		return nil
	}
	return err
}

// sources are what records come from.
func (o *options) sources(cfg *collector.Config) string {
	if cfg.Replay != nil {
		return fmt.Sprintf("logs: %d", cfg.Replay.Len())
	}
	return fmt.Sprintf("agents: %d", len(cfg.File.Hosts))
}
