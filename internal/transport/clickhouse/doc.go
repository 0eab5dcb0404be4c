// Package clickhouse writes batches of records to a table of a ClickHouse server, over
// HTTP or HTTPS in the format RowBinary. docs/clickhouse has the definition of the
// table; every version since 18.16 accepts it.
//
// # Exactly once
//
// A row contains its agent, boot, and number, which identify a record. Rows are sent in
// blocks, one INSERT with a query ID of its own for each. If the outcome is uncertain,
// because the connection broke, the sink waits until the server has stopped processing
// the INSERT, queries which of its rows are there, and sends the others again. Thus the
// table, and what materialized views aggregate from it, has every row exactly once. The
// table is nevertheless a ReplacingMergeTree, for the case that two sinks write the
// same batches.
//
// # Losses
//
// Publishing never blocks. While the server is away or slow, blocks are kept in memory
// up to a limit; beyond it, the oldest is dropped, and its rows are counted.
package clickhouse
