package replay

import "math"

// queue is a heap of logs by the time of their next record; of equal times,
// the file that comes first. container/heap would do it by interface calls,
// which take longer than reading a line.
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

// pop takes the first log away.
func (q *queue) pop() {
	last := len(*q) - 1
	(*q)[0] = (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	q.fix()
}

// fix puts the first log, whose record is another one, where it belongs.
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

// second is up to which time the first log is before all others.
func (q queue) second() int64 {
	t := int64(math.MaxInt64)
	for i := 1; i <= 2 && i < len(q); i++ {
		// A log with the same time as the first goes first if its file does.
		at := q[i].rec.Time
		if q[i].file < q[0].file {
			at--
		}
		t = min(t, at)
	}
	return t
}
