-- Tables for PCapper's records; any ClickHouse since 18.16 takes them:
--     clickhouse-client -n -d DATABASE < tables.sql
-- or one statement after the other over HTTP. docs/clickhouse.md explains the columns.

CREATE TABLE records
(
    time DateTime('UTC'),
    ns UInt32,
    agent String,
    boot UInt64,
    number UInt64,
    level Enum8('packets' = 0, 'flows' = 1, 'top' = 2),
    src FixedString(16),
    dst FixedString(16),
    src_port UInt16,
    dst_port UInt16,
    proto UInt8,
    bytes UInt32,
    packets UInt32,
    mgen_flow Nullable(UInt32),
    mgen_seq Nullable(UInt32),
    mgen_time Nullable(Int64),
    direction Enum8('unknown' = 0, 'out' = 1, 'in' = 2),
    flags UInt16
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (agent, time, ns, boot, number);

CREATE MATERIALIZED VIEW minutes
(
    minute DateTime('UTC'),
    agent String,
    direction Enum8('unknown' = 0, 'out' = 1, 'in' = 2),
    proto UInt8,
    mgen_flow Int64,
    records UInt64,
    packets UInt64,
    bytes UInt64
)
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (agent, minute, direction, proto, mgen_flow)
AS SELECT
    toStartOfMinute(time) AS minute,
    agent,
    direction,
    proto,
    ifNull(toInt64(mgen_flow), -1) AS mgen_flow,
    count() AS records,
    sum(toUInt64(packets)) AS packets,
    sum(toUInt64(bytes)) AS bytes
FROM records
GROUP BY minute, agent, direction, proto, mgen_flow;

CREATE VIEW packets AS
SELECT
    time,
    ns,
    agent,
    level,
    replaceRegexpOne(IPv6NumToString(src), '^::ffff:([0-9]+[.])', '\\1') AS src,
    replaceRegexpOne(IPv6NumToString(dst), '^::ffff:([0-9]+[.])', '\\1') AS dst,
    src_port,
    dst_port,
    proto,
    bytes,
    packets,
    mgen_flow,
    mgen_seq,
    mgen_time,
    direction,
    bitAnd(flags, 512) != 0 AS relayed
FROM records;
