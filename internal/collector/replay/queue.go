package replay

import "math"

// queue is a heap of logs by the time of their next record, and by file for equal
// times. container/heap would make interface calls, which take longer than parsing a
// line.
type queue []*log

func (q queue) less(i, j int) bool {
	a, b := q[i], q[j]
	return a.rec.Time < b.rec.Time || a.rec.Time == b.rec.Time && a.file < b.file
}

func (q *queue) push(l *log) {
	*q = append(*q, l)
	for i := len(*q) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.less(i, up) {
			return
		}
		(*q)[i], (*q)[up] = (*q)[up], (*q)[i]
		i = up
	}
}

// pop removes the first log.
func (q *queue) pop() {
	last := len(*q) - 1
	(*q)[0] = (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	q.fix()
}

// fix restores the order after the first log's record has changed.
func (q queue) fix() {
	for i := 0; ; {
		least := i
		for down := 2*i + 1; down <= 2*i+2 && down < len(q); down++ {
			if q.less(down, least) {
				least = down
			}
		}
		if least == i {
			return
		}
		q[i], q[least] = q[least], q[i]
		i = least
	}
}

// second returns up to which time the first log precedes all others.
func (q queue) second() int64 {
	t := int64(math.MaxInt64)
	for i := 1; i <= 2 && i < len(q); i++ {
		// Of logs with the same time, the first file comes first.
		at := q[i].rec.Time
		if q[i].file < q[0].file {
			at--
		}
		t = min(t, at)
	}
	return t
}
