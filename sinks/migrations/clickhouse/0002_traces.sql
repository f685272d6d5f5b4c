-- Trace summaries. Of one (trace, source partition, first offset) the highest version counts: read with FINAL or argMax.

CREATE TABLE IF NOT EXISTS {database}.{local:traces}{on_cluster}
(
    trace_id              FixedString(16) CODEC(NONE),
    version               Int32 CODEC(ZSTD(1)),
    tenant                LowCardinality(String) CODEC(ZSTD(1)),
    root_service          LowCardinality(String) CODEC(ZSTD(1)),
    root_operation        LowCardinality(String) CODEC(ZSTD(1)),
    root_span_id          String CODEC(ZSTD(1)),
    status                LowCardinality(String) CODEC(ZSTD(1)),
    start_time            DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    end_time              DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    duration_ns           Int64 CODEC(T64, ZSTD(1)),
    root_duration_ns      Int64 CODEC(T64, ZSTD(1)),
    span_count            Int32 CODEC(T64, ZSTD(1)),
    error_count           Int32 CODEC(T64, ZSTD(1)),
    duplicate_spans       Int32 CODEC(ZSTD(1)),
    dropped_spans         Int64 CODEC(ZSTD(1)),
    complete              Bool CODEC(ZSTD(1)),
    incomplete_reasons    Array(LowCardinality(String)) CODEC(ZSTD(1)),
    closed_by             LowCardinality(String) CODEC(ZSTD(1)),
    importance            LowCardinality(String) CODEC(ZSTD(1)),
    services              Array(Tuple(service LowCardinality(String), spans Int32, errors Int32, self_nanos Int64)) CODEC(ZSTD(1)),
    models                Array(LowCardinality(String)) CODEC(ZSTD(1)),
    stages                Array(Tuple(stage LowCardinality(String), spans Int32, self_nanos Int64, critical_nanos Int64)) CODEC(ZSTD(1)),
    critical_path         Array(Tuple(span_id String, offset_nanos Int64, duration_nanos Int64)) CODEC(ZSTD(1)),
    critical_path_omitted Int32 CODEC(ZSTD(1)),
    parallelism           Float64 CODEC(ZSTD(1)),
    input_tokens          Nullable(Int64) CODEC(T64, ZSTD(1)),
    output_tokens         Nullable(Int64) CODEC(T64, ZSTD(1)),
    cached_tokens         Nullable(Int64) CODEC(T64, ZSTD(1)),
    ttft_ns               Nullable(Int64) CODEC(T64, ZSTD(1)),
    ttft_queue_ns         Nullable(Int64) CODEC(T64, ZSTD(1)),
    ttft_prefill_ns       Nullable(Int64) CODEC(T64, ZSTD(1)),
    ttft_measured         Bool CODEC(ZSTD(1)),
    edges                 Array(Tuple(caller LowCardinality(String), callee LowCardinality(String), calls Int32, errors Int32, total_nanos Int64)) CODEC(ZSTD(1)),
    omitted_groups        Int32 CODEC(ZSTD(1)),
    cost_nano_usd         Nullable(Int64) CODEC(T64, ZSTD(1)),
    gpu_micros            Nullable(Int64) CODEC(T64, ZSTD(1)),
    cost_kind             LowCardinality(String) CODEC(ZSTD(1)),
    price_version         LowCardinality(String) CODEC(ZSTD(1)),
    clock_shifts          Array(Tuple(service LowCardinality(String), shift_nanos Int64, spans Int32)) CODEC(ZSTD(1)),
    source_partition      Int32 CODEC(ZSTD(1)),
    source_first_offset   Int64 CODEC(T64, ZSTD(1)),
    source_last_offset    Int64 CODEC(T64, ZSTD(1)),
    _partition            Int32 CODEC(ZSTD(1)),
    _offset               Int64 CODEC(T64, ZSTD(1)),
    INDEX by_duration duration_ns TYPE minmax GRANULARITY 1,
    INDEX by_model models TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_offset (_partition, _offset) TYPE minmax GRANULARITY 1
)
ENGINE = {engine:ReplacingMergeTree(version)}
PARTITION BY toDate(start_time, 'UTC')
ORDER BY (tenant, root_service, toStartOfMinute(start_time, 'UTC'), trace_id, source_partition, source_first_offset)
SETTINGS {dedup_window}, ttl_only_drop_parts = 1;

-- distributed: traces by reinterpretAsUInt64(reverse(substring(trace_id, 9, 8)))
