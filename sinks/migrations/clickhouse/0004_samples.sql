-- GPU and engine samples as they were sent; `number`, `integer` or the histogram columns hold the value.

CREATE TABLE IF NOT EXISTS {database}.{local:samples}{on_cluster}
(
    name          LowCardinality(String) CODEC(ZSTD(1)),
    unit          LowCardinality(String) CODEC(ZSTD(1)),
    tenant        LowCardinality(String) CODEC(ZSTD(1)),
    device_id     LowCardinality(String) CODEC(ZSTD(1)),
    time          DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    start_time    DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    temporality   LowCardinality(String) CODEC(ZSTD(1)),
    monotonic     Bool CODEC(ZSTD(1)),
    number        Nullable(Float64) CODEC(ZSTD(1)),
    integer       Nullable(Int64) CODEC(T64, ZSTD(1)),
    count         Nullable(UInt64) CODEC(T64, ZSTD(1)),
    sum           Nullable(Float64) CODEC(ZSTD(1)),
    min           Nullable(Float64) CODEC(ZSTD(1)),
    max           Nullable(Float64) CODEC(ZSTD(1)),
    bounds        Array(Float64) CODEC(ZSTD(1)),
    bucket_counts Array(UInt64) CODEC(ZSTD(1)),
    attributes    Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    resource      Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    _partition    Int32 CODEC(ZSTD(1)),
    _offset       Int64 CODEC(Delta(8), ZSTD(1)),
    INDEX by_offset (_partition, _offset) TYPE minmax GRANULARITY 4
)
ENGINE = {engine:MergeTree}
PARTITION BY toDate(time, 'UTC')
ORDER BY (tenant, name, device_id, time)
SETTINGS {dedup_window}, ttl_only_drop_parts = 1;

-- distributed: samples by cityHash64(device_id)
