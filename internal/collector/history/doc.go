// Package history keeps records in a directory, for days: Parquet files that
// DuckDB, pandas or ClickHouse read as they are, and questions to them. It does not
// know where records come from, nor what flows are named.
//
// # The directory
//
//	lock                   held by the Store that writes; readers never lock
//	tmp/                   files that are being written; emptied by Open
//	pending/ID.parquet     sealed segments that nobody has committed
//	2026-11-25/15/*.parquet  what was committed in that hour, UTC
//	damaged/               what could not be read, set aside by Open
//
// A committed file's name tells what is in it, so that most need not be opened:
//
//	20261125T150000_20261125T150011_0_262144_ID.parquet
//
// is the second of its earliest record, the one after its latest, how often it has
// been compacted, and its rows.
//
// # Compaction
//
// Files of one hour become one, of which a file ID.replaces names the others. Until
// ID.parquet is there the list means nothing; from then on, those on the list are
// not to be read, and are removed; then the list is. So there is no moment at which
// a reader, or a power failure, finds rows twice or misses some.
package history
