//! Stored usage at another table's prices: new rows beside the old ones, and the difference by model.

use std::{collections::BTreeMap, sync::Arc};

use super::{Basis, Cost, CostKind, DeviceFacts, Pricer, RequestFacts, exact::price_of};
use crate::rollup::Millis;

/// What one request used, as it was stored with its cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// Identity of the request: trace and span.
    pub trace_id: [u8; 16],
    /// Span.
    pub span_id: [u8; 8],
    /// Tenant.
    pub tenant: Arc<str>,
    /// Model.
    pub model: Arc<str>,
    /// Provider.
    pub provider: Arc<str>,
    /// When it ended.
    pub at_ms: Millis,
    /// Region of its device.
    pub region: Arc<str>,
    /// Instance type of its device.
    pub instance_type: Arc<str>,
    /// Product name of its device.
    pub gpu_name: Arc<str>,
    /// MIG profile of its device.
    pub mig_profile: Arc<str>,
    /// Prompt tokens.
    pub input_tokens: Option<u64>,
    /// Prompt tokens from a cache.
    pub cached_tokens: Option<u64>,
    /// Generated tokens.
    pub output_tokens: Option<u64>,
    /// What it cost then.
    pub cost: Cost,
}

/// A cost under a version of the prices; rows of other versions stay beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostRow {
    /// Trace.
    pub trace_id: [u8; 16],
    /// Span.
    pub span_id: [u8; 8],
    /// The new cost, with the new table's version.
    pub cost: Cost,
    /// The version that the row was priced with before.
    pub previous_version: Arc<str>,
}

/// How the cost of one model changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelDiff {
    /// Model.
    pub model: Arc<str>,
    /// Requests.
    pub requests: u64,
    /// Requests whose cost differs.
    pub changed: u64,
    /// Requests that the new table has no price for.
    pub unknown: u64,
    /// Cost before, billionths of a US dollar.
    pub before_nano_usd: u128,
    /// Cost now.
    pub after_nano_usd: u128,
}

/// Prices rows again, one by one, and adds up the difference.
#[derive(Debug)]
pub struct Repricer<'p> {
    pricer: &'p Pricer,
    models: BTreeMap<Arc<str>, ModelDiff>,
}

impl<'p> Repricer<'p> {
    /// Prices with `pricer`.
    #[must_use]
    pub const fn new(pricer: &'p Pricer) -> Self {
        Self { pricer, models: BTreeMap::new() }
    }

    /// The row at the new prices. GPU time stays as it was measured or estimated then; prices do not change it.
    pub fn reprice(&mut self, row: &UsageRow) -> CostRow {
        let cost = self.cost(row);
        let model = self
            .models
            .entry(Arc::clone(&row.model))
            .or_insert_with(|| ModelDiff { model: Arc::clone(&row.model), ..ModelDiff::default() });
        model.requests += 1;
        model.changed += u64::from(cost.nano_usd != row.cost.nano_usd);
        model.unknown += u64::from(cost.basis == Basis::Unknown);
        model.before_nano_usd += u128::from(row.cost.nano_usd);
        model.after_nano_usd += u128::from(cost.nano_usd);
        CostRow {
            trace_id: row.trace_id,
            span_id: row.span_id,
            cost,
            previous_version: Arc::clone(&row.cost.price_version),
        }
    }

    fn cost(&self, row: &UsageRow) -> Cost {
        let device = DeviceFacts {
            region: &row.region,
            instance_type: &row.instance_type,
            gpu_name: &row.gpu_name,
            mig_profile: &row.mig_profile,
        };
        if row.cost.gpu_micros > 0
            && row.cost.basis != Basis::Tokens
            && let Some(rate) = self.pricer.rate(&device, row.at_ms)
        {
            // What was an estimate only for its price is an estimate still: the reason was not kept.
            let kind = row.cost.kind.and(CostKind::measured_if(rate.is_exact));
            let nano_usd = price_of(row.cost.gpu_micros, rate.nano_usd_per_hour, rate.share);
            return Cost {
                nano_usd,
                gpu_micros: row.cost.gpu_micros,
                kind,
                basis: Basis::Gpu,
                price_version: Arc::clone(self.pricer.version()),
            };
        }
        let tokens = self.pricer.request_cost(&RequestFacts {
            at_ms: row.at_ms,
            provider: &row.provider,
            model: &row.model,
            input_tokens: row.input_tokens,
            cached_tokens: row.cached_tokens,
            output_tokens: row.output_tokens,
            ..RequestFacts::default()
        });
        Cost { gpu_micros: row.cost.gpu_micros, ..tokens }
    }

    /// The differences by model, in the order of their names.
    pub fn diff(&self) -> impl Iterator<Item = &ModelDiff> {
        self.models.values()
    }
}
