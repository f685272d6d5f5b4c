//! What requests cost, from their spans.
//!
//! A request of an engine is priced by its GPU time: by every step where the span has a token timeline with batch
//! sizes, else by its phases and the batch that it reports. Where no batch is known, no GPU time is charged: taking such a request
//! to have run alone would charge a step as often as it had requests. A client's call is priced by its tokens, if its
//! provider has token prices.
//!
//! What requests on a device were charged is told of the device too, apart from who they were: devices are shared by
//! tenants and models, and their idle cost is what is left ([`devices_charged`]).

use std::{collections::BTreeMap, sync::Arc};

use infertrace_analytics::{
    cost::{Basis, Cost, CostKind, DeviceFacts, Pricer, RequestFacts, StepShare},
    rollup::{Cell, Counter, Exemplars, Key, Millis, Partial, Shape},
};
use infertrace_schemas::usage::{Usage, Usages};

/// A price table, and a buffer for steps.
#[derive(Clone, Debug)]
pub struct Pricing {
    pricer: Arc<Pricer>,
    steps: Vec<StepShare>,
}

impl Pricing {
    /// Prices by `pricer`.
    #[must_use]
    pub const fn new(pricer: Arc<Pricer>) -> Self {
        Self { pricer, steps: Vec::new() }
    }

    /// Version of the table.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        self.pricer.version()
    }

    /// What the request cost that span `row` reports; `None` for a span that reports none.
    pub fn cost(&mut self, usages: &mut Usages<'_>, row: usize) -> Option<Cost> {
        let usage = usages.of(row)?;
        self.steps.clear();
        self.steps.extend(usage.steps().map(|(micros, batch)| StepShare { micros, batch }));
        Some(self.pricer.request_cost(&facts(&usage, &self.steps)))
    }
}

fn facts<'a>(usage: &Usage<'a>, steps: &'a [StepShare]) -> RequestFacts<'a> {
    let [prefill_micros, decode_micros] = usage.shared_micros();
    RequestFacts {
        at_ms: usage.end_ms,
        provider: usage.provider,
        model: usage.model,
        device: DeviceFacts {
            region: usage.region,
            instance_type: usage.instance_type,
            gpu_name: usage.gpu_name,
            mig_profile: usage.mig_profile,
        },
        devices: 1,
        prefill_micros,
        decode_micros,
        batch_milli: usage.batch.map(|size| u64::from(size) * 1_000),
        steps,
        input_tokens: usage.input_tokens,
        cached_tokens: usage.cached_tokens,
        output_tokens: usage.output_tokens,
    }
}

/// Counts the cost of a request.
pub(super) fn count(cell: &mut Cell, cost: &Cost, version: &str) {
    if !cost.is_known() {
        cell.count(Counter::UnpricedRequests, 1);
        return;
    }
    let part = |is_part: bool| if is_part { cost.nano_usd } else { 0 };
    cell.note_prices(version);
    cell.count(Counter::GpuMicros, cost.gpu_micros);
    cell.count(Counter::CostNanoUsd, cost.nano_usd);
    cell.count(Counter::EstimatedNanoUsd, part(cost.kind == CostKind::Estimated));
    cell.count(Counter::TokenNanoUsd, part(cost.basis == Basis::Tokens));
}

/// Appends to `partials`, for each tenant and device among those from `first` on, what its requests were charged for their GPU time.
pub(super) fn devices_charged(partials: &mut Vec<Partial>, first: usize) {
    let mut charged: BTreeMap<(Millis, Millis, Key), u64> = BTreeMap::new();
    for Partial { window_ms, seen_window_ms, key, cell, .. } in partials.iter().skip(first) {
        let nano_usd = cell.get(Counter::CostNanoUsd) - cell.get(Counter::TokenNanoUsd);
        if nano_usd == 0 || key.device.is_empty() || key.shape() != Shape::Request {
            continue;
        }
        let (tenant, device) = (Arc::clone(&key.tenant), Arc::clone(&key.device));
        let of_device = Key { tenant, device, ..Key::default() };
        *charged.entry((*window_ms, *seen_window_ms, of_device)).or_default() += nano_usd;
    }
    partials.extend(charged.into_iter().map(|((window_ms, seen_window_ms, key), nano_usd)| {
        let mut cell = Cell::default();
        cell.count(Counter::ChargedNanoUsd, nano_usd);
        Partial { window_ms, seen_window_ms, key, cell, exemplars: Exemplars::default() }
    }));
}
