// Package history stores records in a directory for days, as Parquet files that DuckDB,
// pandas, and ClickHouse can read directly, and answers queries about them. It does not
// know where records come from, or the names of flows.
//
// # The directory
//
//	lock                   held by the Store that writes; readers never lock
//	tmp/                   files being written; emptied by Open
//	pending/ID.parquet     sealed segments that are not committed
//	2026-11-25/15/*.parquet  files committed in that hour, UTC
//	damaged/               unreadable files, set aside by Open
//
// The name of a committed file describes its contents, so that most files need not be
// opened:
//
//	20261125T150000_20261125T150011_0_262144_ID.parquet
//
// consists of the second of its earliest record, the second after its latest, how often
// it has been compacted, its number of rows, and its ID.
//
// # Compaction
//
// Files of one hour are compacted into one, and a file ID.replaces lists the originals.
// Until ID.parquet exists, the list is void; from then on, the files on it must not be
// read. They are removed, followed by the list. So there is no moment at which a
// reader, or a power failure, sees rows twice or misses some.
package history
