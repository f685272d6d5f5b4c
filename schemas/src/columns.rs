//! The Arrow schema of spans: what the reader builds and every store and query shares.
//!
//! Hot fields are typed columns, everything else stays in typed maps. Invariants: the order is
//! [`name::ALL`]'s; columns are added at the end, never renamed or retyped; no prompt or answer text is
//! in a filterable column; a mapped attribute stays in its map too.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{Array, ArrayData, ArrayRef, RecordBatch, make_array, new_empty_array, new_null_array},
    buffer::Buffer,
    compute::cast,
    datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};

macro_rules! columns {
    ($($index:ident $constant:ident = $name:literal;)*) => {
        /// Names of the columns.
        pub mod name {
            $(#[doc = concat!("Column `", $name, "`.")] pub const $constant: &str = $name;)*
            /// Every column, in the schema's order.
            pub const ALL: &[&str] = &[$($constant),*];
        }

        /// Positions of the columns in the schema.
        pub mod index {
            #[derive(Clone, Copy)]
            #[allow(clippy::enum_variant_names)]
            enum Position { $($index),* }
            $(#[doc = concat!("Position of column `", $name, "`.")] pub const $constant: usize = Position::$index as usize;)*
        }
    };
}

columns! {
    TraceId TRACE_ID = "trace_id";
    SpanId SPAN_ID = "span_id";
    ParentSpanId PARENT_SPAN_ID = "parent_span_id";
    StartTime START_TIME = "start_time";
    DurationNs DURATION_NS = "duration_ns";
    ServiceName SERVICE_NAME = "service_name";
    OperationName OPERATION_NAME = "operation_name";
    Kind KIND = "kind";
    StatusCode STATUS_CODE = "status_code";
    StatusMessage STATUS_MESSAGE = "status_message";
    Tenant TENANT = "tenant";
    ModelName MODEL_NAME = "model_name";
    ModelVersion MODEL_VERSION = "model_version";
    Framework FRAMEWORK = "framework";
    Provider PROVIDER = "provider";
    BatchSize BATCH_SIZE = "batch_size";
    MaxBatchSize MAX_BATCH_SIZE = "max_batch_size";
    InputTokens INPUT_TOKENS = "input_tokens";
    OutputTokens OUTPUT_TOKENS = "output_tokens";
    CachedTokens CACHED_TOKENS = "cached_tokens";
    ReasoningTokens REASONING_TOKENS = "reasoning_tokens";
    SequenceLength SEQUENCE_LENGTH = "sequence_length";
    RequestId REQUEST_ID = "request_id";
    SessionId SESSION_ID = "session_id";
    Streaming STREAMING = "streaming";
    FinishReason FINISH_REASON = "finish_reason";
    TtftNs TTFT_NS = "ttft_ns";
    TpotNs TPOT_NS = "tpot_ns";
    ItlP50Ns ITL_P50_NS = "itl_p50_ns";
    ItlP99Ns ITL_P99_NS = "itl_p99_ns";
    ItlMaxNs ITL_MAX_NS = "itl_max_ns";
    Stage STAGE = "stage";
    QueueDepth QUEUE_DEPTH = "queue_depth";
    QueueWaitMs QUEUE_WAIT_MS = "queue_wait_ms";
    BatchFillRatio BATCH_FILL_RATIO = "batch_fill_ratio";
    CacheHit CACHE_HIT = "cache_hit";
    CacheHitRatio CACHE_HIT_RATIO = "cache_hit_ratio";
    KvCacheUsageRatio KV_CACHE_USAGE_RATIO = "kv_cache_usage_ratio";
    Preemptions PREEMPTIONS = "preemptions";
    GpuDeviceId GPU_DEVICE_ID = "gpu_device_id";
    GpuIndex GPU_INDEX = "gpu_index";
    GpuName GPU_NAME = "gpu_name";
    GpuInstanceType GPU_INSTANCE_TYPE = "gpu_instance_type";
    GpuUtilizationPercent GPU_UTILIZATION_PERCENT = "gpu_utilization_percent";
    GpuMemoryUsedBytes GPU_MEMORY_USED_BYTES = "gpu_memory_used_bytes";
    GpuMemoryTotalBytes GPU_MEMORY_TOTAL_BYTES = "gpu_memory_total_bytes";
    GpuPowerWatts GPU_POWER_WATTS = "gpu_power_watts";
    GpuTemperatureCelsius GPU_TEMPERATURE_CELSIUS = "gpu_temperature_celsius";
    GpuSmClockMhz GPU_SM_CLOCK_MHZ = "gpu_sm_clock_mhz";
    GpuMemoryClockMhz GPU_MEMORY_CLOCK_MHZ = "gpu_memory_clock_mhz";
    GpuThrottleReasons GPU_THROTTLE_REASONS = "gpu_throttle_reasons";
    GpuMigProfile GPU_MIG_PROFILE = "gpu_mig_profile";
    CpuCoresUsed CPU_CORES_USED = "cpu_cores_used";
    MemoryHeapBytes MEMORY_HEAP_BYTES = "memory_heap_bytes";
    MemoryRssBytes MEMORY_RSS_BYTES = "memory_rss_bytes";
    AttributesString ATTRIBUTES_STRING = "attributes_string";
    AttributesInt ATTRIBUTES_INT = "attributes_int";
    AttributesDouble ATTRIBUTES_DOUBLE = "attributes_double";
    AttributesBool ATTRIBUTES_BOOL = "attributes_bool";
    AttributesOther ATTRIBUTES_OTHER = "attributes_other";
    Events EVENTS = "events";
    Links LINKS = "links";
    Tokens TOKENS = "tokens";
    TraceState TRACE_STATE = "trace_state";
    Flags FLAGS = "flags";
    DroppedAttributesCount DROPPED_ATTRIBUTES_COUNT = "dropped_attributes_count";
    DroppedEventsCount DROPPED_EVENTS_COUNT = "dropped_events_count";
    DroppedLinksCount DROPPED_LINKS_COUNT = "dropped_links_count";
    Resource RESOURCE = "resource";
    Scope SCOPE = "scope";
    ResourceSchemaUrl RESOURCE_SCHEMA_URL = "resource_schema_url";
    ScopeSchemaUrl SCOPE_SCHEMA_URL = "scope_schema_url";
    PartitionNumber PARTITION = "_partition";
    OffsetNumber OFFSET = "_offset";
}

/// Values of `status_code`.
pub mod status {
    /// Nothing was said.
    pub const UNSET: u8 = 0;
    /// Declared a success.
    pub const OK: u8 = 1;
    /// Failed.
    pub const ERROR: u8 = 2;
}

/// Parquet paths of the columns whose neighbours are close to one another: as `DELTA_BINARY_PACKED` they take a
/// third of what they take plain, and keep a timeline of 4,096 tokens below 20 KB.
pub const DELTA_CODED: &[&str] = &[
    "tokens.itl_micros.list.item",
    "tokens.attention_micros.list.item",
    "tokens.ffn_micros.list.item",
    "tokens.batch_sizes.list.item",
];

/// Parquet paths of small numbers in random order, which compress best with their bytes apart
/// (`BYTE_STREAM_SPLIT`).
pub const SPLIT_CODED: &[&str] = &["tokens.ids.list.item"];

/// The time zone of every timestamp column.
pub const UTC: &str = "UTC";

fn dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some(UTC.into()))
}

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, false)))
}

fn map(value: DataType) -> DataType {
    let entry =
        Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, false)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry), false)), false)
}

/// Fields of one entry of `events`.
#[must_use]
pub fn event_fields() -> Fields {
    Fields::from(vec![
        Field::new("time", timestamp(), false),
        Field::new("name", DataType::Utf8, false),
        // OTLP/JSON: an array of KeyValue, or the empty string.
        Field::new("attributes", DataType::Utf8, false),
        Field::new("dropped_attributes_count", DataType::UInt32, false),
    ])
}

/// Fields of one entry of `links`.
#[must_use]
pub fn link_fields() -> Fields {
    Fields::from(vec![
        Field::new("trace_id", DataType::Binary, false),
        Field::new("span_id", DataType::Binary, false),
        Field::new("trace_state", DataType::Utf8, false),
        Field::new("attributes", DataType::Utf8, false),
        Field::new("dropped_attributes_count", DataType::UInt32, false),
        Field::new("flags", DataType::UInt32, false),
    ])
}

/// Fields of `tokens`: parallel lists, one entry a generated token.
#[must_use]
pub fn token_fields() -> Fields {
    Fields::from(vec![
        Field::new("ids", list(DataType::UInt32), false),
        // The first is the time to the first token.
        Field::new("itl_micros", list(DataType::UInt32), false),
        Field::new("attention_micros", list(DataType::UInt32), false),
        Field::new("ffn_micros", list(DataType::UInt32), false),
        Field::new("batch_sizes", list(DataType::UInt32), false),
        Field::new("texts", list(DataType::Utf8), false),
    ])
}

static SPAN_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| Arc::new(build()));

/// The schema of a batch of spans.
#[must_use]
pub fn span_schema() -> SchemaRef {
    Arc::clone(&SPAN_SCHEMA)
}

/// Type of a column and whether it may be null.
fn type_of(column: usize) -> (DataType, bool) {
    use index as i;
    match column {
        i::TRACE_ID => (DataType::FixedSizeBinary(16), false),
        i::SPAN_ID => (DataType::FixedSizeBinary(8), false),
        i::PARENT_SPAN_ID => (DataType::FixedSizeBinary(8), true),
        i::START_TIME => (timestamp(), false),
        i::DURATION_NS | i::OFFSET => (DataType::Int64, false),
        i::PARTITION => (DataType::Int32, false),
        i::SERVICE_NAME | i::OPERATION_NAME | i::TENANT | i::RESOURCE | i::SCOPE => (dictionary(), false),
        i::KIND | i::STATUS_CODE => (DataType::UInt8, false),
        i::STATUS_MESSAGE | i::REQUEST_ID | i::SESSION_ID | i::TRACE_STATE => (DataType::Utf8, true),
        i::MODEL_NAME
        | i::MODEL_VERSION
        | i::FRAMEWORK
        | i::PROVIDER
        | i::FINISH_REASON
        | i::STAGE
        | i::GPU_DEVICE_ID
        | i::GPU_NAME
        | i::GPU_INSTANCE_TYPE
        | i::GPU_MIG_PROFILE
        | i::RESOURCE_SCHEMA_URL
        | i::SCOPE_SCHEMA_URL => (dictionary(), true),
        i::BATCH_SIZE
        | i::MAX_BATCH_SIZE
        | i::QUEUE_DEPTH
        | i::PREEMPTIONS
        | i::GPU_INDEX
        | i::GPU_SM_CLOCK_MHZ
        | i::GPU_MEMORY_CLOCK_MHZ => (DataType::UInt32, true),
        i::INPUT_TOKENS
        | i::OUTPUT_TOKENS
        | i::CACHED_TOKENS
        | i::REASONING_TOKENS
        | i::SEQUENCE_LENGTH
        | i::TTFT_NS
        | i::TPOT_NS
        | i::ITL_P50_NS
        | i::ITL_P99_NS
        | i::ITL_MAX_NS
        | i::GPU_MEMORY_USED_BYTES
        | i::GPU_MEMORY_TOTAL_BYTES
        | i::GPU_THROTTLE_REASONS
        | i::MEMORY_HEAP_BYTES
        | i::MEMORY_RSS_BYTES => (DataType::UInt64, true),
        i::STREAMING | i::CACHE_HIT => (DataType::Boolean, true),
        i::QUEUE_WAIT_MS
        | i::BATCH_FILL_RATIO
        | i::CACHE_HIT_RATIO
        | i::KV_CACHE_USAGE_RATIO
        | i::GPU_UTILIZATION_PERCENT
        | i::GPU_POWER_WATTS
        | i::GPU_TEMPERATURE_CELSIUS
        | i::CPU_CORES_USED => (DataType::Float64, true),
        i::ATTRIBUTES_STRING => (map(DataType::Utf8), false),
        i::ATTRIBUTES_INT => (map(DataType::Int64), false),
        i::ATTRIBUTES_DOUBLE => (map(DataType::Float64), false),
        i::ATTRIBUTES_BOOL => (map(DataType::Boolean), false),
        // OTLP AnyValue bytes: arrays, key-value lists, bytes and the empty value.
        i::ATTRIBUTES_OTHER => (map(DataType::Binary), false),
        i::EVENTS => (list(DataType::Struct(event_fields())), false),
        i::LINKS => (list(DataType::Struct(link_fields())), false),
        i::TOKENS => (DataType::Struct(token_fields()), true),
        i::FLAGS | i::DROPPED_ATTRIBUTES_COUNT | i::DROPPED_EVENTS_COUNT | i::DROPPED_LINKS_COUNT => {
            (DataType::UInt32, false)
        }
        _ => unreachable!("every column has a type"),
    }
}

/// `batch` with exactly the span schema's columns: taken by name, cast where a store or query engine
/// changed their representation. Where a column is not there, because it is younger than the batch or its reader left
/// it out as blank, it is null, or empty if it holds lists or maps.
///
/// # Errors
/// When a column that cannot be blank is missing, or one cannot be cast.
pub fn conform(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = span_schema();
    if batch.schema_ref().fields() == schema.fields() {
        return Ok(batch.clone());
    }
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let column = match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Arc::clone(column),
            Some(column) => cast(column, field.data_type())?,
            None => blank(field, batch.num_rows())?,
        };
        columns.push(column);
    }
    RecordBatch::try_new(schema, columns)
}

/// `rows` rows of a column that says nothing.
fn blank(field: &Field, rows: usize) -> Result<ArrayRef, ArrowError> {
    let children = match field.data_type() {
        _ if field.is_nullable() => return Ok(new_null_array(field.data_type(), rows)),
        DataType::List(child) | DataType::Map(child, _) => new_empty_array(child.data_type()),
        _ => return Err(ArrowError::SchemaError(format!("column {} is missing", field.name()))),
    };
    let offsets = Buffer::from_vec(vec![0i32; rows + 1]);
    let column = ArrayData::builder(field.data_type().clone())
        .len(rows)
        .add_buffer(offsets)
        .add_child_data(children.to_data())
        .build()?;
    Ok(make_array(column))
}

fn build() -> Schema {
    let fields: Vec<Field> = name::ALL
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let (data_type, nullable) = type_of(column);
            Field::new(*name, data_type, nullable)
        })
        .collect();
    Schema::new(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a batch of which only the ids were read. Guarantee: it becomes one of the span schema, what is not
    /// there being null or empty; without its ids it does not.
    #[test]
    fn what_is_not_there_is_blank() {
        let fields = [index::TRACE_ID, index::SPAN_ID, index::START_TIME];
        let full = RecordBatch::new_empty(span_schema());
        let required: Vec<usize> = (0..span_schema().fields().len())
            .filter(|&at| {
                let field = span_schema().field(at).clone();
                let is_nested = matches!(field.data_type(), DataType::List(_) | DataType::Map(..));
                fields.contains(&at) || !(field.is_nullable() || is_nested)
            })
            .collect();
        let conformed = conform(&full.project(&required).expect("columns")).expect("the span schema");
        assert_eq!(conformed.schema(), span_schema());
        assert!(conform(&full.project(&required[1..]).expect("columns")).is_err());
        let attributes = Field::new("m", span_schema().field(index::EVENTS).data_type().clone(), false);
        let empty = blank(&attributes, 3).expect("empty lists");
        assert_eq!((empty.len(), empty.null_count()), (3, 0));
    }

    /// Scenario: the schema as built. Guarantee: a column stands where its constants say, the ids are among
    /// the first, and no name is there twice.
    #[test]
    fn names_and_positions_agree() {
        let schema = span_schema();
        assert_eq!(schema.fields().len(), name::ALL.len());
        assert_eq!(schema.index_of(name::TRACE_ID).ok(), Some(index::TRACE_ID));
        assert_eq!(schema.index_of(name::SPAN_ID).ok(), Some(1));
        assert_eq!(schema.index_of(name::TOKENS).ok(), Some(index::TOKENS));
        assert_eq!(schema.index_of(name::OFFSET).ok(), Some(index::OFFSET));
        assert_eq!(index::OFFSET + 1, name::ALL.len());
        let mut names = name::ALL.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), name::ALL.len());
    }
}
