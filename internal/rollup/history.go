package rollup

import (
	"slices"
)

// A tier keeps frames of one length.
type tierSpec struct {
	span  int64 // seconds that a frame stands for
	keep  int64 // seconds that are kept
	share int64 // percent of the budget
}

var tierSpecs = [...]tierSpec{
	{span: 1, keep: 3600, share: 55},
	{span: 10, keep: 6 * 3600, share: 28},
	{span: 60, keep: 24 * 3600, share: 17},
}

// mostEntries is how many entries of each kind a frame has at most.
var mostEntries = [nkinds]int{pairs: 2000, talks: 1000, mgens: 500}

// leastEntries are kept even if the budget is not enough.
var leastEntries = [nkinds]int{pairs: 50, talks: 50, mgens: 20}

// entryBytes is what an entry of each kind takes in a frame, as measured with
// much traffic.
var entryBytes = [nkinds]int64{pairs: 9, talks: 9, mgens: 36}

// limits are how many entries of each kind a frame may have, of the so many
// that there are: all, or an equal part of each kind if that is more than the
// budget for frames, less the cells, allows.
func limits(budget int64, cells int, have [nkinds]int) (most [nkinds]int) {
	room := max(budget-frameOverhead-int64(cells)*7, 0)
	need := int64(0)
	for kind, n := range have {
		most[kind] = min(n, mostEntries[kind])
		need += int64(most[kind]) * entryBytes[kind]
	}
	if need <= room {
		return most
	}
	for kind := range most {
		most[kind] = max(int(int64(most[kind])*room/need), min(most[kind], leastEntries[kind]))
	}
	return most
}

// leastFrames are kept whatever they take: what the next tier does not have yet.
const leastFrames = 64

// tier is the frames of one length, oldest first. Only the owner changes it;
// what snapshots hold of it stays as it is.
type tier struct {
	tierSpec
	budget int64
	frames []*frame
	size   int64
	// sum collects frames of the tier before for the next one of this.
	sum   *tally
	begun bool
	from  int64
}

// perFrame is what each frame may take if all are to be kept.
func (t *tier) perFrame() int64 { return t.budget / (t.keep / t.span) }

func (t *tier) push(f *frame) {
	if len(t.frames) == cap(t.frames) {
		// A little room, so that what is dropped below is not held for long.
		t.frames = append(make([]*frame, 0, len(t.frames)+len(t.frames)/8+16), t.frames...)
	}
	t.frames = append(t.frames, f)
	t.size += f.size()
	for len(t.frames) > leastFrames && (t.size > t.budget || t.frames[0].end() <= f.end()-t.keep) {
		t.size -= t.frames[0].size()
		t.frames = t.frames[1:] // snapshots may still look at the first
	}
}

// directory numbers the keys of entries. Numbers only grow, so that the list of
// keys is sorted by them, and what a snapshot holds of it stays as it is.
type directory struct {
	of   map[entryKey]uint32
	keys []numbered
	used []int64 // the second of each key's last use
	now  int64
	next uint32
}

type numbered struct {
	id  uint32
	key entryKey
}

// maxKeys bounds the directory. Half of it is forgotten when it is full, what
// was not used for longest first.
const maxKeys = 1 << 17

func newDirectory() *directory { return &directory{of: make(map[entryKey]uint32), next: 1} }

func (d *directory) id(k *entryKey) uint32 {
	if id, ok := d.of[*k]; ok {
		if i, ok := d.find(id); ok {
			d.used[i] = d.now
		}
		return id
	}
	if len(d.keys) >= maxKeys {
		d.forget()
	}
	if d.next == 0 { // after 2^32 keys: none of the first is left
		d.of, d.keys, d.used, d.next = make(map[entryKey]uint32), nil, nil, 1
	}
	id := d.next
	d.next++
	d.of[*k] = id
	d.keys = append(d.keys, numbered{id, *k})
	d.used = append(d.used, d.now)
	return id
}

func (d *directory) find(id uint32) (int, bool) { return findKey(d.keys, id) }

func findKey(keys []numbered, id uint32) (int, bool) {
	// Without gaps the number tells where it is.
	if len(keys) > 0 {
		if i := id - keys[0].id; int(i) < len(keys) && keys[i].id == id {
			return int(i), true
		}
	}
	return slices.BinarySearchFunc(keys, id, func(n numbered, id uint32) int {
		switch {
		case n.id < id:
			return -1
		case n.id > id:
			return 1
		}
		return 0
	})
}

func (d *directory) forget() {
	uses := slices.Sorted(slices.Values(d.used))
	limit := uses[len(uses)/2]
	keys, used := make([]numbered, 0, maxKeys), make([]int64, 0, maxKeys)
	spare := len(uses) / 4 // of those used at limit, so that at least a quarter goes
	for i, n := range d.keys {
		keep := d.used[i] > limit
		if d.used[i] == limit && spare > 0 {
			spare--
			keep = true
		}
		if !keep {
			delete(d.of, n.key)
			continue
		}
		keys, used = append(keys, n), append(used, d.used[i])
	}
	d.keys, d.used = keys, used
}

// history is what a snapshot holds: nothing in it changes.
type history struct {
	tiers [len(tierSpecs)][]*frame
	// What came before until (seconds) is in the tier, if it has begun.
	until  [len(tierSpecs)]int64
	begun  [len(tierSpecs)]bool
	open   []*frame // of seconds that are still open, oldest first
	keys   []numbered
	owners map[[16]byte]int
	rows   int
}

// key is what an entry's number stands for, or nil if it is forgotten.
func (h *history) key(id uint32) *entryKey {
	if i, ok := findKey(h.keys, id); ok {
		return &h.keys[i].key
	}
	return nil
}

func (h *history) owner(a [16]byte) int {
	if host, ok := h.owners[a]; ok {
		return host
	}
	return -1
}
