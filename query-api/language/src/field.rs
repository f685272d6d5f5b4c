//! What a query can ask about: intrinsics, with their types and columns, and attributes.

use std::fmt;

/// Type of an intrinsic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text.
    Text,
    /// Whole number.
    Integer,
    /// Number.
    Float,
    /// Nanoseconds.
    Duration,
    /// Truth value.
    Bool,
    /// [`crate::Status`].
    Status,
    /// [`crate::Kind`].
    Kind,
    /// Id of 16 bytes, written as hexadecimal text.
    TraceId,
    /// Id of 8 bytes.
    SpanId,
}

/// Where an attribute is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// On the span, or where it is missing there, on its resource: `.key`.
    Any,
    /// On the span.
    Span,
    /// On its resource.
    Resource,
    /// On one of its events.
    Event,
    /// On one of its links.
    Link,
    /// On its instrumentation scope.
    Instrumentation,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Any, Self::Span, Self::Resource, Self::Event, Self::Link, Self::Instrumentation];

    /// What stands before the key's dot.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Span => "span",
            Self::Resource => "resource",
            Self::Event => "event",
            Self::Link => "link",
            Self::Instrumentation => "instrumentation",
        }
    }
}

/// Where an intrinsic's values are, for those who store spans as columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A column of spans that always has a value.
    Column(&'static str),
    /// A column of spans that may be null.
    Nullable(&'static str),
    /// Milliseconds in a column of floats that may be null.
    Millis(&'static str),
    /// The name of one of the span's events.
    EventName,
    /// Not a property of one span's row.
    Elsewhere,
}

macro_rules! intrinsics {
    ($($(#[$doc:meta])* $variant:ident = $name:literal $(| $alias:literal)*, $type:ident, $place:expr;)*) => {
        /// A field that every span has by its nature, by the name that queries give it.
        ///
        /// Those before [`Self::Model`] are TraceQL's; the others are InferTrace's, in scopes that TraceQL does not use.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Intrinsic { $($(#[$doc])* #[doc = concat!("`", $name, "`")] $variant,)* }

        impl Intrinsic {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name, as queries are printed.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The intrinsic of this name or one of its aliases.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name $(| $alias)* => Some(Self::$variant),)* _ => None }
            }

            /// The type of its values.
            #[must_use]
            pub const fn value_type(self) -> Type {
                match self { $(Self::$variant => Type::$type),* }
            }

            /// Where its values are in a table of spans.
            #[must_use]
            pub const fn place(self) -> Place {
                use Place::{Column, Elsewhere, EventName, Millis, Nullable};
                match self { $(Self::$variant => $place),* }
            }
        }
    };
}

intrinsics! {
    /// Name of the operation.
    Name = "name" | "span:name", Text, Column("operation_name");
    /// `error`, `ok` or `unset`.
    Status = "status" | "span:status", Status, Column("status_code");
    /// What the status says.
    StatusMessage = "statusMessage" | "span:statusMessage", Text, Nullable("status_message");
    /// `server`, `client` and so on.
    Kind = "kind" | "span:kind", Kind, Column("kind");
    /// How long the span took.
    Duration = "duration" | "span:duration", Duration, Column("duration_ns");
    /// From the trace's first start to its last end.
    TraceDuration = "traceDuration" | "trace:duration", Duration, Elsewhere;
    /// Name of the trace's root span.
    RootName = "rootName" | "trace:rootName", Text, Elsewhere;
    /// Service of the trace's root span.
    RootServiceName = "rootServiceName" | "trace:rootService", Text, Elsewhere;
    /// Children of the span.
    ChildCount = "span:childCount" | "childCount", Integer, Elsewhere;
    /// Id of the trace.
    TraceId = "trace:id", TraceId, Column("trace_id");
    /// Id of the span.
    SpanId = "span:id", SpanId, Column("span_id");
    /// Id of the parent; `nil` for a root.
    ParentId = "span:parentID", SpanId, Nullable("parent_span_id");
    /// Name of an event.
    EventName = "event:name", Text, EventName;
    /// Name of the instrumentation scope.
    InstrumentationName = "instrumentation:name", Text, Elsewhere;
    /// Version of the instrumentation scope.
    InstrumentationVersion = "instrumentation:version", Text, Elsewhere;
    /// Model.
    Model = "llm:model", Text, Nullable("model_name");
    /// Version of the model.
    ModelVersion = "llm:modelVersion", Text, Nullable("model_version");
    /// Serving framework.
    Framework = "llm:framework", Text, Nullable("framework");
    /// Provider.
    Provider = "llm:provider", Text, Nullable("provider");
    /// Tenant.
    Tenant = "llm:tenant", Text, Column("tenant");
    /// Stage of the pipeline.
    Stage = "llm:stage", Text, Nullable("stage");
    /// Request id.
    RequestId = "llm:requestId", Text, Nullable("request_id");
    /// Session id.
    SessionId = "llm:sessionId", Text, Nullable("session_id");
    /// Why generation ended.
    FinishReason = "llm:finishReason", Text, Nullable("finish_reason");
    /// Whether the answer was streamed.
    Streaming = "llm:streaming", Bool, Nullable("streaming");
    /// Tokens in.
    InputTokens = "llm:inputTokens", Integer, Nullable("input_tokens");
    /// Tokens out.
    OutputTokens = "llm:outputTokens", Integer, Nullable("output_tokens");
    /// Tokens in that a cache had.
    CachedTokens = "llm:cachedTokens", Integer, Nullable("cached_tokens");
    /// Reasoning tokens.
    ReasoningTokens = "llm:reasoningTokens", Integer, Nullable("reasoning_tokens");
    /// Tokens in and out.
    SequenceLength = "llm:sequenceLength", Integer, Nullable("sequence_length");
    /// Time to the first token.
    Ttft = "llm:ttft", Duration, Nullable("ttft_ns");
    /// Time per output token after the first.
    Tpot = "llm:tpot", Duration, Nullable("tpot_ns");
    /// Median inter-token latency.
    ItlP50 = "llm:itlP50", Duration, Nullable("itl_p50_ns");
    /// 99th percentile of the inter-token latency.
    ItlP99 = "llm:itlP99", Duration, Nullable("itl_p99_ns");
    /// Greatest inter-token latency.
    ItlMax = "llm:itlMax", Duration, Nullable("itl_max_ns");
    /// Cost of the request, in US dollars.
    Cost = "llm:cost", Float, Elsewhere;
    /// Sequences in the batch.
    BatchSize = "llm:batchSize", Integer, Nullable("batch_size");
    /// Limit of the batch.
    MaxBatchSize = "llm:maxBatchSize", Integer, Nullable("max_batch_size");
    /// Batch over its limit, 0–1.
    BatchFill = "llm:batchFill", Float, Nullable("batch_fill_ratio");
    /// Requests waiting.
    QueueDepth = "llm:queueDepth", Integer, Nullable("queue_depth");
    /// Time in the queue.
    QueueWait = "llm:queueWait", Duration, Millis("queue_wait_ms");
    /// Whether a cache had the prefix.
    CacheHit = "llm:cacheHit", Bool, Nullable("cache_hit");
    /// Cached over input tokens, 0–1.
    CacheHitRatio = "llm:cacheHitRatio", Float, Nullable("cache_hit_ratio");
    /// KV cache in use, 0–1.
    KvCacheUsage = "llm:kvCacheUsage", Float, Nullable("kv_cache_usage_ratio");
    /// Times the request was preempted.
    Preemptions = "llm:preemptions", Integer, Nullable("preemptions");
    /// UUID of the GPU.
    GpuDevice = "gpu:device", Text, Nullable("gpu_device_id");
    /// Index of the GPU on its host.
    GpuIndex = "gpu:index", Integer, Nullable("gpu_index");
    /// Product name.
    GpuName = "gpu:name", Text, Nullable("gpu_name");
    /// Cloud instance type.
    GpuInstanceType = "gpu:instanceType", Text, Nullable("gpu_instance_type");
    /// MIG profile.
    GpuMigProfile = "gpu:migProfile", Text, Nullable("gpu_mig_profile");
    /// Utilisation, 0–100.
    GpuUtilization = "gpu:utilization", Float, Nullable("gpu_utilization_percent");
    /// Memory in use, bytes.
    GpuMemoryUsed = "gpu:memoryUsed", Integer, Nullable("gpu_memory_used_bytes");
    /// Memory, bytes.
    GpuMemoryTotal = "gpu:memoryTotal", Integer, Nullable("gpu_memory_total_bytes");
    /// Power, watts.
    GpuPower = "gpu:power", Float, Nullable("gpu_power_watts");
    /// Temperature, degrees Celsius.
    GpuTemperature = "gpu:temperature", Float, Nullable("gpu_temperature_celsius");
    /// SM clock, MHz.
    GpuSmClock = "gpu:smClock", Integer, Nullable("gpu_sm_clock_mhz");
    /// Memory clock, MHz.
    GpuMemoryClock = "gpu:memoryClock", Integer, Nullable("gpu_memory_clock_mhz");
    /// CPU cores in use.
    CpuCores = "host:cpuCores", Float, Nullable("cpu_cores_used");
    /// Heap, bytes.
    Heap = "host:heap", Integer, Nullable("memory_heap_bytes");
    /// Resident set, bytes.
    ResidentSet = "host:rss", Integer, Nullable("memory_rss_bytes");
}

/// A field of a span.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// One that every span has by its nature.
    Intrinsic(Intrinsic),
    /// One that its sender gave it.
    Attribute {
        /// Where.
        scope: Scope,
        /// Its key, never empty.
        key: String,
    },
}

impl Field {
    /// An attribute of a scope; `None` for an empty key, which no query can name.
    #[must_use]
    pub fn attribute(scope: Scope, key: impl Into<String>) -> Option<Self> {
        let key = key.into();
        (!key.is_empty()).then_some(Self::Attribute { scope, key })
    }
}

impl From<Intrinsic> for Field {
    fn from(intrinsic: Intrinsic) -> Self {
        Self::Intrinsic(intrinsic)
    }
}

/// Whether `character` may stand in an attribute's key without quotes; as in TraceQL.
pub(crate) fn is_of_key(character: char) -> bool {
    !character.is_whitespace()
        && !character.is_control()
        && !matches!(
            character,
            '{' | '}' | '(' | ')' | '=' | '~' | '!' | '<' | '>' | '&' | '|' | '^' | ',' | '"'
        )
}

impl fmt::Display for Intrinsic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl fmt::Display for Field {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scope, key) = match self {
            Self::Intrinsic(intrinsic) => return intrinsic.fmt(formatter),
            Self::Attribute { scope, key } => (scope, key),
        };
        write!(formatter, "{}.", scope.prefix())?;
        if key.chars().all(is_of_key) {
            return formatter.write_str(key);
        }
        formatter.write_str("\"")?;
        for character in key.chars() {
            if matches!(character, '"' | '\\') {
                formatter.write_str("\\")?;
            }
            write!(formatter, "{character}")?;
        }
        formatter.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPANS: &str = include_str!("../../../sinks/migrations/clickhouse/0001_spans.sql");

    /// The type of a column of `spans` in the migration.
    fn column_type(column: &str) -> Option<&'static str> {
        let table = SPANS.split("CREATE TABLE").nth(1)?;
        let mut lines = table.lines().map(str::trim);
        lines.find_map(|line| line.strip_prefix(column)?.strip_prefix(' ')).map(str::trim)
    }

    /// Scenario: every intrinsic against the table of spans. Guarantee: its column is there, nullable if and only if
    /// it says so, and of its type.
    #[test]
    fn intrinsics_are_columns() {
        for &intrinsic in Intrinsic::ALL {
            let (column, is_nullable) = match intrinsic.place() {
                Place::Column(column) => (column, false),
                Place::Nullable(column) | Place::Millis(column) => (column, true),
                Place::EventName | Place::Elsewhere => continue,
            };
            let declared = column_type(column).unwrap_or_else(|| panic!("{column} is not a column"));
            assert_eq!(declared.contains("Nullable("), is_nullable, "{column}");
            let types: &[&str] = match intrinsic.value_type() {
                Type::Text => &["String"],
                Type::Integer => &["UInt32", "UInt64"],
                Type::Float => &["Float64"],
                Type::Duration => &["Int64", "Float64"],
                Type::Bool => &["Bool"],
                Type::Status | Type::Kind => &["UInt8"],
                Type::TraceId => &["FixedString(16)"],
                Type::SpanId => &["FixedString(8)"],
            };
            assert!(types.iter().any(|name| declared.contains(name)), "{column}: {declared}");
        }
    }

    /// Scenario: every intrinsic's name. Guarantee: it is found by it; InferTrace's own names are in scopes that
    /// TraceQL does not use.
    #[test]
    fn names_are_found() {
        for &intrinsic in Intrinsic::ALL {
            assert_eq!(Intrinsic::from_name(intrinsic.name()), Some(intrinsic));
            if intrinsic >= Intrinsic::Model {
                let (scope, _) = intrinsic.name().split_once(':').expect("a scope");
                assert!(["llm", "gpu", "host"].contains(&scope));
            }
        }
    }
}
