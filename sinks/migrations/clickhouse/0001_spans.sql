-- Spans, their token timelines, and when each trace was.
--
-- A trace is found by trace_times (its minutes), then in spans by (minute, trace_id), which the primary key prunes to a
-- granule or two a service: no bloom filter on trace ids is needed. Sorting by trace within a minute also packs ids.

CREATE TABLE IF NOT EXISTS {database}.{local:spans}{on_cluster}
(
    trace_id                 FixedString(16) CODEC(ZSTD(1)),
    span_id                  FixedString(8) CODEC(NONE),
    parent_span_id           Nullable(FixedString(8)) CODEC(ZSTD(1)),
    start_time               DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    duration_ns              Int64 CODEC(T64, ZSTD(1)),
    service_name             LowCardinality(String) CODEC(ZSTD(1)),
    operation_name           LowCardinality(String) CODEC(ZSTD(1)),
    kind                     UInt8 CODEC(ZSTD(1)),
    status_code              UInt8 CODEC(ZSTD(1)),
    status_message           Nullable(String) CODEC(ZSTD(1)),
    tenant                   LowCardinality(String) CODEC(ZSTD(1)),
    model_name               LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    model_version            LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    framework                LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    provider                 LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    batch_size               Nullable(UInt32) CODEC(T64, ZSTD(1)),
    max_batch_size           Nullable(UInt32) CODEC(T64, ZSTD(1)),
    input_tokens             Nullable(UInt64) CODEC(T64, ZSTD(1)),
    output_tokens            Nullable(UInt64) CODEC(T64, ZSTD(1)),
    cached_tokens            Nullable(UInt64) CODEC(T64, ZSTD(1)),
    reasoning_tokens         Nullable(UInt64) CODEC(T64, ZSTD(1)),
    sequence_length          Nullable(UInt64) CODEC(T64, ZSTD(1)),
    request_id               Nullable(String) CODEC(ZSTD(1)),
    session_id               Nullable(String) CODEC(ZSTD(1)),
    streaming                Nullable(Bool) CODEC(ZSTD(1)),
    finish_reason            LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    ttft_ns                  Nullable(UInt64) CODEC(T64, ZSTD(1)),
    tpot_ns                  Nullable(UInt64) CODEC(T64, ZSTD(1)),
    itl_p50_ns               Nullable(UInt64) CODEC(T64, ZSTD(1)),
    itl_p99_ns               Nullable(UInt64) CODEC(T64, ZSTD(1)),
    itl_max_ns               Nullable(UInt64) CODEC(T64, ZSTD(1)),
    stage                    LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    queue_depth              Nullable(UInt32) CODEC(T64, ZSTD(1)),
    queue_wait_ms            Nullable(Float64) CODEC(ZSTD(1)),
    batch_fill_ratio         Nullable(Float64) CODEC(ZSTD(1)),
    cache_hit                Nullable(Bool) CODEC(ZSTD(1)),
    cache_hit_ratio          Nullable(Float64) CODEC(ZSTD(1)),
    kv_cache_usage_ratio     Nullable(Float64) CODEC(ZSTD(1)),
    preemptions              Nullable(UInt32) CODEC(T64, ZSTD(1)),
    gpu_device_id            LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    gpu_index                Nullable(UInt32) CODEC(ZSTD(1)),
    gpu_name                 LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    gpu_instance_type        LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    gpu_utilization_percent  Nullable(Float64) CODEC(ZSTD(1)),
    gpu_memory_used_bytes    Nullable(UInt64) CODEC(T64, ZSTD(1)),
    gpu_memory_total_bytes   Nullable(UInt64) CODEC(T64, ZSTD(1)),
    gpu_power_watts          Nullable(Float64) CODEC(ZSTD(1)),
    gpu_temperature_celsius  Nullable(Float64) CODEC(ZSTD(1)),
    gpu_sm_clock_mhz         Nullable(UInt32) CODEC(T64, ZSTD(1)),
    gpu_memory_clock_mhz     Nullable(UInt32) CODEC(T64, ZSTD(1)),
    gpu_throttle_reasons     Nullable(UInt64) CODEC(ZSTD(1)),
    gpu_mig_profile          LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    cpu_cores_used           Nullable(Float64) CODEC(ZSTD(1)),
    memory_heap_bytes        Nullable(UInt64) CODEC(T64, ZSTD(1)),
    memory_rss_bytes         Nullable(UInt64) CODEC(T64, ZSTD(1)),
    attributes_string        Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    attributes_int           Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    attributes_double        Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
    attributes_bool          Map(LowCardinality(String), Bool) CODEC(ZSTD(1)),
    attributes_other         Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    events                   Array(Tuple(time DateTime64(9, 'UTC'), name String, attributes String, dropped_attributes_count UInt32)) CODEC(ZSTD(1)),
    links                    Array(Tuple(trace_id String, span_id String, trace_state String, attributes String, dropped_attributes_count UInt32, flags UInt32)) CODEC(ZSTD(1)),
    trace_state              Nullable(String) CODEC(ZSTD(1)),
    flags                    UInt32 CODEC(ZSTD(1)),
    dropped_attributes_count UInt32 CODEC(ZSTD(1)),
    dropped_events_count     UInt32 CODEC(ZSTD(1)),
    dropped_links_count      UInt32 CODEC(ZSTD(1)),
    resource                 LowCardinality(String) CODEC(ZSTD(1)),
    scope                    LowCardinality(String) CODEC(ZSTD(1)),
    resource_schema_url      LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    scope_schema_url         LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    _partition               Int32 CODEC(ZSTD(1)),
    _offset                  Int64 CODEC(Delta(8), ZSTD(1)),
    INDEX by_model (model_name, model_version) TYPE set(64) GRANULARITY 4,
    INDEX by_status status_code TYPE set(4) GRANULARITY 4,
    INDEX by_duration duration_ns TYPE minmax GRANULARITY 4,
    INDEX by_request request_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_offset (_partition, _offset) TYPE minmax GRANULARITY 4
)
ENGINE = {engine:MergeTree}
PARTITION BY toDate(start_time, 'UTC')
ORDER BY (tenant, service_name, toStartOfMinute(start_time, 'UTC'), trace_id, start_time)
SETTINGS {dedup_window}, ttl_only_drop_parts = 1;

-- distributed: spans by reinterpretAsUInt64(reverse(substring(trace_id, 9, 8)))

-- One row a span with a timeline; arrays are parallel, one entry a generated token.
CREATE TABLE IF NOT EXISTS {database}.{local:tokens}{on_cluster}
(
    trace_id         FixedString(16) CODEC(ZSTD(1)),
    span_id          FixedString(8) CODEC(NONE),
    tenant           LowCardinality(String) CODEC(ZSTD(1)),
    start_time       DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    ids              Array(UInt32) CODEC(ZSTD(1)),
    itl_micros       Array(UInt32) CODEC(T64, ZSTD(1)),
    attention_micros Array(UInt32) CODEC(T64, ZSTD(1)),
    ffn_micros       Array(UInt32) CODEC(T64, ZSTD(1)),
    batch_sizes      Array(UInt32) CODEC(Delta(4), ZSTD(1)),
    texts            Array(String) CODEC(ZSTD(1)),
    _partition       Int32 CODEC(ZSTD(1)),
    _offset          Int64 CODEC(Delta(8), ZSTD(1)),
    INDEX by_offset (_partition, _offset) TYPE minmax GRANULARITY 4
)
ENGINE = {engine:MergeTree}
PARTITION BY toDate(start_time, 'UTC')
ORDER BY (toStartOfMinute(start_time, 'UTC'), trace_id, span_id)
SETTINGS {dedup_window}, ttl_only_drop_parts = 1, index_granularity = 512;

-- distributed: tokens by reinterpretAsUInt64(reverse(substring(trace_id, 9, 8)))

-- The minutes in which spans of a trace began. trace_low is the last 8 bytes of the trace id, big-endian: W3C's random
-- part. Rows of one (trace, minute) collapse when parts merge; until then a reader sees some twice.
CREATE TABLE IF NOT EXISTS {database}.{local:trace_times}{on_cluster}
(
    trace_low UInt64 CODEC(Delta(8), ZSTD(1)),
    minute    DateTime('UTC') CODEC(ZSTD(1))
)
ENGINE = {engine:ReplacingMergeTree}
PARTITION BY toDate(minute, 'UTC')
ORDER BY (trace_low, minute)
SETTINGS {dedup_window}, ttl_only_drop_parts = 1;

-- distributed: trace_times by trace_low
