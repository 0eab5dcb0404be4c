package history

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
)

// cursor is a position in a sorted run of row groups.
type cursor struct {
	file        *dataFile
	next, until int // row groups
	group       group
	at          int
	row         Row
}

// advance moves to the next row; ok is false after the last.
func (c *cursor) advance() (ok bool, err error) {
	c.at++
	for c.at >= c.group.rows {
		if c.next == c.until {
			return false, nil
		}
		if !c.group.open(c.file, c.next) {
			return false, &FileError{c.file.path, fmt.Errorf("row group %d has unknown columns", c.next)}
		}
		if err := c.group.load(allColumns); err != nil {
			return false, &FileError{c.file.path, err}
		}
		c.next++
		c.at = 0
	}
	c.group.row(c.at, &c.row)
	return true, nil
}

func (c *cursor) less(d *cursor) bool {
	if c.row.Host != d.row.Host {
		return c.row.Host < d.row.Host
	}
	return c.row.Record.Time < d.row.Record.Time
}

// mergeFiles writes the rows of files in a directory in order, with their metadata.
func mergeFiles(ctx context.Context, dir string, names []name, id string, out *output) (n name, err error) {
	var m merger
	defer m.close()
	generation := 0
	for _, n := range names {
		generation = max(generation, n.generation)
		if err := m.open(filepath.Join(dir, n.String()), n.runs() > 1); err != nil {
			return name{}, err
		}
	}
	if err := m.mergeRuns(ctx, out); err != nil {
		return name{}, err
	}
	if out.rows != m.rows {
		return name{}, fmt.Errorf("compaction turned %[2]d rows into %[1]d: discarded", out.rows, m.rows)
	}
	return out.finish(generation+1, id, &m.ranges, m.segments)
}

// merger merges sorted runs.
type merger struct {
	files    []*dataFile
	cursors  []*cursor
	rows     int64
	ranges   ranges
	segments []string
}

func (m *merger) close() {
	for _, f := range m.files {
		f.close()
	}
}

// open adds a file, whose runs may have sortRows rows each.
func (m *merger) open(path string, several bool) error {
	f, err := openParquet(path)
	if err != nil {
		return err
	}
	m.files = append(m.files, f)
	m.rows += f.NumRows()
	m.segments = append(m.segments, f.segments()...)
	list, err := f.ranges()
	if err != nil {
		return err
	}
	m.ranges.list = append(m.ranges.list, list...)
	n := len(f.RowGroups())
	step := n
	if several {
		step = sortRows / groupRows
	}
	for i := 0; i < n; i += step {
		c := &cursor{file: f, next: i, until: min(i+step, n), at: -1}
		if ok, err := c.advance(); err != nil {
			return err
		} else if ok {
			m.cursors = append(m.cursors, c)
		}
	}
	return nil
}

func (m *merger) mergeRuns(ctx context.Context, out *output) error {
	for len(m.cursors) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		i, second := m.least()
		c := m.cursors[i]
		ok, err := c.drain(second, out)
		if err != nil {
			return err
		}
		if !ok {
			m.cursors = append(m.cursors[:i], m.cursors[i+1:]...)
		}
	}
	return nil
}

// least returns the cursor at the smallest row and the one at the second smallest,
// which is nil if there is none.
func (m *merger) least() (first int, second *cursor) {
	for i, c := range m.cursors[1:] {
		if c.less(m.cursors[first]) {
			second, first = m.cursors[first], i+1
		} else if second == nil || c.less(second) {
			second = c
		}
	}
	return first, second
}

// drain writes rows until the next one is larger than other's. ok is false after the
// last.
func (c *cursor) drain(other *cursor, out *output) (ok bool, err error) {
	for {
		if err := out.addRecord(&c.row.Record, c.row.Host, c.row.Level); err != nil {
			return false, err
		}
		if ok, err := c.advance(); !ok {
			return false, err
		}
		if other != nil && other.less(c) {
			return true, nil
		}
	}
}

// ranges are what the file says that it has.
func (r *dataFile) ranges() (list []Range, err error) {
	text, _ := r.Lookup(metaRanges)
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, &FileError{r.path, fmt.Errorf("its %s: %w", metaRanges, err)}
	}
	return list, nil
}
