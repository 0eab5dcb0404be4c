package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/host/sandbox"
	"golang.org/x/sys/unix"
)

// confine drops the privileges that the fleet no longer needs, and opens the files that
// must be opened as the new user.
func (f *fleet) confine() (err error) {
	f.report = sandbox.Report{"confined: no, as asked with -unconfined"}
	if !f.cfg.Unconfined {
		err = f.giveUp()
	}
	for _, a := range f.members.agents() {
		if err == nil {
			err = a.openSpool()
		}
	}
	return err
}

// giveUp drops privileges.
func (f *fleet) giveUp() (err error) {
	cfg := sandbox.Config{User: f.cfg.User}
	if tls := f.cfg.TLS; tls.Any() {
		cfg.Read = append(cfg.Read, tls.Cert, tls.Key, tls.CA)
	}
	if feeds := f.cfg.ExcludeFeeds; feeds != "" {
		cfg.Read = append(cfg.Read, feeds)
	}
	f.members.needs(&cfg)
	if f.report, err = sandbox.Apply(cfg); err != nil {
		return fault.WithCode(ExitConfine, fault.WithHint(fmt.Errorf("cannot drop privileges: %w", err),
			"-user selects another user, -unconfined keeps all privileges"))
	}
	return nil
}

// needs adds what the agent needs after privileges are dropped. Captures are opened and
// closed later, so their capabilities are kept.
func (a *agent) needs(cfg *sandbox.Config) {
	cfg.Keep = a.engine.capabilities()
	// A filter that depends on addresses may have to be recompiled.
	cfg.Exec = strings.HasPrefix(a.watched.filter.Compiler, "tcpdump")
	if a.log != nil {
		cfg.Write = append(cfg.Write, logDir(a.cfg.Log))
		cfg.Append = append(cfg.Append, a.cfg.Log)
	}
	for _, x := range a.exports {
		x.needs(cfg)
	}
	a.spoolNeeds(cfg)
}

// capabilities returns the capabilities needed to open the engine's captures.
func (e *engine) capabilities() []int {
	if e.name != engineEBPF {
		return []int{unix.CAP_NET_RAW}
	}
	return []int{unix.CAP_NET_RAW, unix.CAP_NET_ADMIN, unix.CAP_BPF, unix.CAP_PERFMON}
}

// logDir returns the directory in which the log is created; for a symbolic link, that
// of its target.
func logDir(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	} else if to, err := os.Readlink(path); err == nil {
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return filepath.Dir(path)
	}
	return dir
}
