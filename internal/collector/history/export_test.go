package history

// SummarizeFrom sets the fewest records that are summed up.
func SummarizeFrom(rows int64) { summaryRows = rows }
