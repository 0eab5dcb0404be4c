package rollup

import (
	"cmp"
	"slices"
)

// A tier keeps frames of one length: the first memoryTiers in memory, all of
// them in an Archive, if there is one.
type tierSpec struct {
	span  int64 // seconds that a frame stands for
	keep  int64 // seconds that are kept in memory
	share int64 // percent of the budget
	disk  diskSpec
}

// diskSpec is how an Archive keeps a tier.
type diskSpec struct {
	frames int64 // that a file may have: about 10 MB with much traffic
	keep   int64 // seconds; 0: as long as the archive keeps anything
	share  int64 // percent of the archive's size that are not taken away while others have more than theirs
}

const (
	hour = 3600
	day  = 24 * hour
)

// Each span divides the next one, by so little that no question looks at more than
// some thousand frames.
var tierSpecs = [...]tierSpec{
	{span: 1, keep: hour, share: 55, disk: diskSpec{frames: 300, keep: 6 * hour, share: 15}},
	{span: 10, keep: 6 * hour, share: 28, disk: diskSpec{frames: 360, keep: 2 * day, share: 10}},
	{span: 60, keep: day, share: 17, disk: diskSpec{frames: 360, keep: 31 * day, share: 30}},
	{span: 600, disk: diskSpec{frames: 144, keep: 366 * day, share: 20}},
	{span: hour, disk: diskSpec{frames: 168, share: 15}},
	{span: 6 * hour, disk: diskSpec{frames: 120, share: 6}},
	{span: day, disk: diskSpec{frames: 120, share: 4}},
}

// memoryTiers are kept in memory too. With an archive that is a part of what
// they keep without one: the rest is read from disk.
const (
	memoryTiers = 3
	archivedTo  = 4
)

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
	tiers [memoryTiers][]*frame
	// What came before until (seconds) is in the tier, if it has begun.
	until [len(tierSpecs)]int64
	begun [len(tierSpecs)]bool
	// whole: earlier spans may have something in the archive that an earlier run
	// has counted.
	whole  [memoryTiers]int64
	disk   *archived // nil: nothing is kept on disk
	open   []*frame  // of seconds that are still open, oldest first
	keys   []numbered
	owners map[[16]byte]int
	// hostOf is the first of the agents on the same host, of each agent.
	hostOf []int
	// directions: the agent says on which side packets were seen.
	directions []bool
	// blanks of each agent.
	blanks [][]Blank
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
	if h.disk != nil {
		if host, ok := h.disk.owners[a]; ok {
			return host
		}
	}
	return -1
}

// first is where the tier's frames begin.
func (h *history) first(i int) (start int64, ok bool) {
	if i < memoryTiers && len(h.tiers[i]) > 0 {
		start, ok = h.tiers[i][0].start, true
	}
	if parts := h.disk.parts(i); len(parts) > 0 && (!ok || parts[0].first < start) {
		start, ok = parts[0].first, true
	}
	return start, ok
}

// inMemory are the tier's frames from from on that are as good as the archive's
// or newer. What is before the first of them is to be looked for on disk.
func (h *history) inMemory(i int, from int64) []*frame {
	if i >= memoryTiers {
		return nil
	}
	frames := h.tiers[i]
	at, _ := slices.BinarySearchFunc(frames, from, func(f *frame, t int64) int { return cmp.Compare(f.start, t) })
	frames = frames[at:]
	for len(frames) > 0 && frames[0].start < h.whole[i] && h.disk.has(i, frames[0].start) {
		frames = frames[1:]
	}
	return frames
}

// tier gives the tier's frames of a window from from on, in order of time.
func (h *history) tier(i int, from, to int64, yield func(*frame)) {
	frames := h.inMemory(i, from)
	end := to
	if i > 0 {
		end = min(end, h.until[i]) // the newest span is not over
	}
	if len(frames) > 0 {
		end = min(end, frames[0].start)
	}
	h.disk.each(i, from, end, yield)
	for _, f := range frames {
		if f.start >= to {
			break
		}
		yield(f)
	}
}

// each gives the frames of a fitted window in order of time, each second once:
// the longest that fit into its steps, and shorter ones where there are none
// of those yet. A frame is valid until yield returns.
func (h *history) each(w Window, yield func(*frame)) {
	from := w.From
	for i := len(tierSpecs) - 1; i >= 0; i-- {
		if w.Step%tierSpecs[i].span != 0 || !h.begun[i] {
			continue
		}
		h.tier(i, from, w.To, yield)
		from = max(from, h.until[i])
	}
	for _, f := range h.open {
		if f.start >= w.From && f.start < w.To {
			yield(f)
		}
	}
}

// eachKeyed is each for who adds up entries, whose numbers key resolves (nil:
// forgotten). done is called after frames with the same numbers, before there
// are others.
func (h *history) eachKeyed(w Window, yield func(f *frame, key func(uint32) *entryKey), done func(key func(uint32) *entryKey)) {
	var in *chunk
	key := h.key
	h.each(w, func(f *frame) {
		if f.in != in {
			done(key)
			in, key = f.in, h.key
			if in != nil {
				in.loadKeys()
				key = in.key
			}
		}
		yield(f, key)
	})
	done(key)
}
