package web

import (
	"cmp"
	"sync"

	"github.com/pcapper/pcapper/internal/collector/api"
	"github.com/pcapper/pcapper/internal/collector/rollup"
)

// query is a request for a view of a snapshot. Equal queries have equal answers.
type query struct {
	kind string // frame, overview, hosts, matrix, talkers, mgen or history
	// relative means that window's From and To are relative to the second after
	// Complete.
	relative bool
	window   rollup.Window
	limit    int          // of rows; 0: all, but at most maxRows of a table
	id       uint32       // of history
	tuple    rollup.Tuple // likewise
}

// maxCached bounds the number of answers kept per snapshot.
const maxCached = 256

// cache holds the answers of the newest snapshot, each computed and encoded once, for
// the first request.
type cache struct {
	mu      sync.Mutex
	snap    *rollup.Snapshot
	answers map[query]*answer
}

// answer is encoded JSON, or the pending work of encoding it.
type answer struct {
	once   sync.Once
	json   part
	before *part // what precedes json in an event
}

// get returns the answer of snap to q.
func (c *cache) get(source Source, snap *rollup.Snapshot, q query) *answer {
	a := c.find(snap, q)
	a.once.Do(func() {
		a.json.plain = encode(ask(source, snap, q))
		a.before = eventHead(q.kind)
	})
	return a
}

// find returns the entry for an answer. It is shared, unless there are too many or snap
// is no longer the newest.
func (c *cache) find(snap *rollup.Snapshot, q query) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.snap == nil || snap.Seq > c.snap.Seq {
		c.snap, c.answers = snap, make(map[query]*answer)
	}
	a := c.answers[q]
	if a != nil && c.snap == snap {
		return a
	}
	a = new(answer)
	if c.snap == snap && len(c.answers) < maxCached {
		c.answers[q] = a
	}
	return a
}

func ask(source Source, snap *rollup.Snapshot, q query) any {
	w := q.window
	if q.relative {
		w.From += snap.Complete + 1
		w.To += snap.Complete + 1
	}
	rows := cmp.Or(q.limit, maxRows)
	switch q.kind {
	case "overview":
		return overviewOf(snap, snap.Overview(w))
	case "hosts":
		return hostsOf(snap, w)
	case "matrix":
		return matrixOf(source, snap, snap.Matrix(w, rows), snap.Groups(w))
	case "talkers":
		return talkersOf(source, snap, snap.Talkers(w, rows))
	case "mgen":
		return mgenOf(source, snap, snap.MGEN(w), q.limit)
	case "history":
		return mgenHistoryOf(snap, snap.MGENSeries(q.id, q.tuple, w))
	}
	return frameOf(source, snap)
}

// encode returns v as JSON.
func encode(v any) []byte { return api.Encode(v) }
