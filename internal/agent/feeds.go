package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// feedsEvery is the interval at which the list of other agents is checked for changes.
const feedsEvery = time.Second

// feeds are the feeds of other agents, which are not reported either: otherwise an
// agent on a collector's host would report everything that the collector receives, and
// its replies. They are listed in a collector.conf, or in a directory of such files.
type feeds struct {
	path    string
	changed time.Time
	size    int64
}

// read returns the addresses of the agents if they may have changed. It is not an
// error if the file does not exist yet.
func (f *feeds) read() (agents map[netip.AddrPort]struct{}, fresh bool, err error) {
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("-exclude-feeds: %w", err)
	}
	if info.ModTime().Equal(f.changed) && info.Size() == f.size {
		return nil, false, nil
	}
	files := []string{f.path}
	if info.IsDir() {
		if files, err = filepath.Glob(filepath.Join(f.path, "[^.]*")); err != nil {
			return nil, false, fmt.Errorf("-exclude-feeds: %w", err)
		}
	}
	agents = map[netip.AddrPort]struct{}{}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) { // it is being replaced: read it next time
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("-exclude-feeds: %w", err)
		}
		for line := range strings.Lines(string(data)) {
			if a, ok := parseAgent(line); ok {
				agents[a] = struct{}{}
			}
		}
	}
	// A file that was just changed may change again within the resolution of its
	// timestamp.
	if f.changed = info.ModTime(); time.Since(f.changed) < 2*feedsEvery {
		f.changed = time.Time{}
	}
	f.size = info.Size()
	return agents, true, nil
}

// parseAgent parses a line of a collector.conf, LABEL:[SCHEME://]ADDRESS:PORT. Host
// names are skipped: an agent does not query name servers.
func parseAgent(line string) (netip.AddrPort, bool) {
	line, _, _ = strings.Cut(line, "#")
	_, at, ok := strings.Cut(strings.TrimSpace(line), ":")
	if _, rest, scheme := strings.Cut(at, "://"); scheme {
		at = rest
	}
	i := strings.LastIndexByte(at, ':')
	if !ok || i < 0 {
		return netip.AddrPort{}, false
	}
	addr, err := netip.ParseAddr(strings.Trim(at[:i], "[]"))
	port, err2 := strconv.ParseUint(at[i+1:], 10, 16)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), err == nil && err2 == nil
}

// followFeeds keeps the list of other agents up to date until ctx is done.
func (a *agent) followFeeds(ctx context.Context) error {
	f := feeds{path: a.cfg.ExcludeFeeds}
	said := ""
	look := time.NewTicker(feedsEvery)
	defer look.Stop()
	for {
		agents, fresh, err := f.read()
		switch {
		case err != nil && err.Error() != said:
			said = err.Error()
			a.out.printf("%s", said)
		case fresh:
			said = ""
			a.self.feeds.Store(&agents)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

// fed reports whether a TCP packet belongs to the feed of another agent.
func fed(r *wire.Record, agents map[netip.AddrPort]struct{}) bool {
	_, from := agents[netip.AddrPortFrom(r.SrcAddr(), r.SrcPort)]
	_, to := agents[netip.AddrPortFrom(r.DstAddr(), r.DstPort)]
	return from || to
}
