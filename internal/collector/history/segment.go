package history

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// sortRows is the number of records that are sorted in memory before they are written.
// A larger segment has several parts that are sorted separately.
const sortRows = 1 << 18

// Segment collects records that become one file. It must not be used by several
// goroutines at once.
type Segment struct {
	store  *Store
	id     string
	out    *output
	ranges ranges
	buf    *sorter
	at     int64 // time of a record, for a segment without traffic
	any    bool  // a batch was added
	err    error // permanent
}

// NewSegment begins a segment. id consists of letters, digits, ".", and "-", and must
// not have been used before.
func (s *Store) NewSegment(id string) (*Segment, error) {
	if !validID(id) {
		return nil, fmt.Errorf("segment %q: want a name of 1 to 100 letters, digits, dots and dashes", id)
	}
	if err := s.revive(); err != nil {
		return nil, s.explain(err)
	}
	out, err := newOutput(filepath.Join(s.dir, tmpDir, id+suffix))
	if err != nil {
		return nil, s.explain(err)
	}
	return &Segment{store: s, id: id, out: out, buf: sorters.Get().(*sorter)}, nil
}

// Add adds the records of a batch, which it does not retain. After an error the segment
// is unusable: Abort it, and begin another with the same batches.
func (g *Segment) Add(b *batch.Batch) error {
	if g.err != nil {
		return g.err
	}
	if !g.any {
		g.any, g.at = true, b.Records[0].Time
	}
	g.ranges.addBatch(b)
	g.buf.addBatch(b)
	if len(g.buf.records) >= sortRows {
		g.err = g.store.explain(g.flush())
	}
	return g.err
}

func (g *Segment) flush() error {
	for _, k := range g.buf.sorted() {
		r := &g.buf.runs[k.run]
		if err := g.out.addRecord(&g.buf.records[k.at], r.host, r.level); err != nil {
			return err
		}
	}
	g.buf.reset()
	return nil
}

// Seal makes the segment pending: a file that survives SIGKILL and loss of power. After
// an error nothing is left of it.
func (g *Segment) Seal() error {
	err := g.err
	if err == nil {
		err = g.seal()
	}
	if err != nil {
		g.Abort()
		return g.store.explain(err)
	}
	g.release()
	return nil
}

func (g *Segment) seal() error {
	if err := g.flush(); err != nil {
		return err
	}
	if !g.any {
		return errors.New("a segment without records")
	}
	if g.out.rows == 0 {
		g.out.min, g.out.max = g.at, g.at
	}
	name, err := g.out.finish(0, g.id, &g.ranges, []string{g.id})
	if err != nil {
		return err
	}
	to := filepath.Join(g.store.dir, pendingDir, name.String())
	if err := move(g.out.file.f.Name(), to); err != nil {
		return err
	}
	g.store.sealed(name)
	return nil
}

// Abort discards the segment. After Seal it has no effect.
func (g *Segment) Abort() {
	if g.buf == nil {
		return
	}
	g.out.file.remove()
	g.release()
	g.err = errors.New("the segment was aborted")
}

func (g *Segment) release() {
	g.buf.reset()
	sorters.Put(g.buf)
	g.buf = nil
}

// sorter sorts records.
type sorter struct {
	records []wire.Record
	runs    []run
	keys    []key
}

// run is a run of consecutive records of one batch.
type run struct {
	host  string
	level batch.Level
	end   int
}

// key is the sort key of a record, and its position.
type key struct {
	host    uint32 // rank among the runs' hosts
	at, run uint32
	time    int64
}

var sorters = sync.Pool{New: func() any { return new(sorter) }}

// addBatch takes a batch's traffic: a segment's rows add up to what interfaces carried.
func (s *sorter) addBatch(b *batch.Batch) {
	for i := range b.Records {
		if b.Records[i].IsTraffic() {
			s.records = append(s.records, b.Records[i])
		}
	}
	s.runs = append(s.runs, run{b.Agent, b.Level, len(s.records)})
}

func (s *sorter) reset() {
	clear(s.runs)
	s.records, s.runs = s.records[:0], s.runs[:0]
}

// sorted returns the order by host and time. It is valid until reset.
func (s *sorter) sorted() []key {
	ranks := s.ranks()
	s.keys = s.keys[:0]
	at := 0
	for i := range s.runs {
		host := ranks[s.runs[i].host]
		for ; at < s.runs[i].end; at++ {
			s.keys = append(s.keys, key{host, uint32(at), uint32(i), s.records[at].Time})
		}
	}
	slices.SortFunc(s.keys, func(a, b key) int {
		switch {
		case a.host != b.host:
			return cmp.Compare(a.host, b.host)
		case a.time != b.time:
			return cmp.Compare(a.time, b.time)
		}
		return cmp.Compare(a.at, b.at)
	})
	return s.keys
}

func (s *sorter) ranks() map[string]uint32 {
	ranks := make(map[string]uint32)
	for i := range s.runs {
		ranks[s.runs[i].host] = 0
	}
	hosts := make([]string, 0, len(ranks))
	for host := range ranks {
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	for i, host := range hosts {
		ranks[host] = uint32(i)
	}
	return ranks
}

// output is a file of the store that is being written.
type output struct {
	*rowWriter
	file     *file
	summary  *summarizer // nil if none is created
	rows     int64
	min, max int64 // of times
}

func newOutput(path string) (*output, error) {
	f, err := createFile(path)
	if err != nil {
		return nil, err
	}
	return &output{rowWriter: newRowWriter(f, sortedRows), file: f}, nil
}

func (o *output) addRecord(rec *wire.Record, host string, level batch.Level) error {
	if o.rows == 0 {
		o.min, o.max = rec.Time, rec.Time
	}
	o.min, o.max = min(o.min, rec.Time), max(o.max, rec.Time)
	o.rows++
	if o.summary != nil {
		o.summary.addRecord(rec, host, level)
	}
	return o.rowWriter.addRecord(rec, host, level)
}

// finish completes the file on disk, and returns the name to give it.
func (o *output) finish(generation int, id string, r *ranges, segments []string) (name, error) {
	o.parquet.SetKeyValueMetadata(metaVersion, "1")
	o.parquet.SetKeyValueMetadata(metaRanges, r.text())
	o.parquet.SetKeyValueMetadata(metaSegments, joinIDs(segments))
	if err := o.rowWriter.close(); err != nil {
		return name{}, err
	}
	return nameOf(o.min, o.max, generation, o.rows, id), o.file.finish()
}
