//! What engines and instrumentations call things, and which column each becomes: one table.
//!
//! The reader looks every attribute key up in [`Lookup`]; a hit fills a typed column, and the attribute stays
//! in its map as well. Of several sources of one column the first in [`ROWS`] that is present and readable
//! wins; what a native sender says explicitly wins over all of them; resource attributes come last.
//! Invariant: an attribute nobody maps is kept, never dropped.

mod convert;
mod names;
mod rows;

pub use convert::{Converted, convert, joined_reasons};
pub use names::{
    FRAMEWORKS, KEY_PREFIXES, STAGES, StageRow, framework_of_key, framework_of_scope, framework_of_service,
    may_name_a_stage, request_id_of_name, stage_of,
};
pub use rows::ROWS;

use crate::columns::index;

/// Milliseconds, seconds and the like: how a source's number becomes the column's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convert {
    /// Text as it is; empty text is no value.
    Text,
    /// A count: integers, whole doubles and their decimal text.
    Count,
    /// A number as it is.
    Number,
    /// A truth value, also as text.
    Flag,
    /// Seconds to nanoseconds.
    SecondsToNanos,
    /// Milliseconds to nanoseconds.
    MillisToNanos,
    /// Seconds to milliseconds.
    SecondsToMillis,
    /// 0–1 to 0–100.
    RatioToPercent,
    /// MiB to bytes.
    MebibytesToBytes,
    /// One or several reasons: text, an array, or a JSON array in a text.
    Reasons,
    /// An array of numbers, taken as it stands.
    Numbers,
}

macro_rules! targets {
    (columns { $($(#[$doc:meta])* $variant:ident => $column:ident;)* } helpers { $($(#[$helper_doc:meta])* $helper:ident;)* })  => {
        /// What a source fills: a typed column, or a quantity that columns are derived from.
        ///
        /// The order groups targets by type; see [`Kind`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Target { $($(#[$doc])* $variant,)* $($(#[$helper_doc])* $helper,)* }

        impl Target {
            /// Every target that is a column, with its position in the schema.
            pub const COLUMNS: &[(Self, usize)] = &[$((Self::$variant, index::$column)),*];
            /// Every target.
            pub const ALL: &[Self] = &[$(Self::$variant,)* $(Self::$helper),*];
        }
    };
}

targets! {
    columns {
    /// Model.
    ModelName => MODEL_NAME;
    /// Version of the model.
    ModelVersion => MODEL_VERSION;
    /// Serving framework.
    Framework => FRAMEWORK;
    /// Provider.
    Provider => PROVIDER;
    /// Why generation ended.
    FinishReason => FINISH_REASON;
    /// Stage of the pipeline.
    Stage => STAGE;
    /// GPU's UUID.
    GpuDeviceId => GPU_DEVICE_ID;
    /// GPU's product name.
    GpuName => GPU_NAME;
    /// Cloud instance type.
    GpuInstanceType => GPU_INSTANCE_TYPE;
    /// MIG profile.
    GpuMigProfile => GPU_MIG_PROFILE;
    /// Request id.
    RequestId => REQUEST_ID;
    /// Session id.
    SessionId => SESSION_ID;
    /// Sequences in the batch.
    BatchSize => BATCH_SIZE;
    /// Limit of the batch.
    MaxBatchSize => MAX_BATCH_SIZE;
    /// Requests waiting.
    QueueDepth => QUEUE_DEPTH;
    /// Preemptions.
    Preemptions => PREEMPTIONS;
    /// GPU's index.
    GpuIndex => GPU_INDEX;
    /// SM clock.
    GpuSmClockMhz => GPU_SM_CLOCK_MHZ;
    /// Memory clock.
    GpuMemoryClockMhz => GPU_MEMORY_CLOCK_MHZ;
    /// Tokens in.
    InputTokens => INPUT_TOKENS;
    /// Tokens out.
    OutputTokens => OUTPUT_TOKENS;
    /// Tokens in from a cache.
    CachedTokens => CACHED_TOKENS;
    /// Reasoning tokens.
    ReasoningTokens => REASONING_TOKENS;
    /// Tokens in and out.
    SequenceLength => SEQUENCE_LENGTH;
    /// Time to first token.
    TtftNs => TTFT_NS;
    /// Time per output token.
    TpotNs => TPOT_NS;
    /// Median inter-token latency.
    ItlP50Ns => ITL_P50_NS;
    /// 99th percentile of it.
    ItlP99Ns => ITL_P99_NS;
    /// Greatest of it.
    ItlMaxNs => ITL_MAX_NS;
    /// GPU memory in use.
    GpuMemoryUsedBytes => GPU_MEMORY_USED_BYTES;
    /// GPU memory.
    GpuMemoryTotalBytes => GPU_MEMORY_TOTAL_BYTES;
    /// Throttle reasons.
    GpuThrottleReasons => GPU_THROTTLE_REASONS;
    /// Heap.
    MemoryHeapBytes => MEMORY_HEAP_BYTES;
    /// Resident set.
    MemoryRssBytes => MEMORY_RSS_BYTES;
    /// Milliseconds in the queue.
    QueueWaitMs => QUEUE_WAIT_MS;
    /// Batch over its limit.
    BatchFillRatio => BATCH_FILL_RATIO;
    /// Cached over input tokens.
    CacheHitRatio => CACHE_HIT_RATIO;
    /// KV cache in use.
    KvCacheUsageRatio => KV_CACHE_USAGE_RATIO;
    /// GPU utilisation.
    GpuUtilizationPercent => GPU_UTILIZATION_PERCENT;
    /// Power.
    GpuPowerWatts => GPU_POWER_WATTS;
    /// Temperature.
    GpuTemperatureCelsius => GPU_TEMPERATURE_CELSIUS;
    /// CPU cores in use.
    CpuCoresUsed => CPU_CORES_USED;
    /// Streamed or not.
    Streaming => STREAMING;
    /// Cache hit or not.
    CacheHit => CACHE_HIT;
    }
    helpers {
    /// Time of the whole request, from which TPOT is computed.
    E2eNs;
    /// Time to the first chunk, which only streams have.
    FirstChunkNs;
    /// LoongSuite's offsets of the tokens from the span's start, seconds.
    TokenTimes;
    /// LoongSuite's batch sizes of the steps that made the tokens.
    TokenBatchSizes;
    }
}

/// Type of a target's column, in the order in which [`Target`] groups them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Dictionary-coded text.
    Term,
    /// Text.
    Text,
    /// 32-bit count.
    U32,
    /// 64-bit count.
    U64,
    /// Number.
    F64,
    /// Truth value.
    Flag,
    /// No column of its own.
    Helper,
}

impl Target {
    /// First of each kind, in the order of [`Kind`].
    pub const FIRST: [Self; 7] = [
        Self::ModelName,
        Self::RequestId,
        Self::BatchSize,
        Self::InputTokens,
        Self::QueueWaitMs,
        Self::Streaming,
        Self::E2eNs,
    ];

    /// Type of its column.
    #[must_use]
    #[inline]
    pub const fn kind(self) -> Kind {
        let this = self as u8;
        if this < Self::RequestId as u8 {
            Kind::Term
        } else if this < Self::BatchSize as u8 {
            Kind::Text
        } else if this < Self::InputTokens as u8 {
            Kind::U32
        } else if this < Self::QueueWaitMs as u8 {
            Kind::U64
        } else if this < Self::Streaming as u8 {
            Kind::F64
        } else if this < Self::E2eNs as u8 {
            Kind::Flag
        } else {
            Kind::Helper
        }
    }

    /// Its position among the targets of its kind.
    #[must_use]
    #[inline]
    pub const fn slot(self) -> usize {
        (self as u8 - Self::FIRST[self.kind() as usize] as u8) as usize
    }

    /// How many targets of `kind` there are.
    #[must_use]
    pub const fn count(kind: Kind) -> usize {
        let end = match kind {
            Kind::Helper => Self::ALL.len(),
            _ => Self::FIRST[kind as usize + 1] as usize,
        };
        end - Self::FIRST[kind as usize] as usize
    }

    /// The conversion for a source that already has the column's unit.
    #[must_use]
    pub const fn natural(self) -> Convert {
        match self.kind() {
            Kind::Term | Kind::Text => Convert::Text,
            Kind::U32 | Kind::U64 => Convert::Count,
            Kind::F64 => Convert::Number,
            Kind::Flag => Convert::Flag,
            Kind::Helper => Convert::Numbers,
        }
    }
}

/// Where a source is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Attributes of the span, then of its resource.
    Anywhere,
    /// Attributes of the resource only.
    Resource,
}

/// One row of the table: an attribute, the column it fills, and the conversion between.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Attribute key.
    pub source: &'static str,
    /// What it fills.
    pub target: Target,
    /// How.
    pub convert: Convert,
    /// Where it is looked for.
    pub place: Place,
}

/// Rank of what a native sender says explicitly: nothing beats it.
pub const NATIVE: u8 = 0;
/// Prefix under which any OpenTelemetry user can fill any column: `infertrace.batch_size` and so on.
pub const OWN_PREFIX: &str = "infertrace.";

/// A row as the reader finds it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Attribute key.
    pub source: Box<str>,
    /// What it fills.
    pub target: Target,
    /// How.
    pub convert: Convert,
    /// A lower rank wins.
    pub rank: u8,
    /// The framework that alone sends such keys.
    pub framework: Option<&'static str>,
}

/// The table as a hash of keys: one multiplication and, for nearly every key, one comparison.
#[derive(Debug)]
pub struct Lookup {
    entries: Vec<Entry>,
    /// Index into `entries` plus one; 0 is free.
    slots: Box<[u16; SLOTS]>,
}

const SLOTS: usize = 1 << 11;

/// Mixes a key's length with its first and last eight bytes: enough to tell our keys apart.
#[inline]
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    let length = key.len();
    let (first, last) = match (key.first_chunk::<8>(), key.last_chunk::<8>()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => match (key.first_chunk::<4>(), key.last_chunk::<4>()) {
            (Some(first), Some(last)) => {
                (u64::from(u32::from_le_bytes(*first)), u64::from(u32::from_le_bytes(*last)))
            }
            _ => (
                u64::from(key.first().copied().unwrap_or(0)),
                u64::from(key.get(length / 2).copied().unwrap_or(0)) << 8
                    | u64::from(key.last().copied().unwrap_or(0)),
            ),
        },
    };
    let mixed = first ^ last.rotate_left(29) ^ (length as u64).wrapping_mul(0xa076_1d64_78bd_642f);
    let product = u128::from(mixed ^ 0xe703_7ed1_a0b4_28db) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
    (product >> 64) as u64 ^ product as u64
}

impl Lookup {
    /// The table for attributes found in `place`.
    #[must_use]
    pub fn new(place: Place) -> Self {
        let mut lookup = Self { entries: Vec::new(), slots: Box::new([0; SLOTS]) };
        for (target, column) in Target::COLUMNS {
            let source = format!("{OWN_PREFIX}{}", crate::columns::name::ALL[*column]);
            lookup.add(source, *target, target.natural(), 1);
        }
        let mut next_rank = [2u8; 64];
        for row in ROWS {
            let rank = &mut next_rank[row.target as usize];
            if row.place == Place::Anywhere || place == Place::Resource {
                lookup.add(row.source.to_owned(), row.target, row.convert, *rank);
            }
            *rank += 1;
        }
        lookup
    }

    fn add(&mut self, source: String, target: Target, convert: Convert, rank: u8) {
        let mut slot = key_hash(source.as_bytes()) as usize % SLOTS;
        while self.slots[slot] != 0 {
            let taken = &self.entries[usize::from(self.slots[slot]) - 1];
            assert_ne!(*taken.source, *source, "a key has one row");
            slot = (slot + 1) % SLOTS;
        }
        let framework = names::framework_of_key(&source);
        self.entries.push(Entry { source: source.into(), target, convert, rank, framework });
        self.slots[slot] = u16::try_from(self.entries.len()).expect("the table is small");
    }

    /// The row of `key`.
    #[must_use]
    #[inline]
    pub fn find(&self, key: &[u8]) -> Option<&Entry> {
        let mut slot = key_hash(key) as usize % SLOTS;
        loop {
            let entry = self.entries.get(usize::from(self.slots[slot]).checked_sub(1)?)?;
            if entry.source.as_bytes() == key {
                return Some(entry);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// Every row, most important first within a target.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests;
