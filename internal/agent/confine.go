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

// confine gives up what the fleet has no more use for, and opens what is opened as who
// the program is from now on.
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

// giveUp gives up privileges.
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
		return fault.WithCode(ExitConfine, fault.WithHint(fmt.Errorf("cannot give up privileges: %w", err),
			"-user takes another user, -unconfined gives up nothing"))
	}
	return nil
}

// needs adds what the agent does after privileges were given up. Captures are opened and
// closed later, so their capabilities stay.
func (a *agent) needs(cfg *sandbox.Config) {
	cfg.Keep = a.engine.capabilities()
	// A filter that depends on addresses may have to be compiled anew.
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

// capabilities are those that the engine's captures are opened with.
func (e *engine) capabilities() []int {
	if e.name != engineEBPF {
		return []int{unix.CAP_NET_RAW}
	}
	return []int{unix.CAP_NET_RAW, unix.CAP_NET_ADMIN, unix.CAP_BPF, unix.CAP_PERFMON}
}

// logDir is the directory that the log is made in; a symbolic link's is the one
// that it points into.
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
