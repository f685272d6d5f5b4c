//! What a trace cost, from its spans: the prices and the rules of the processors' summaries.

use infertrace_analytics::cost::{Cost, DeviceFacts, Pricer, RequestFacts, StepShare, trace_cost};
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

/// The cost as the API answers it.
///
/// # Errors
/// [`ViewError`] for a batch that is not of the span schema.
pub fn cost(trace: &Assembled, parts: &[Part], pricer: &Pricer) -> Result<Json, ViewError> {
    let mut usages = parts.iter().map(|part| Usages::new(&part.rows.batch)).collect::<Result<Vec<_>, _>>()?;
    let mut spans = Vec::with_capacity(trace.analysis.nodes.len());
    for (index, node) in trace.analysis.nodes.iter().enumerate() {
        let place = trace.place(index);
        let usage = usages[place.part as usize].of(place.row as usize);
        spans.push((node.parent, usage.map(|usage| cost_of(&usage, pricer))));
    }
    let Some(cost) = trace_cost(&spans) else { return Ok(json!({"status": "unavailable"})) };
    Ok(json!({
        "status": "available",
        "usd": cost.nano_usd as f64 * 1e-9,
        "nano_usd": cost.nano_usd.to_string(),
        "gpu_micros": cost.gpu_micros.to_string(),
        "kind": cost.kind.name(),
        "basis": cost.basis(),
        "price_version": &**pricer.version(),
        "priced_requests": cost.priced,
        "unpriced_requests": cost.unpriced,
    }))
}
