-- Rollups: counters and mergeable sketches of one key in one window. Of one key, window and source range the highest
-- revision counts; sketches of several ranges merge bin by bin, never their percentiles.

CREATE TABLE IF NOT EXISTS {database}.{local:rollups}{on_cluster}
(
    window_start        DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    window_ns           Int64 CODEC(ZSTD(1)),
    tenant              LowCardinality(String) CODEC(ZSTD(1)),
    model               LowCardinality(String) CODEC(ZSTD(1)),
    model_version       LowCardinality(String) CODEC(ZSTD(1)),
    stage               LowCardinality(String) CODEC(ZSTD(1)),
    service             LowCardinality(String) CODEC(ZSTD(1)),
    device              LowCardinality(String) CODEC(ZSTD(1)),
    revision            Int32 CODEC(ZSTD(1)),
    source_partition    Int32 CODEC(ZSTD(1)),
    source_first_offset Int64 CODEC(T64, ZSTD(1)),
    source_last_offset  Int64 CODEC(T64, ZSTD(1)),
    counters            Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    sums                Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
    sketches            Array(Tuple(metric LowCardinality(String), relative_accuracy Float64, count Int64, zero_count Int64, sum Float64, min Float64, max Float64, first_bin Int32, bin_counts Array(Int64))) CODEC(ZSTD(1)),
    exemplars           Array(Tuple(trace_id String, duration_micros Int64, is_error Bool)) CODEC(ZSTD(1)),
    _partition          Int32 CODEC(ZSTD(1)),
    _offset             Int64 CODEC(T64, ZSTD(1)),
    INDEX by_offset (_partition, _offset) TYPE minmax GRANULARITY 1
)
ENGINE = {engine:ReplacingMergeTree(revision)}
PARTITION BY toDate(window_start, 'UTC')
ORDER BY (window_ns, tenant, model, model_version, service, stage, device, window_start, source_partition, source_first_offset, source_last_offset)
SETTINGS {dedup_window}, ttl_only_drop_parts = 1, index_granularity = 1024;

-- distributed: rollups by cityHash64(model)

-- Insights: of one id the highest revision counts. They are few, so a month is a partition.
CREATE TABLE IF NOT EXISTS {database}.{local:insights}{on_cluster}
(
    id                        String CODEC(ZSTD(1)),
    revision                  Int32 CODEC(ZSTD(1)),
    state                     LowCardinality(String) CODEC(ZSTD(1)),
    kind                      LowCardinality(String) CODEC(ZSTD(1)),
    severity                  LowCardinality(String) CODEC(ZSTD(1)),
    tenant                    LowCardinality(String) CODEC(ZSTD(1)),
    model                     LowCardinality(String) CODEC(ZSTD(1)),
    model_version             LowCardinality(String) CODEC(ZSTD(1)),
    service                   LowCardinality(String) CODEC(ZSTD(1)),
    stage                     LowCardinality(String) CODEC(ZSTD(1)),
    device                    LowCardinality(String) CODEC(ZSTD(1)),
    window_start              DateTime64(9, 'UTC') CODEC(ZSTD(1)),
    window_end                DateTime64(9, 'UTC') CODEC(ZSTD(1)),
    opened                    DateTime64(9, 'UTC') CODEC(ZSTD(1)),
    resolved                  Nullable(DateTime64(9, 'UTC')) CODEC(ZSTD(1)),
    title                     String CODEC(ZSTD(1)),
    detector                  LowCardinality(String) CODEC(ZSTD(1)),
    detector_version          LowCardinality(String) CODEC(ZSTD(1)),
    evidence                  Array(Tuple(metric LowCardinality(String), unit LowCardinality(String), observed Float64, baseline Nullable(Float64), samples Int64)) CODEC(ZSTD(1)),
    causes                    Array(Tuple(cause LowCardinality(String), share Float64, explanation String)) CODEC(ZSTD(1)),
    recommendation_text       Nullable(String) CODEC(ZSTD(1)),
    recommendation_gain       Nullable(String) CODEC(ZSTD(1)),
    recommendation_confidence Nullable(Float64) CODEC(ZSTD(1)),
    example_traces            Array(String) CODEC(ZSTD(1)),
    normal_traces             Array(String) CODEC(ZSTD(1)),
    _partition                Int32 CODEC(ZSTD(1)),
    _offset                   Int64 CODEC(ZSTD(1)),
    INDEX by_offset (_partition, _offset) TYPE minmax GRANULARITY 1
)
ENGINE = {engine:ReplacingMergeTree(revision)}
PARTITION BY toYYYYMM(opened, 'UTC')
ORDER BY (tenant, model, opened, id)
SETTINGS {dedup_window}, index_granularity = 1024;

-- distributed: insights by cityHash64(id)
