//! Typed row access to a batch of spans, and spans as JSON: the API's object and lossless OTLP.
//!
//! Query, processors and tests read batches of [`crate::columns::span_schema`] through [`SpanView`], which
//! downcasts every column once. Invariant: [`to_otlp_json`] renders every value and type that the
//! columns hold.

mod column;
mod json;
mod nested;
mod otlp;

use arrow::{
    array::RecordBatch,
    datatypes::{
        Float64Type, Int32Type, Int64Type, TimestampNanosecondType, UInt8Type, UInt32Type, UInt64Type,
    },
};
pub use column::{
    Column, Id, Number, OptionalFlag, OptionalId, OptionalNumber, OptionalTerm, OptionalText, Term, ViewError,
};
pub use json::kind_name;
pub use nested::{
    AttributeValue, Attributes, EventView, Events, LinkView, Links, Tokens, TokensView, TypedMap,
};
pub use otlp::to_otlp_json;

use crate::columns::{index, name};

macro_rules! view {
    ($($(#[$doc:meta])* $method:ident: $type:ty = $column:ident;)*) => {
        /// A batch of spans, read by row.
        ///
        /// Every method panics on a row at or past [`SpanView::len`], as an index does.
        #[derive(Clone, Copy)]
        pub struct SpanView<'a> {
            batch: &'a RecordBatch,
            attributes: Attributes<'a>,
            $($method: $type,)*
        }

        impl<'a> SpanView<'a> {
            /// Opens `batch`, which must have the span schema's columns in its order.
            ///
            /// # Errors
            /// [`ViewError`] names the first column that is missing or of another type; see
            /// [`crate::columns::conform`].
            pub fn new(batch: &'a RecordBatch) -> Result<Self, ViewError> {
                Ok(Self {
                    batch,
                    attributes: open_attributes(batch)?,
                    $($method: open::<$type>(batch, index::$column)?,)*
                })
            }

            $(
                $(#[$doc])*
                #[inline]
                #[must_use]
                pub fn $method(&self, row: usize) -> <$type as Column<'a>>::Item {
                    self.$method.get(row)
                }
            )*
        }
    };
}

fn open<'a, C: Column<'a>>(batch: &'a RecordBatch, column: usize) -> Result<C, ViewError> {
    let error = ViewError { column: name::ALL[column] };
    if batch.num_columns() <= column || batch.schema_ref().field(column).name() != name::ALL[column] {
        return Err(error);
    }
    C::open(batch.column(column)).ok_or(error)
}

fn open_map<'a, V: 'static>(batch: &'a RecordBatch, column: usize) -> Result<TypedMap<'a, V>, ViewError> {
    let error = ViewError { column: name::ALL[column] };
    if batch.num_columns() <= column {
        return Err(error);
    }
    TypedMap::open(batch.column(column)).ok_or(error)
}

fn open_attributes(batch: &RecordBatch) -> Result<Attributes<'_>, ViewError> {
    Ok(Attributes {
        strings: open_map(batch, index::ATTRIBUTES_STRING)?,
        ints: open_map(batch, index::ATTRIBUTES_INT)?,
        doubles: open_map(batch, index::ATTRIBUTES_DOUBLE)?,
        bools: open_map(batch, index::ATTRIBUTES_BOOL)?,
        others: open_map(batch, index::ATTRIBUTES_OTHER)?,
    })
}

view! {
    /// Trace id.
    trace_id: Id<'a, 16> = TRACE_ID;
    /// Span id.
    span_id: Id<'a, 8> = SPAN_ID;
    /// Parent's span id; `None` for a root.
    parent_span_id: OptionalId<'a, 8> = PARENT_SPAN_ID;
    /// Start, in nanoseconds since 1970.
    start_ns: Number<'a, TimestampNanosecondType> = START_TIME;
    /// Duration in nanoseconds, at least 0.
    duration_ns: Number<'a, Int64Type> = DURATION_NS;
    /// Service.
    service: Term<'a> = SERVICE_NAME;
    /// Operation.
    operation: Term<'a> = OPERATION_NAME;
    /// OTLP's span kind.
    kind: Number<'a, UInt8Type> = KIND;
    /// [`crate::columns::status`].
    status_code: Number<'a, UInt8Type> = STATUS_CODE;
    /// Status message; `None` when empty.
    status_message: OptionalText<'a> = STATUS_MESSAGE;
    /// Tenant, empty for the default one.
    tenant: Term<'a> = TENANT;
    /// Model.
    model_name: OptionalTerm<'a> = MODEL_NAME;
    /// Model's version.
    model_version: OptionalTerm<'a> = MODEL_VERSION;
    /// Serving framework or instrumentation.
    framework: OptionalTerm<'a> = FRAMEWORK;
    /// Provider.
    provider: OptionalTerm<'a> = PROVIDER;
    /// Sequences in the batch.
    batch_size: OptionalNumber<'a, UInt32Type> = BATCH_SIZE;
    /// The engine's limit for it.
    max_batch_size: OptionalNumber<'a, UInt32Type> = MAX_BATCH_SIZE;
    /// Tokens in.
    input_tokens: OptionalNumber<'a, UInt64Type> = INPUT_TOKENS;
    /// Tokens out.
    output_tokens: OptionalNumber<'a, UInt64Type> = OUTPUT_TOKENS;
    /// Tokens in that a cache served.
    cached_tokens: OptionalNumber<'a, UInt64Type> = CACHED_TOKENS;
    /// Tokens out that were reasoning.
    reasoning_tokens: OptionalNumber<'a, UInt64Type> = REASONING_TOKENS;
    /// Tokens in and out.
    sequence_length: OptionalNumber<'a, UInt64Type> = SEQUENCE_LENGTH;
    /// Request id, as client and engine share it.
    request_id: OptionalText<'a> = REQUEST_ID;
    /// Session or conversation.
    session_id: OptionalText<'a> = SESSION_ID;
    /// Whether the answer was streamed.
    streaming: OptionalFlag<'a> = STREAMING;
    /// Why generation ended.
    finish_reason: OptionalTerm<'a> = FINISH_REASON;
    /// Time to first token, nanoseconds.
    ttft_ns: OptionalNumber<'a, UInt64Type> = TTFT_NS;
    /// Time per output token after the first, nanoseconds.
    tpot_ns: OptionalNumber<'a, UInt64Type> = TPOT_NS;
    /// Inter-token latency, median, nanoseconds.
    itl_p50_ns: OptionalNumber<'a, UInt64Type> = ITL_P50_NS;
    /// Inter-token latency, 99th percentile, nanoseconds.
    itl_p99_ns: OptionalNumber<'a, UInt64Type> = ITL_P99_NS;
    /// Inter-token latency, greatest, nanoseconds.
    itl_max_ns: OptionalNumber<'a, UInt64Type> = ITL_MAX_NS;
    /// Stage of the serving pipeline.
    stage: OptionalTerm<'a> = STAGE;
    /// Requests waiting.
    queue_depth: OptionalNumber<'a, UInt32Type> = QUEUE_DEPTH;
    /// Milliseconds in the queue.
    queue_wait_ms: OptionalNumber<'a, Float64Type> = QUEUE_WAIT_MS;
    /// Batch size over its limit, 0 to 1.
    batch_fill_ratio: OptionalNumber<'a, Float64Type> = BATCH_FILL_RATIO;
    /// Whether a cache served some of the input.
    cache_hit: OptionalFlag<'a> = CACHE_HIT;
    /// Share of the input that it served, 0 to 1.
    cache_hit_ratio: OptionalNumber<'a, Float64Type> = CACHE_HIT_RATIO;
    /// KV cache in use, 0 to 1.
    kv_cache_usage_ratio: OptionalNumber<'a, Float64Type> = KV_CACHE_USAGE_RATIO;
    /// Times the request was preempted.
    preemptions: OptionalNumber<'a, UInt32Type> = PREEMPTIONS;
    /// GPU's UUID.
    gpu_device_id: OptionalTerm<'a> = GPU_DEVICE_ID;
    /// GPU's index on its host.
    gpu_index: OptionalNumber<'a, UInt32Type> = GPU_INDEX;
    /// GPU's product name.
    gpu_name: OptionalTerm<'a> = GPU_NAME;
    /// Cloud instance type.
    gpu_instance_type: OptionalTerm<'a> = GPU_INSTANCE_TYPE;
    /// Utilisation, 0 to 100.
    gpu_utilization_percent: OptionalNumber<'a, Float64Type> = GPU_UTILIZATION_PERCENT;
    /// GPU memory in use, bytes.
    gpu_memory_used_bytes: OptionalNumber<'a, UInt64Type> = GPU_MEMORY_USED_BYTES;
    /// GPU memory, bytes.
    gpu_memory_total_bytes: OptionalNumber<'a, UInt64Type> = GPU_MEMORY_TOTAL_BYTES;
    /// Power, watts.
    gpu_power_watts: OptionalNumber<'a, Float64Type> = GPU_POWER_WATTS;
    /// Temperature, degrees Celsius.
    gpu_temperature_celsius: OptionalNumber<'a, Float64Type> = GPU_TEMPERATURE_CELSIUS;
    /// SM clock, MHz.
    gpu_sm_clock_mhz: OptionalNumber<'a, UInt32Type> = GPU_SM_CLOCK_MHZ;
    /// Memory clock, MHz.
    gpu_memory_clock_mhz: OptionalNumber<'a, UInt32Type> = GPU_MEMORY_CLOCK_MHZ;
    /// NVML's clocks event reasons.
    gpu_throttle_reasons: OptionalNumber<'a, UInt64Type> = GPU_THROTTLE_REASONS;
    /// MIG profile.
    gpu_mig_profile: OptionalTerm<'a> = GPU_MIG_PROFILE;
    /// CPU cores in use.
    cpu_cores_used: OptionalNumber<'a, Float64Type> = CPU_CORES_USED;
    /// Heap, bytes.
    memory_heap_bytes: OptionalNumber<'a, UInt64Type> = MEMORY_HEAP_BYTES;
    /// Resident set, bytes.
    memory_rss_bytes: OptionalNumber<'a, UInt64Type> = MEMORY_RSS_BYTES;
    /// Events, as sent.
    events: Events<'a> = EVENTS;
    /// Links, as sent.
    links: Links<'a> = LINKS;
    /// Token timeline.
    tokens: Tokens<'a> = TOKENS;
    /// W3C tracestate; `None` when empty.
    trace_state: OptionalText<'a> = TRACE_STATE;
    /// W3C trace flags and OTLP's remote bits.
    flags: Number<'a, UInt32Type> = FLAGS;
    /// Attributes its sender dropped.
    dropped_attributes_count: Number<'a, UInt32Type> = DROPPED_ATTRIBUTES_COUNT;
    /// Events its sender dropped.
    dropped_events_count: Number<'a, UInt32Type> = DROPPED_EVENTS_COUNT;
    /// Links its sender dropped.
    dropped_links_count: Number<'a, UInt32Type> = DROPPED_LINKS_COUNT;
    /// OTLP/JSON Resource.
    resource: Term<'a> = RESOURCE;
    /// OTLP/JSON InstrumentationScope.
    scope: Term<'a> = SCOPE;
    /// Schema of the resource.
    resource_schema_url: OptionalTerm<'a> = RESOURCE_SCHEMA_URL;
    /// Schema of the scope and its spans.
    scope_schema_url: OptionalTerm<'a> = SCOPE_SCHEMA_URL;
    /// Partition of the spans topic that the span was read from.
    partition: Number<'a, Int32Type> = PARTITION;
    /// Offset there of its record.
    offset: Number<'a, Int64Type> = OFFSET;
}

impl<'a> SpanView<'a> {
    /// Spans.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The batch behind the view.
    #[must_use]
    pub const fn batch(&self) -> &'a RecordBatch {
        self.batch
    }

    /// When the span ended, nanoseconds since 1970.
    #[must_use]
    pub fn end_ns(&self, row: usize) -> i64 {
        self.start_ns(row).saturating_add(self.duration_ns(row))
    }

    /// Every attribute with its type, tags among the texts.
    pub fn attributes(&self, row: usize) -> impl Iterator<Item = (&'a str, AttributeValue<'a>)> + use<'a> {
        self.attributes.iter(row)
    }

    /// The attribute `key`.
    #[must_use]
    pub fn attribute(&self, row: usize, key: &str) -> Option<AttributeValue<'a>> {
        self.attributes.get(row, key)
    }

    /// Whether the attribute `key` reads as `value`; see [`Attributes::equals`].
    #[must_use]
    pub fn attribute_equals(&self, row: usize, key: &str, value: &str) -> bool {
        self.attributes.equals(row, key, value)
    }

    /// The service column itself, for callers that group by its dictionary keys.
    #[must_use]
    pub const fn service_column(&self) -> &Term<'a> {
        &self.service
    }

    /// The operation column itself.
    #[must_use]
    pub const fn operation_column(&self) -> &Term<'a> {
        &self.operation
    }

    /// The tenant column itself.
    #[must_use]
    pub const fn tenant_column(&self) -> &Term<'a> {
        &self.tenant
    }

    /// The model column itself.
    #[must_use]
    pub const fn model_column(&self) -> &OptionalTerm<'a> {
        &self.model_name
    }

    /// The scope column itself.
    #[must_use]
    pub const fn scope_column(&self) -> &Term<'a> {
        &self.scope
    }

    /// The resource column itself.
    #[must_use]
    pub const fn resource_column(&self) -> &Term<'a> {
        &self.resource
    }

    /// The stage column itself.
    #[must_use]
    pub const fn stage_column(&self) -> &OptionalTerm<'a> {
        &self.stage
    }
}
