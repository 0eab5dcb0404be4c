// Package clickhouse writes batches of records into a table of a ClickHouse
// server, over HTTP or HTTPS in the format RowBinary. docs/clickhouse has the
// table's definition; any version since 18.16 takes it.
//
// # Counted once
//
// A row has its agent, boot and number, which name a record. The server gets rows
// in blocks, each by one INSERT with a query ID of its own. If it is not certain
// whether one was done, because the connection broke, the sink waits until the
// server does not work on it any more, asks which of its rows are there, and
// sends the others again. So a table, and what is summed up from it by
// materialized views, has every row once. The table is a ReplacingMergeTree all the
// same: two sinks that write the same batches meet there.
//
// # What is given up
//
// Publishing never waits. While the server is away or slow, blocks are kept
// in memory up to a limit; then the oldest is given up, and its rows are counted.
package clickhouse
