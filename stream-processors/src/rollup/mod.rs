//! The first stage's rollups: spans and closed traces counted by key and window, as they come.
//!
//! Neighbours: `assembly` closes traces and knows which spans are copies; [`infertrace_analytics::rollup`] has the cells;
//! `partials` carries them to the second stage. No I/O, no clock.
//!
//! A span is counted where it ends, in one cell:
//! - [`Shape::Request`](infertrace_analytics::rollup::Shape) by tenant, model, version, service and device, for a serving
//!   engine's report of one request: durations, first token, queue, phases, batch, cache, tokens, the
//!   device's readings, cost, and a few traces to look at;
//! - `Shape::Call` by tenant, model, version and service, for a client's or proxy's report of one: what it can know of
//!   these. Calls and requests tell of the same work and are never added up;
//! - `Shape::Spans` by tenant, model (if it names one), service and stage, for all others: their duration.
//!
//! A closed trace is counted once, at its first version, in the window of its partition's watermark: as `Shape::Trace` by
//! tenant and model (its first in tree order), and its stages' self and critical time as `Shape::Stage`.
//!
//! Invariants: what is counted, in which window, and in which window detectors see it, follow from the log and the
//! watermark; how records are cut into chunks and flushes changes nothing; memory is bounded by
//! [`Limits::max_bytes`] as long as the owner flushes when [`Roller::wants_flush`] says so.

mod cells;
mod columns;
mod cost;
mod keys;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use infertrace_analytics::{
    cost::{Cost, Pricer},
    rollup::{Counter, Exemplar, Measure, Millis, Partial},
};
use infertrace_schemas::{
    trace::{NameId, Names, StageTime},
    usage::Role,
};

pub(crate) use cells::Cells;
pub use cells::{Limits, Mark, RollupCounts};
pub use columns::Columns;
pub(crate) use columns::{STATUS_KEYS, permille, scaled};
pub use cost::Pricing;
pub(crate) use keys::KeyIds;
pub use keys::KeyLimits;

/// What is counted of a closed trace, its texts interned by the assembly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceFacts {
    /// Tenant.
    pub tenant: NameId,
    /// Model; of several, the first in tree order.
    pub model: NameId,
    /// Wall time of the trace.
    pub duration_ns: u64,
    /// Time to first token.
    pub ttft_ns: Option<u64>,
    /// Its part before the request was scheduled.
    pub ttft_queue_ns: Option<u64>,
    /// Time by stage.
    pub stages: Vec<StageTime>,
    /// Whether a span failed.
    pub is_error: bool,
    /// Whether nothing is known to be missing.
    pub is_complete: bool,
    /// Calls below which no engine reported.
    pub unreported_calls: u32,
}

/// Counts spans and traces of the spans topic's partitions; see the module's words.
///
/// Traces are kept apart because they are flushed with their summaries ([`Roller::flush_traces`]), since a restart
/// knows by those which traces are counted. Spans wait until a window is over ([`Roller::flush`]).
#[derive(Debug)]
pub struct Roller {
    spans: Cells,
    traces: Cells,
    pricing: Option<Pricing>,
}

impl Roller {
    /// An empty roller that knows no prices.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { spans: Cells::new(limits), traces: Cells::new(limits), pricing: None }
    }

    /// An empty roller that counts costs at the prices of `pricer`.
    #[must_use]
    pub fn priced(limits: Limits, pricer: Arc<Pricer>) -> Self {
        Self { pricing: Some(Pricing::new(pricer)), ..Self::new(limits) }
    }

    /// What the request cost that span `row` reports; `None` for other spans, and without prices.
    #[inline]
    pub fn cost(&mut self, columns: &mut Columns<'_>, row: usize) -> Option<Cost> {
        columns.cost(row, self.pricing.as_mut()?)
    }

    /// Takes over a partition, of which records below `rolled_to` are counted already, at this watermark.
    pub fn assign(&mut self, source: u32, rolled_to: u64, watermark_ms: Option<Millis>) {
        self.spans.assign(source, rolled_to, watermark_ms);
        self.traces.assign(source, rolled_to, watermark_ms);
    }

    /// Drops a partition and what was not flushed.
    pub fn revoke(&mut self, source: u32) {
        self.spans.revoke(source);
        self.traces.revoke(source);
    }

    /// Begins record `offset`: moves the watermark. `false` when its spans are counted already and must not be
    /// handed to [`Roller::span`].
    pub fn begin_record(&mut self, source: u32, offset: u64, timestamp_ms: Millis) -> bool {
        self.traces.begin_record(source, offset, timestamp_ms);
        self.spans.begin_record(source, offset, timestamp_ms)
    }

    /// Ends record `offset`.
    pub fn end_record(&mut self, source: u32, offset: u64) {
        self.spans.end_record(source, offset);
    }

    /// Moves a partition's watermark, never back.
    pub fn advance(&mut self, source: u32, to_ms: Millis) {
        self.spans.advance(source, to_ms);
        self.traces.advance(source, to_ms);
    }

    /// Counts span `row` of the record that was begun, and its [`Roller::cost`].
    #[inline]
    pub fn span(&mut self, source: u32, columns: &mut Columns<'_>, row: usize, cost: Option<&Cost>) {
        let own = *self.spans.own();
        let names = self.spans.names();
        let stage = columns.stage.get(row, names);
        let role = columns.usages.role(row);
        let mut service = columns.service.get(row, names);
        if service.is_empty() {
            service = own.unknown_service;
        }
        let mut key = KeyIds {
            tenant: columns.tenant.get(row, names),
            model: columns.model.get(row, names),
            service,
            ..KeyIds::default()
        };
        match role {
            Role::Request => {
                key.version = columns.version.get(row, names);
                key.device = columns.device.get(row, names);
            }
            Role::Call => {
                key.version = columns.version.get(row, names);
                key.stage = own.call;
            }
            Role::Other => key.stage = own.stage(stage),
        }
        let columns = &*columns;
        let version = self.pricing.as_ref().map_or("", |pricing| pricing.version());
        self.spans.count(source, key, columns.end_ms(row), |cell, exemplars| {
            let (duration_micros, is_error) = (columns.duration_micros(row), columns.is_error(row));
            cell.count(Counter::Spans, 1);
            cell.count(Counter::SpanErrors, u64::from(is_error));
            cell.measure(Measure::DurationMicros, duration_micros);
            if role == Role::Other {
                cell.count(Counter::Refused, u64::from(columns.is_refused(row)));
                return;
            }
            columns.count_request(row, cell);
            if let Some(cost) = cost {
                cost::count(cell, cost, version);
            }
            if role == Role::Request {
                columns.count_engine(row, cell);
            }
            exemplars.add(Exemplar { duration_micros, is_error, trace_id: columns.trace_id(row) });
        });
    }

    /// Counts a trace at its first closing, in the window of the watermark.
    pub fn trace(&mut self, source: u32, facts: &TraceFacts, names: &Names) {
        let Some(watermark_ms) = self.traces.watermark_ms(source) else { return };
        let own = *self.traces.own();
        let mut intern = |id: NameId| self.traces.names().intern(names.get(id));
        let whole = KeyIds {
            tenant: intern(facts.tenant),
            model: intern(facts.model),
            stage: own.trace,
            ..KeyIds::default()
        };
        self.traces.count(source, whole, watermark_ms, |cell, _| {
            cell.count(Counter::Traces, 1);
            cell.count(Counter::TraceErrors, u64::from(facts.is_error));
            cell.count(Counter::IncompleteTraces, u64::from(!facts.is_complete));
            cell.count(Counter::UnreportedCalls, u64::from(facts.unreported_calls));
            cell.measure(Measure::DurationMicros, facts.duration_ns / 1_000);
            if let Some(ttft) = facts.ttft_ns {
                cell.measure(Measure::TtftMicros, ttft / 1_000);
            }
            if let (Some(queue), Some(ttft)) = (facts.ttft_queue_ns, facts.ttft_ns) {
                cell.measure(Measure::QueueMicros, queue / 1_000);
                cell.measure(Measure::PrefillMicros, ttft.saturating_sub(queue) / 1_000);
            }
        });
        for time in &facts.stages {
            let stage = self.traces.names().intern(names.get(time.stage));
            let key = KeyIds { stage: own.stage(stage), ..whole };
            self.traces.count(source, key, watermark_ms, |cell, _| {
                cell.count(Counter::Traces, 1);
                cell.measure(Measure::SelfMicros, time.self_ns / 1_000);
                cell.measure(Measure::CriticalMicros, time.critical_ns / 1_000);
            });
        }
    }

    /// Whether cells of the partition should be flushed now: a window was closed, or memory is short.
    #[must_use]
    pub fn wants_flush(&self, source: u32) -> bool {
        self.spans.wants_flush(source) || self.traces.wants_memory()
    }

    /// Appends all that was counted since the last flush; `None` for a partition not assigned.
    pub fn flush(&mut self, source: u32, out: &mut Vec<Partial>) -> Option<Mark> {
        self.traces.flush(source, out);
        let first = out.len();
        let mark = self.spans.flush(source, out);
        cost::devices_charged(out, first);
        mark
    }

    /// Appends what was counted of traces since the last flush.
    pub fn flush_traces(&mut self, source: u32, out: &mut Vec<Partial>) {
        self.traces.flush(source, out);
    }

    /// Records below this offset are in flushed partials.
    #[must_use]
    pub fn rolled_to(&self, source: u32) -> Option<u64> {
        self.spans.rolled_to(source)
    }

    /// The watermark of a partition.
    #[must_use]
    pub fn watermark_ms(&self, source: u32) -> Option<Millis> {
        self.spans.watermark_ms(source)
    }

    /// Cells that wait for a flush.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.spans.len() + self.traces.len()
    }

    /// Distinct keys of about a window, those folded not included.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.spans.known_keys() + self.traces.known_keys()
    }

    /// About the memory that cells take.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.spans.bytes() + self.traces.bytes()
    }

    /// What happened since the last call.
    pub fn take_counts(&mut self) -> RollupCounts {
        let (spans, traces) = (self.spans.take_counts(), self.traces.take_counts());
        RollupCounts { folded: spans.folded + traces.folded, late: spans.late + traces.late }
    }
}
