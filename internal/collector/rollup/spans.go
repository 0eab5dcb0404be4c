package rollup

import "time"

// tierSpec describes a tier, which keeps frames of one length: the first memoryTiers
// tiers in memory and, if there is an Archive, all tiers on disk.
type tierSpec struct {
	span  int64 // seconds per frame
	keep  int64 // seconds kept in memory
	share int64 // percent of the budget
	disk  diskSpec
}

// diskSpec is how an Archive keeps a tier.
type diskSpec struct {
	frames int64 // maximum per file: about 10 MB with much traffic
	keep   int64 // seconds; 0: as long as the archive keeps anything
	share  int64 // percent of the archive's size that is reserved while others exceed their share
}

const (
	hour = 3600
	day  = 24 * hour
)

// Each span divides the next one, by a factor small enough that no query reads more
// than some thousand frames.
var tierSpecs = [...]tierSpec{
	{span: 1, keep: hour, share: 55, disk: diskSpec{frames: 300, keep: 6 * hour, share: 15}},
	{span: 10, keep: 6 * hour, share: 28, disk: diskSpec{frames: 360, keep: 2 * day, share: 10}},
	{span: 60, keep: day, share: 17, disk: diskSpec{frames: 360, keep: 31 * day, share: 30}},
	{span: 600, disk: diskSpec{frames: 144, keep: 366 * day, share: 20}},
	{span: hour, disk: diskSpec{frames: 168, share: 15}},
	{span: 6 * hour, disk: diskSpec{frames: 120, share: 6}},
	{span: day, disk: diskSpec{frames: 120, share: 4}},
}

// memoryTiers are also kept in memory. With an archive, memory holds only a part of
// what it holds without one: the rest is read from disk.
const (
	memoryTiers = 3
	archivedTo  = 4
)

// mostEntries is the maximum number of entries of each kind in a frame.
var mostEntries = [nkinds]int{pairs: 2000, talks: 1000, mgens: 500}

// maxOpen bounds Config.Late and Config.Future, in seconds.
const maxOpen = 60

// wholeSeconds rounds d up, to at most maxOpen; 0 yields otherwise.
func wholeSeconds(d time.Duration, otherwise int64) int64 {
	if d <= 0 {
		return otherwise
	}
	return min(int64((d+time.Second-1)/time.Second), maxOpen)
}

// floorTo returns the largest multiple of span that is not after t.
func floorTo(t, span int64) int64 {
	r := t % span
	if r < 0 {
		r += span
	}
	return t - r
}
