//! What a trace cost, whole and by span: the prices and the rules of the processors' summaries.

use std::sync::Arc;

use infertrace_analytics::cost::{
    Cost, DeviceFacts, Pricer, RequestFacts, StepShare, TraceCost, trace_cost_of,
};
use infertrace_schemas::{
    usage::{Usage, Usages},
    view::ViewError,
};
use serde_json::{Value as Json, json};

use super::Assembled;
use crate::store::Part;

fn cost_of(usage: &Usage<'_>, pricer: &Pricer) -> Cost {
    let steps: Vec<StepShare> = usage.steps().map(|(micros, batch)| StepShare { micros, batch }).collect();
    let [prefill_micros, decode_micros] = usage.shared_micros();
    pricer.request_cost(&RequestFacts {
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
        steps: &steps,
        input_tokens: usage.input_tokens,
        cached_tokens: usage.cached_tokens,
        output_tokens: usage.output_tokens,
    })
}

/// What a trace cost, as a whole and by span.
#[derive(Debug)]
pub struct Priced {
    /// The cost of the request that each span reports, if it reports one; by the index of the node.
    spans: Vec<Option<SpanCost>>,
    sum: Option<TraceCost>,
    version: Arc<str>,
}

#[derive(Clone, Copy, Debug)]
struct SpanCost {
    cost: Cost,
    /// Whether it is part of the trace's.
    is_counted: bool,
}

impl Priced {
    /// Prices the spans of a trace.
    ///
    /// # Errors
    /// [`ViewError`] for a batch that is not of the span schema.
    pub fn of(trace: &Assembled, parts: &[Part], pricer: &Pricer) -> Result<Self, ViewError> {
        let mut usages =
            parts.iter().map(|part| Usages::new(&part.rows.batch)).collect::<Result<Vec<_>, _>>()?;
        let mut costs = Vec::with_capacity(trace.analysis.nodes.len());
        for (index, node) in trace.analysis.nodes.iter().enumerate() {
            let place = trace.place(index);
            let usage = usages[place.part as usize].of(place.row as usize);
            costs.push((node.parent, usage.map(|usage| cost_of(&usage, pricer))));
        }
        let mut spans: Vec<_> =
            costs.iter().map(|(_, cost)| cost.map(|cost| SpanCost { cost, is_counted: false })).collect();
        let sum = trace_cost_of(&costs, |index| {
            if let Some(span) = &mut spans[index] {
                span.is_counted = true;
            }
        });
        Ok(Self { spans, sum, version: Arc::clone(pricer.version()) })
    }

    /// The cost of the trace, as the API answers it.
    #[must_use]
    pub fn trace_json(&self) -> Json {
        let Some(cost) = self.sum else { return json!({"status": "unavailable"}) };
        json!({
            "status": "available",
            "usd": usd(cost.nano_usd),
            "nano_usd": cost.nano_usd.to_string(),
            "gpu_micros": cost.gpu_micros.to_string(),
            "kind": cost.kind.name(),
            "basis": cost.basis(),
            "price_version": &*self.version,
            "priced_requests": cost.priced,
            "unpriced_requests": cost.unpriced,
        })
    }

    /// The cost of the request that a span reports, where it is known.
    #[must_use]
    pub fn span_json(&self, node: usize) -> Option<Json> {
        let SpanCost { cost, is_counted } = self.spans[node].filter(|span| span.cost.is_known())?;
        Some(json!({
            "usd": usd(cost.nano_usd),
            "nano_usd": cost.nano_usd.to_string(),
            "gpu_micros": cost.gpu_micros.to_string(),
            "kind": cost.kind.name(),
            "basis": cost.basis.name(),
            "counted": is_counted,
        }))
    }
}

fn usd(nano_usd: u64) -> f64 {
    nano_usd as f64 * 1e-9
}
