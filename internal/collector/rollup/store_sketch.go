package rollup

// sketch keeps the heaviest keys of a stream in bounded memory: weighted space-saving
// (Metwally, Agrawal, El Abbadi: Efficient computation of frequent and top-k elements
// in data streams, ICDT 2005). Every key with more than 1/most of the total weight is
// in it. A slot's value covers only what arrived since its key got the slot: it is
// never too high, and exact as long as nothing has been evicted.
type sketch[K comparable, V any] struct {
	most  int
	index map[K]int32
	slots []slot[K, V]
	// heap has slot numbers, lightest first. It is built when the sketch is full,
	// because the lightest is not needed before that.
	heap []int32
	// evicted is called with what a key had when it lost its slot.
	evicted func(*K, *V)
}

type slot[K comparable, V any] struct {
	key    K
	value  V
	weight uint64 // at least that of value
	at     int32  // in heap
}

func newSketch[K comparable, V any](most int, evicted func(*K, *V)) *sketch[K, V] {
	return &sketch[K, V]{most: most, index: make(map[K]int32), evicted: evicted}
}

// addWeight gives the value of key, which grew by a weight. It is valid until the
// next call.
func (s *sketch[K, V]) addWeight(key *K, weight uint64) *V {
	i, ok := s.index[*key]
	switch {
	case ok:
	case len(s.slots) < s.most:
		i = int32(len(s.slots))
		s.slots = append(s.slots, slot[K, V]{key: *key})
		s.index[*key] = i
	default:
		i = s.replace(key)
	}
	slot := &s.slots[i]
	slot.weight += weight
	if len(s.heap) > 0 {
		s.sink(slot.at)
	}
	return &slot.value
}

// replace gives the lightest key's slot to another key, which inherits its weight.
func (s *sketch[K, V]) replace(key *K) int32 {
	if len(s.heap) == 0 {
		for i := range s.slots {
			s.heap = append(s.heap, int32(i))
			s.slots[i].at = int32(i)
		}
		for at := len(s.heap)/2 - 1; at >= 0; at-- {
			s.sink(int32(at))
		}
	}
	i := s.heap[0]
	slot := &s.slots[i]
	s.evicted(&slot.key, &slot.value)
	delete(s.index, slot.key)
	var zero V
	slot.key, slot.value = *key, zero
	s.index[*key] = i
	return i
}

// sink restores the heap order below a slot that became heavier.
func (s *sketch[K, V]) sink(at int32) {
	moved := s.heap[at]
	weight := s.slots[moved].weight
	for {
		child := 2*at + 1
		if int(child) >= len(s.heap) {
			break
		}
		if int(child)+1 < len(s.heap) && s.slots[s.heap[child+1]].weight < s.slots[s.heap[child]].weight {
			child++
		}
		if s.slots[s.heap[child]].weight >= weight {
			break
		}
		s.heap[at] = s.heap[child]
		s.slots[s.heap[at]].at = at
		at = child
	}
	s.heap[at] = moved
	s.slots[moved].at = at
}

// reset empties the sketch and keeps its memory.
func (s *sketch[K, V]) reset() {
	clear(s.index)
	s.slots, s.heap = s.slots[:0], s.heap[:0]
}
