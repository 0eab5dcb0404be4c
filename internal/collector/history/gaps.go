package history

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
)

// Gap is a run of an agent's records that were received but are not in the history.
type Gap struct {
	Agent string `json:"agent"`
	// Boot and First identify the first of them, so that a gap recorded twice counts
	// once.
	Boot  hex    `json:"boot"`
	First uint64 `json:"first"`
	// From and To are the times of the agent's records before and after the gap.
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Records uint64    `json:"records"`
	Why     string    `json:"why"`
}

const (
	// gapFile has one JSON line per gap. It is only appended to, or replaced with a
	// shorter one.
	gapFile = "gaps.jsonl"
	// gapFileMost is the size from which the gaps within an hour are merged.
	gapFileMost = 1 << 20
)

// gapLines formats gaps as lines of the file.
func gapLines(gaps []Gap) ([]byte, error) {
	var b bytes.Buffer
	for i := range gaps {
		line, err := json.Marshal(&gaps[i])
		if err != nil {
			return nil, err
		}
		b.Write(append(line, '\n'))
	}
	return b.Bytes(), nil
}

// addGaps records gaps durably.
func (s *Store) addGaps(gaps []Gap) error {
	if len(gaps) == 0 {
		return nil
	}
	text, err := gapLines(gaps)
	if err != nil {
		return err
	}
	s.gaps.Lock()
	defer s.gaps.Unlock()
	f, err := os.OpenFile(filepath.Join(s.dir, gapFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	if _, err = f.Write(text); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// pruneGaps removes gaps in times that are no longer kept, and shortens a long file.
func (s *Store) pruneGaps(now time.Time) error {
	s.gaps.Lock()
	defer s.gaps.Unlock()
	path := filepath.Join(s.dir, gapFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || info.Size() < gapFileMost && now.Sub(s.pruned) < time.Hour {
		return err
	}
	s.pruned = now
	gaps, err := readGaps(path)
	if err != nil {
		return err
	}
	if s.cfg.Keep.Age != 0 {
		gaps = slices.DeleteFunc(gaps, func(g Gap) bool { return g.To.Before(now.Add(-s.cfg.Keep.Age - time.Hour)) })
	}
	if info.Size() >= gapFileMost {
		gaps = joinGaps(gaps, time.Hour)
	}
	text, err := gapLines(gaps)
	if err != nil {
		return err
	}
	tmp := filepath.Join(s.dir, tmpDir, gapFile)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeFile(tmp, string(text)); err != nil {
		return err
	}
	return move(tmp, path)
}

// readGaps reads a file of gaps, without duplicates. Truncated lines are skipped.
func readGaps(path string) (gaps []Gap, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	type id struct {
		agent       string
		boot, first uint64
		why         string
	}
	seen := map[id]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var g Gap
		if json.Unmarshal(lines.Bytes(), &g) != nil {
			continue
		}
		if k := (id{g.Agent, uint64(g.Boot), g.First, g.Why}); !seen[k] {
			seen[k] = true
			gaps = append(gaps, g)
		}
	}
	return gaps, lines.Err()
}

// joinGaps merges an agent's gaps with the same reason that are less than apart from
// each other, and sorts them by agent and time.
func joinGaps(gaps []Gap, apart time.Duration) (joined []Gap) {
	slices.SortStableFunc(gaps, func(a, b Gap) int {
		return cmp.Or(cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Why, b.Why), a.From.Compare(b.From))
	})
	for _, g := range gaps {
		if n := len(joined); n > 0 {
			if last := &joined[n-1]; last.Agent == g.Agent && last.Why == g.Why && g.From.Sub(last.To) <= apart {
				last.To = later(last.To, g.To)
				last.Records += g.Records
				continue
			}
		}
		joined = append(joined, g)
	}
	return joined
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// ReadGaps returns what is known to be missing from a store's directory, for the times
// and hosts of the query; its other fields are ignored. Consecutive gaps are merged.
func ReadGaps(dir string, q *Query) ([]Gap, error) {
	gaps, err := readGaps(filepath.Join(dir, gapFile))
	if err != nil {
		return nil, fmt.Errorf("gaps of the history: %w", err)
	}
	gaps = slices.DeleteFunc(gaps, func(g Gap) bool {
		return len(q.Hosts) > 0 && !slices.Contains(q.Hosts, g.Agent) || !q.From.IsZero() && g.To.Before(q.From) || !q.To.IsZero() && !g.From.Before(q.To)
	})
	return joinGaps(gaps, time.Second), nil
}

// reason describes why nothing can be written, in terms that users know.
func reason(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "disk full"
	case errors.Is(err, syscall.EROFS):
		return "disk read-only"
	case errors.Is(err, syscall.EIO):
		return "disk errors"
	case errors.Is(err, fs.ErrNotExist):
		return "directory removed"
	}
	return fault.Cause(err)
}
