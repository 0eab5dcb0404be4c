package rollup

import (
	"cmp"
	"net/netip"
	"slices"
)

// timeline is a snapshot's frames, in memory and on disk. It is immutable.
type timeline struct {
	tiers [memoryTiers][]*frame
	// The tier, if it has begun, contains everything before until (seconds).
	until [len(tierSpecs)]int64
	begun [len(tierSpecs)]bool
	// whole is the start from which the tier in memory is complete; the archive may
	// contain earlier spans that an earlier run has counted.
	whole  [memoryTiers]int64
	disk   *archived // nil: nothing is kept on disk
	open   []*frame  // of seconds that are still open, oldest first
	keys   []numbered
	owners map[[16]byte]int
	// hostOf maps each agent to the first of the agents on the same host.
	hostOf []int
	// directions holds the agents that report on which side packets were seen.
	directions []bool
	// members is Config.Members.
	members func(netip.Addr, Window) Membership
	// blanks of each agent.
	blanks [][]Blank
	rows   int
}

// key returns the key with a number, or nil if it is forgotten.
func (h *timeline) key(id uint32) *entryKey {
	if i, ok := findKey(h.keys, id); ok {
		return &h.keys[i].key
	}
	return nil
}

func (h *timeline) owner(a [16]byte) int {
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

// first returns where the tier's frames begin.
func (h *timeline) first(i int) (start int64, ok bool) {
	if i < memoryTiers && len(h.tiers[i]) > 0 {
		start, ok = h.tiers[i][0].start, true
	}
	if parts := h.disk.parts(i); len(parts) > 0 && (!ok || parts[0].first < start) {
		start, ok = parts[0].first, true
	}
	return start, ok
}

// inMemory returns the tier's frames from from on that are as complete as the
// archive's, or newer. Earlier ones must be read from disk.
func (h *timeline) inMemory(i int, from int64) []*frame {
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

// tier calls yield with the tier's frames of a window, in order of time.
func (h *timeline) tier(i int, from, to int64, yield func(*frame)) {
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

// each calls yield with the frames of a fitted window in order of time, each second
// once: the longest frames that fit into its steps, and shorter ones where the longer
// ones do not exist yet. A frame is valid until yield returns.
func (h *timeline) each(w Window, yield func(*frame)) {
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

// eachKeyed is each for callers that add up entries, whose numbers are resolved by key
// (nil: forgotten). done is called after frames with the same numbering, before frames
// with another one.
func (h *timeline) eachKeyed(w Window, yield func(f *frame, key func(uint32) *entryKey), done func(key func(uint32) *entryKey)) {
	var in *contents
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
