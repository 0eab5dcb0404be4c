package decode

import "math/bits"

// key is the key of a table: two addresses as in wire.Record, and eight bytes of other
// properties that distinguish datagrams or connections.
type key [5]uint64

// seed makes the hash function of each decoder different, so that nobody can send
// packets that all fall into one bucket.
type seed [3]uint64

// hash mixes k with 64x64-bit multiplications and folds their 128-bit products.
func (s *seed) hash(k *key) uint32 {
	h1, l1 := bits.Mul64(k[0]^s[0], k[1]^s[1])
	h2, l2 := bits.Mul64(k[2]^s[1], k[3]^s[2])
	h3, l3 := bits.Mul64(k[4]^h1^l1^s[2], h2^l2^s[0])
	return uint32(h3 ^ l3)
}

// table stores a fixed number of values by key, and evicts the least recently used one
// to make room. Its memory is allocated once.
//
// Entries are in the chain of their bucket and in a list from the newest to the oldest.
// Both are linked by index; entry 0 is the list's anchor, so in a chain index 0 means
// "none".
type table[V any] struct {
	buckets []uint32 // first entry of each chain
	entries []entry[V]
	used    uint32 // entries 1..used are, or were, in use
	live    int
	free    uint32 // chain of deleted entries
	// evicted is the number of values evicted to make room.
	evicted uint64
}

type entry[V any] struct {
	key          key
	value        V
	bucket       uint32
	chain        uint32 // next entry in the bucket
	newer, older uint32
}

func newTable[V any](n int) table[V] {
	size := 1 << bits.Len(uint(2*n-1))
	return table[V]{
		buckets: make([]uint32, size),
		entries: make([]entry[V], n+1),
	}
}

// get returns k's value, valid until the next put or delete, or nil.
func (t *table[V]) get(k *key, hash uint32) *V {
	if t.live == 0 {
		return nil
	}
	i := t.buckets[hash&uint32(len(t.buckets)-1)]
	for i != 0 {
		e := &t.entries[i]
		if e.key == *k {
			if t.entries[0].older != i {
				t.unlink(e)
				t.link(e, i)
			}
			return &e.value
		}
		i = e.chain
	}
	return nil
}

// put returns where to store the value of k, which must not be in the table. The
// location may still hold the old value of another key.
func (t *table[V]) put(k *key, hash uint32) *V {
	i := t.free
	switch {
	case i != 0:
		t.free = t.entries[i].chain
	case int(t.used) < len(t.entries)-1:
		t.used++
		i = t.used
	default:
		i = t.entries[0].newer // the oldest
		t.evicted++
		t.live--
		t.unlink(&t.entries[i])
		t.unchain(&t.entries[i], i)
	}
	e := &t.entries[i]
	e.key = *k
	e.bucket = hash & uint32(len(t.buckets)-1)
	e.chain = t.buckets[e.bucket]
	t.buckets[e.bucket] = i
	t.link(e, i)
	t.live++
	return &e.value
}

// delete removes k if it is present.
func (t *table[V]) delete(k *key, hash uint32) {
	i := t.buckets[hash&uint32(len(t.buckets)-1)]
	for i != 0 && t.entries[i].key != *k {
		i = t.entries[i].chain
	}
	if i == 0 {
		return
	}
	e := &t.entries[i]
	t.unlink(e)
	t.unchain(e, i)
	e.chain = t.free
	t.free = i
	t.live--
}

// link makes entry i the newest.
func (t *table[V]) link(e *entry[V], i uint32) {
	anchor := &t.entries[0]
	e.newer, e.older = 0, anchor.older
	t.entries[anchor.older].newer = i
	anchor.older = i
}

func (t *table[V]) unlink(e *entry[V]) {
	t.entries[e.newer].older = e.older
	t.entries[e.older].newer = e.newer
}

func (t *table[V]) unchain(e *entry[V], i uint32) {
	at := &t.buckets[e.bucket]
	for *at != i {
		at = &t.entries[*at].chain
	}
	*at = e.chain
}
