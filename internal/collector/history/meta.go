package history

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/pcapper/pcapper/wire/batch"
)

// Keys of the files' metadata.
const (
	metaRanges   = "pcapper.ranges"
	metaSegments = "pcapper.segments"
	metaVersion  = "pcapper.version"
)

// Range is a run of records of one stream of an agent, each of which a file contains
// once.
type Range struct {
	Agent string `json:"agent"`
	// Boot is hexadecimal, because JSON numbers are not precise enough for it.
	Boot  hex    `json:"boot"`
	First uint64 `json:"first"`
	Next  uint64 `json:"next"` // after the last
	// Dropped is the stream's count at the last of them: see batch.Batch.
	Dropped uint64 `json:"dropped,omitempty"`
}

type hex uint64

func (h hex) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%016x", uint64(h)), nil }

func (h *hex) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 16, 64)
	*h = hex(n)
	return err
}

// ranges collects what a file contains, from batches in any order.
type ranges struct{ list []Range }

func (r *ranges) addBatch(b *batch.Batch) {
	r.list = append(r.list, Range{b.Agent, hex(b.Boot), b.First, b.Next(), b.Dropped})
	if n := len(r.list); n >= 64 && n&(n-1) == 0 {
		r.join()
	}
}

// join sorts the ranges and merges consecutive ones.
func (r *ranges) join() {
	slices.SortFunc(r.list, func(a, b Range) int {
		return cmp.Or(cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Boot, b.Boot), cmp.Compare(a.First, b.First))
	})
	out := r.list[:0]
	for _, x := range r.list {
		if n := len(out); n > 0 && out[n-1].Agent == x.Agent && out[n-1].Boot == x.Boot && out[n-1].Next == x.First {
			out[n-1].Next = x.Next
			out[n-1].Dropped = max(out[n-1].Dropped, x.Dropped)
			continue
		}
		out = append(out, x)
	}
	r.list = out
}

func (r *ranges) text() string {
	r.join()
	text, err := json.Marshal(r.list)
	if err != nil {
		panic(err) // cannot fail for strings and numbers
	}
	return string(text)
}
