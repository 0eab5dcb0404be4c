package decode

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestTable compares with a slow model: a list from oldest to newest.
func TestTable(t *testing.T) {
	for _, size := range []int{1, 2, 3, 16, 100} {
		rng := rand.New(rand.NewPCG(uint64(size), 1))
		tb := newTable[int](size)
		s := seed{rng.Uint64(), rng.Uint64(), rng.Uint64()}
		var order []key
		values := map[key]int{}
		evicted := uint64(0)
		for i := range 20000 {
			k := key{uint64(rng.IntN(2 * size)), 4: uint64(rng.IntN(2))}
			hash := s.hash(&k)
			if size <= 3 {
				hash = 0 // all keys in one chain
			}
			at := slices.Index(order, k)
			got := tb.get(&k, hash)
			if (got != nil) != (at >= 0) || got != nil && *got != values[k] {
				t.Fatalf("size %d, step %d: get %v = %v, model %v (%d)", size, i, k, got, at >= 0, values[k])
			}
			switch {
			case at >= 0 && rng.IntN(4) == 0:
				tb.delete(&k, hash)
				tb.delete(&k, hash) // not there any more: nothing happens
				order = slices.Delete(order, at, at+1)
			case at >= 0: // get made it the newest
				order = append(slices.Delete(order, at, at+1), k)
			default:
				if len(order) == size {
					order = order[1:]
					evicted++
				}
				order = append(order, k)
				values[k] = i
				*tb.put(&k, hash) = i
			}
			if tb.live != len(order) || tb.evicted != evicted {
				t.Fatalf("size %d, step %d: %d live, %d evicted, model %d, %d", size, i, tb.live, tb.evicted, len(order), evicted)
			}
		}
	}
}

// TestHash checks that keys which differ in one bit spread over the buckets,
// and that two seeds give two orders.
func TestHash(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	a := seed{rng.Uint64(), rng.Uint64(), rng.Uint64()}
	b := seed{rng.Uint64(), rng.Uint64(), rng.Uint64()}
	seen := map[uint32]int{}
	same := 0
	for word := range 5 {
		for bit := range 64 {
			var k key
			k[word] = 1 << bit
			seen[a.hash(&k)%1024]++
			if a.hash(&k)%1024 == b.hash(&k)%1024 {
				same++
			}
		}
	}
	for h, n := range seen {
		if n > 6 { // 320 keys in 1024 buckets
			t.Errorf("%d keys in bucket %d", n, h)
		}
	}
	if same > 10 {
		t.Errorf("%d of 320 keys in the same bucket with another seed", same)
	}
}
