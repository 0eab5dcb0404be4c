package rollup

import "time"

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

// maxOpen bounds Config.Late and Config.Future, in seconds.
const maxOpen = 60

// wholeSeconds rounds d up, to maxOpen at most; 0 is otherwise.
func wholeSeconds(d time.Duration, otherwise int64) int64 {
	if d <= 0 {
		return otherwise
	}
	return min(int64((d+time.Second-1)/time.Second), maxOpen)
}

// floorTo is the multiple of span at or before t.
func floorTo(t, span int64) int64 {
	r := t % span
	if r < 0 {
		r += span
	}
	return t - r
}
