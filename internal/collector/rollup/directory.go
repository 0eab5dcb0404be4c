package rollup

import "slices"

// directory assigns numbers to the keys of entries. Numbers only increase, so the list
// of keys is sorted by them, and the part of it held by a snapshot stays unchanged.
type directory struct {
	of   map[entryKey]uint32
	keys []numbered
	used []int64 // second of each key's last use
	now  int64
	next uint32
}

type numbered struct {
	id  uint32
	key entryKey
}

// maxKeys bounds the directory. When it is full, the least recently used half is
// forgotten.
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
	if d.next == 0 { // after 2^32 keys, none of the first is left
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
	// Without gaps, the number gives the position.
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
	spare := len(uses) / 4 // of those used at limit, so that at least a quarter is forgotten
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
