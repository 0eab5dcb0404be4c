package collector

import (
	"strconv"
	"strings"

	"github.com/pcapper/pcapper/wire"
)

// Row is a flow number of the file, regardless of the number of its lines; the last row
// is the traffic of no flow.
type Row struct {
	Name   string // the number, or wire.Unmatched
	Number uint32 // valid unless Name is wire.Unmatched
	Detail string // definition of the flow: 2000, M1000-1099
	Former bool   // no longer in the file; see View.Rows
}

// mostRanges is the maximum number of a flow's ranges that are displayed; no window has
// room for more.
const mostRanges = 30

// rowsOf returns the rows in file order, and the row of each flow line.
func rowsOf(flows []Flow) (rows []Row, rowOf []int) {
	byNumber := make(map[uint32]int)
	var ranges [][]string
	for _, f := range flows {
		row, ok := byNumber[f.ID]
		if !ok {
			row = len(rows)
			byNumber[f.ID] = row
			rows = append(rows, Row{Name: strconv.FormatUint(uint64(f.ID), 10), Number: f.ID})
			ranges = append(ranges, nil)
		}
		rowOf = append(rowOf, row)
		if len(ranges[row]) < mostRanges {
			ranges[row] = append(ranges[row], f.Range())
		}
	}
	for row := range rows {
		rows[row].Detail = strings.Join(ranges[row], ", ")
	}
	return append(rows, Row{Name: wire.Unmatched, Detail: "no flow"}), rowOf
}
