//! The columns that rollups read, as typed slices.
//!
//! Texts are interned once per distinct dictionary value of a batch. Nothing is allocated a span.

use arrow::array::{
    Array, FixedSizeBinaryArray, Float64Array, Int64Array, MapArray, RecordBatch, StringArray,
    TimestampNanosecondArray, UInt8Array, UInt32Array, UInt64Array,
};
use infertrace_analytics::{
    cost::Cost,
    rollup::{Cell, Counter, Measure, Millis},
};
use infertrace_schemas::{
    columns::{index, status},
    usage::{Usage, Usages},
};

use super::Pricing;
use crate::{
    rows::{BadColumn, Words, typed},
    throttle::throttled_permille,
};

const SERVER: u8 = 2;
/// Attributes with the HTTP status of a server's answer: the current convention, and the one before.
pub(crate) const STATUS_KEYS: [&str; 2] = ["http.response.status_code", "http.status_code"];

/// Row access to the columns that rollups need.
#[derive(Debug)]
pub struct Columns<'a> {
    trace_id: &'a FixedSizeBinaryArray,
    parent: &'a FixedSizeBinaryArray,
    start: &'a [i64],
    duration: &'a [i64],
    kind: &'a [u8],
    status: &'a [u8],
    pub(super) tenant: Words<'a>,
    pub(super) model: Words<'a>,
    pub(super) version: Words<'a>,
    pub(super) service: Words<'a>,
    pub(super) stage: Words<'a>,
    pub(super) device: Words<'a>,
    /// What spans say of requests.
    pub(super) usages: Usages<'a>,
    batch_size: &'a UInt32Array,
    queue_depth: &'a UInt32Array,
    preemptions: &'a UInt32Array,
    sm_clock_mhz: &'a UInt32Array,
    input_tokens: &'a UInt64Array,
    output_tokens: &'a UInt64Array,
    cached_tokens: &'a UInt64Array,
    ttft_ns: &'a UInt64Array,
    tpot_ns: &'a UInt64Array,
    itl_p99_ns: &'a UInt64Array,
    memory_used: &'a UInt64Array,
    memory_total: &'a UInt64Array,
    throttle_reasons: &'a UInt64Array,
    queue_wait_ms: &'a Float64Array,
    batch_fill: &'a Float64Array,
    cache_hit_ratio: &'a Float64Array,
    kv_usage: &'a Float64Array,
    utilization: &'a Float64Array,
    power: &'a Float64Array,
    temperature: &'a Float64Array,
    integers: Integers<'a>,
}

/// The map of integer attributes.
#[derive(Debug)]
struct Integers<'a> {
    offsets: &'a [i32],
    keys: &'a StringArray,
    values: &'a [i64],
}

impl<'a> Columns<'a> {
    /// Views a batch of the span schema.
    ///
    /// # Errors
    /// [`BadColumn`] when it has another schema.
    pub fn new(batch: &'a RecordBatch) -> Result<Self, BadColumn> {
        Ok(Self {
            trace_id: typed(batch, index::TRACE_ID)?,
            parent: typed(batch, index::PARENT_SPAN_ID)?,
            start: typed::<TimestampNanosecondArray>(batch, index::START_TIME)?.values(),
            duration: typed::<Int64Array>(batch, index::DURATION_NS)?.values(),
            kind: typed::<UInt8Array>(batch, index::KIND)?.values(),
            status: typed::<UInt8Array>(batch, index::STATUS_CODE)?.values(),
            tenant: Words::new(batch, index::TENANT)?,
            model: Words::new(batch, index::MODEL_NAME)?,
            version: Words::new(batch, index::MODEL_VERSION)?,
            service: Words::new(batch, index::SERVICE_NAME)?,
            stage: Words::new(batch, index::STAGE)?,
            device: Words::new(batch, index::GPU_DEVICE_ID)?,
            usages: Usages::new(batch)?,
            batch_size: typed(batch, index::BATCH_SIZE)?,
            queue_depth: typed(batch, index::QUEUE_DEPTH)?,
            preemptions: typed(batch, index::PREEMPTIONS)?,
            sm_clock_mhz: typed(batch, index::GPU_SM_CLOCK_MHZ)?,
            input_tokens: typed(batch, index::INPUT_TOKENS)?,
            output_tokens: typed(batch, index::OUTPUT_TOKENS)?,
            cached_tokens: typed(batch, index::CACHED_TOKENS)?,
            ttft_ns: typed(batch, index::TTFT_NS)?,
            tpot_ns: typed(batch, index::TPOT_NS)?,
            itl_p99_ns: typed(batch, index::ITL_P99_NS)?,
            memory_used: typed(batch, index::GPU_MEMORY_USED_BYTES)?,
            memory_total: typed(batch, index::GPU_MEMORY_TOTAL_BYTES)?,
            throttle_reasons: typed(batch, index::GPU_THROTTLE_REASONS)?,
            queue_wait_ms: typed(batch, index::QUEUE_WAIT_MS)?,
            batch_fill: typed(batch, index::BATCH_FILL_RATIO)?,
            cache_hit_ratio: typed(batch, index::CACHE_HIT_RATIO)?,
            kv_usage: typed(batch, index::KV_CACHE_USAGE_RATIO)?,
            utilization: typed(batch, index::GPU_UTILIZATION_PERCENT)?,
            power: typed(batch, index::GPU_POWER_WATTS)?,
            temperature: typed(batch, index::GPU_TEMPERATURE_CELSIUS)?,
            integers: Integers::new(batch)?,
        })
    }

    /// What the request used that span `row` reports; `None` for a span that reports none.
    pub fn usage(&mut self, row: usize) -> Option<Usage<'_>> {
        self.usages.of(row)
    }

    /// What that request cost.
    pub fn cost(&mut self, row: usize, pricing: &mut Pricing) -> Option<Cost> {
        pricing.cost(&mut self.usages, row)
    }

    /// End of span `row`, milliseconds.
    pub(super) fn end_ms(&self, row: usize) -> Millis {
        self.start[row].saturating_add(self.duration[row]).div_euclid(1_000_000)
    }

    pub(super) fn trace_id(&self, row: usize) -> [u8; 16] {
        self.trace_id.value(row).try_into().unwrap_or_default()
    }

    pub(super) fn duration_micros(&self, row: usize) -> u64 {
        self.duration[row].max(0) as u64 / 1_000
    }

    pub(super) fn is_error(&self, row: usize) -> bool {
        self.status[row] == status::ERROR
    }

    /// Whether a front refused the request: a root that answered 429 or 503.
    pub(super) fn is_refused(&self, row: usize) -> bool {
        self.parent.is_null(row)
            && self.kind[row] <= SERVER
            && matches!(self.integers.status(row), Some(429 | 503))
    }

    /// Token counts, and the latencies that client and engine both know.
    pub(super) fn count_request(&self, row: usize, cell: &mut Cell) {
        cell.count(Counter::Requests, 1);
        cell.count(Counter::Errors, u64::from(self.is_error(row)));
        let counts = [
            (self.input_tokens, Counter::InputTokens, Some(Measure::InputTokens)),
            (self.output_tokens, Counter::OutputTokens, Some(Measure::OutputTokens)),
            (self.cached_tokens, Counter::CachedTokens, None),
        ];
        for (column, counter, measure) in counts {
            if let Some(tokens) = get(column, row) {
                cell.count(counter, tokens);
                if let Some(measure) = measure {
                    cell.measure(measure, tokens);
                }
            }
        }
        let times = [
            (self.ttft_ns, Measure::TtftMicros),
            (self.tpot_ns, Measure::TpotMicros),
            (self.itl_p99_ns, Measure::ItlP99Micros),
        ];
        for (column, measure) in times {
            if let Some(nanos) = get(column, row) {
                cell.measure(measure, nanos / 1_000);
            }
        }
        let ratio = self.cache_hit_ratio.is_valid(row).then(|| self.cache_hit_ratio.value(row));
        measure_scaled(cell, Measure::CacheHitPermille, ratio, 1e3);
    }

    /// What only an engine knows: queue, phases, batch, cache, device.
    pub(super) fn count_engine(&self, row: usize, cell: &mut Cell) {
        let number = |column: &Float64Array| column.is_valid(row).then(|| column.value(row));
        let small = |column: &UInt32Array| column.is_valid(row).then(|| u64::from(column.value(row)));
        let queue_micros = number(self.queue_wait_ms).and_then(|wait| scaled(wait, 1e3));
        if let Some(queue) = queue_micros {
            cell.measure(Measure::QueueMicros, queue);
        }
        if let Some(ttft) = get(self.ttft_ns, row).map(|nanos| nanos / 1_000) {
            if let Some(queue) = queue_micros {
                cell.measure(Measure::PrefillMicros, ttft.saturating_sub(queue));
            }
            if let Some(decode) = self.duration_micros(row).checked_sub(ttft) {
                cell.measure(Measure::DecodeMicros, decode);
            }
        }
        if let Some(batch) = small(self.batch_size) {
            cell.measure(Measure::BatchMilli, batch * 1_000);
        }
        measure_scaled(cell, Measure::BatchFillPermille, number(self.batch_fill), 1e3);
        if let Some(depth) = small(self.queue_depth) {
            cell.measure(Measure::QueueDepth, depth);
        }
        measure_scaled(cell, Measure::KvUsagePermille, number(self.kv_usage), 1e3);
        cell.count(Counter::Preemptions, small(self.preemptions).unwrap_or(0));
        measure_scaled(cell, Measure::GpuUtilizationPermille, number(self.utilization), 10.0);
        if let (Some(used), Some(total @ 1..)) = (get(self.memory_used, row), get(self.memory_total, row)) {
            cell.measure(Measure::GpuMemoryPermille, permille(used, total));
        }
        measure_scaled(cell, Measure::GpuPowerMilliwatts, number(self.power), 1e3);
        measure_scaled(cell, Measure::GpuTemperatureMilliCelsius, number(self.temperature), 1e3);
        if let Some(clock) = small(self.sm_clock_mhz) {
            cell.measure(Measure::GpuSmClockMhz, clock);
        }
        if let Some(reasons) = get(self.throttle_reasons, row) {
            cell.measure(Measure::GpuThrottledPermille, throttled_permille(reasons));
        }
    }
}

fn get(column: &UInt64Array, row: usize) -> Option<u64> {
    column.is_valid(row).then(|| column.value(row))
}

/// `part` of `whole` (not 0), per mille.
pub(crate) fn permille(part: u64, whole: u64) -> u64 {
    (u128::from(part) * 1_000 / u128::from(whole)).min(u128::from(u64::MAX)) as u64
}

/// A number in a smaller unit, rounded; `None` for what is no number or below 0.
pub(crate) fn scaled(value: f64, by: f64) -> Option<u64> {
    (value.is_finite() && value >= 0.0).then(|| (value * by).round() as u64)
}

fn measure_scaled(cell: &mut Cell, measure: Measure, value: Option<f64>, by: f64) {
    if let Some(value) = value.and_then(|value| scaled(value, by)) {
        cell.measure(measure, value);
    }
}

impl<'a> Integers<'a> {
    fn new(batch: &'a RecordBatch) -> Result<Self, BadColumn> {
        let bad = || BadColumn::at(index::ATTRIBUTES_INT);
        let map: &MapArray = typed(batch, index::ATTRIBUTES_INT)?;
        let keys = map.keys().as_any().downcast_ref().ok_or_else(bad)?;
        let values: &Int64Array = map.values().as_any().downcast_ref().ok_or_else(bad)?;
        Ok(Self { offsets: map.value_offsets(), keys, values: values.values() })
    }

    fn status(&self, row: usize) -> Option<i64> {
        let (from, to) = (self.offsets[row] as usize, self.offsets[row + 1] as usize);
        let is_status = |at: &usize| STATUS_KEYS.contains(&self.keys.value(*at));
        (from..to).find(is_status).map(|at| self.values[at])
    }
}
