package rollup

// leastEntries are kept even if they exceed the budget.
var leastEntries = [nkinds]int{pairs: 50, talks: 50, mgens: 20}

// entryBytes is the size of an entry of each kind in a frame, as measured with much
// traffic.
var entryBytes = [nkinds]int64{pairs: 9, talks: 9, mgens: 36}

// limits returns how many of the existing entries of each kind a frame may have: all,
// or the same share of each kind if all would exceed the budget for frames, minus the
// cells.
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

// leastFrames are kept regardless of their size: what the next tier does not have yet.
const leastFrames = 64

// tier is the frames of one length, oldest first. Only the owner modifies it; the part
// held by snapshots stays unchanged.
type tier struct {
	tierSpec
	budget int64
	frames []*frame
	size   int64
	// sum collects frames of the previous tier for the next one of this tier.
	sum   *tally
	begun bool
	from  int64
}

// perFrame is the size that each frame may have if all are to be kept.
func (t *tier) perFrame() int64 { return t.budget / (t.keep / t.span) }

func (t *tier) push(f *frame) {
	if len(t.frames) == cap(t.frames) {
		// A little extra room, so that what is dropped below is not kept alive for
		// long.
		t.frames = append(make([]*frame, 0, len(t.frames)+len(t.frames)/8+16), t.frames...)
	}
	t.frames = append(t.frames, f)
	t.size += f.size()
	for len(t.frames) > leastFrames && (t.size > t.budget || t.frames[0].end() <= f.end()-t.keep) {
		t.size -= t.frames[0].size()
		t.frames = t.frames[1:] // snapshots may still use the first
	}
}
