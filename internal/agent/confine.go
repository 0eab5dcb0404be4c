package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pcapper/pcapper/internal/host/sandbox"
	"golang.org/x/sys/unix"
)

// confine gives up what the agent has no more use for. Captures are opened and
// closed later, so their capabilities stay.
func (a *agent) confine() (err error) {
	if err := a.makeSpool(); err != nil {
		return err
	}
	if a.cfg.Unconfined {
		a.confined = sandbox.Report{"confined: no, as asked with -unconfined"}
		return nil
	}
	cfg := sandbox.Config{
		User: a.cfg.User,
		Keep: a.engine.capabilities(),
		// A filter that depends on addresses may have to be compiled anew.
		Exec: strings.HasPrefix(a.target.filter.Compiler, "tcpdump"),
	}
	if a.log != nil {
		cfg.Write = append(cfg.Write, logDir(a.cfg.Log))
		cfg.Append = append(cfg.Append, a.cfg.Log)
	}
	if f := a.cfg.TLS; f.Any() {
		cfg.Read = append(cfg.Read, f.Cert, f.Key, f.CA)
	}
	if f := a.cfg.ExcludeFeeds; f != "" {
		cfg.Read = append(cfg.Read, f)
	}
	for _, x := range a.exports {
		x.needs(&cfg)
	}
	a.spoolNeeds(&cfg)
	if a.confined, err = sandbox.Apply(cfg); err != nil {
		return fail(ExitConfine, hinted{fmt.Errorf("cannot give up privileges: %w", err),
			"-user takes another user, -unconfined gives up nothing"})
	}
	return nil
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

// announceConfinement says what the agent may still do.
func (a *agent) announceConfinement() {
	for _, line := range a.confined {
		a.out.printf("%s", line)
	}
}
