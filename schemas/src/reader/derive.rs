//! What follows from the rest of a span: lengths, ratios, TPOT, queue waits, framework and stage.
//!
//! Invariant: nothing said is overwritten by something derived, with one exception: input plus output is a
//! sequence's length, whatever total an instrumentation wrote beside them.

use super::{
    nested::Tokens,
    origin::Origin,
    scratch::{DERIVED, Fixed, Scratch},
};
use crate::mapping::{Target, request_id_of_name, stage_of};

/// What the names of a span's service and operation tell, found once a distinct name.
#[derive(Clone, Copy)]
pub(super) struct Names<'n> {
    pub(super) service_framework: Option<&'static str>,
    /// The operation, where it may name a stage.
    pub(super) stage_name: Option<&'n str>,
}

/// Ranks up to this one are the sender's own words: native fields and `infertrace.` attributes.
const OWN: u8 = 1;

/// Completes `scratch` for one span.
#[inline]
pub(super) fn derive<'a>(
    scratch: &mut Scratch<'a>,
    fixed: &mut Fixed<'a>,
    tokens: &mut Tokens,
    origin: &Origin,
    names: Names<'_>,
) {
    for (target, rank, bits) in &origin.numbers {
        scratch.offer_bits(*target, *rank, *bits);
    }
    if !fixed.has_tokens {
        fixed.has_tokens = tokens.push_arrays(scratch.token_times, scratch.token_batch_sizes);
    }
    if fixed.has_tokens {
        from_tokens(scratch, tokens);
    }
    usage(scratch);
    latencies(scratch, fixed);
    batch(scratch);
    framework_and_stage(scratch, fixed, origin, names);
}

/// The request id that a name carries, which is text of the span itself.
fn offer_request_id<'a>(scratch: &mut Scratch<'a>, fixed: &Fixed<'a>) {
    if !scratch.has(Target::RequestId)
        && let Some(id) = std::str::from_utf8(fixed.operation).ok().and_then(request_id_of_name)
    {
        scratch.offer_text(Target::RequestId, DERIVED, id.as_bytes());
    }
}

fn from_tokens(scratch: &mut Scratch<'_>, tokens: &mut Tokens) {
    let nanos = |micros: u32| u64::from(micros) * 1_000;
    if let Some(first) = tokens.first_micros() {
        scratch.offer_bits(Target::TtftNs, DERIVED, nanos(first));
    }
    if let Some(size) = tokens.mean_batch_size() {
        scratch.offer_bits(Target::BatchSize, DERIVED, u64::from(size));
    }
    if let Some(itl) = tokens.summarise() {
        scratch.offer_bits(Target::ItlP50Ns, DERIVED, nanos(itl.p50));
        scratch.offer_bits(Target::ItlP99Ns, DERIVED, nanos(itl.p99));
        scratch.offer_bits(Target::ItlMaxNs, DERIVED, nanos(itl.max));
        scratch.offer_bits(Target::TpotNs, DERIVED, (itl.mean * 1e3).round() as u64);
    }
}

#[inline]
fn usage(scratch: &mut Scratch<'_>) {
    let (input, output) = (scratch.bits(Target::InputTokens), scratch.bits(Target::OutputTokens));
    if let (Some(input), Some(output)) = (input, output)
        && scratch.rank_of(Target::SequenceLength).is_none_or(|rank| rank > OWN)
    {
        // The sum goes over a total that an instrumentation wrote.
        scratch.replace_bits(Target::SequenceLength, OWN, input.saturating_add(output));
    }
    if let Some(cached) = scratch.bits(Target::CachedTokens) {
        scratch.offer_bits(Target::CacheHit, DERIVED, u64::from(cached > 0));
        if let Some(input @ 1..) = input {
            // Some providers count cached tokens beside the input, not within it.
            scratch.offer_number(Target::CacheHitRatio, DERIVED, (cached as f64 / input as f64).min(1.0));
        }
    }
}

#[inline]
fn latencies(scratch: &mut Scratch<'_>, fixed: &Fixed<'_>) {
    if let Some(first_chunk) = scratch.bits(Target::FirstChunkNs) {
        scratch.offer_bits(Target::TtftNs, DERIVED, first_chunk);
        // Only an answer in chunks has a first one.
        scratch.offer_bits(Target::Streaming, DERIVED, 1);
    }
    if !scratch.has(Target::TpotNs)
        && let (Some(ttft), Some(output @ 2..)) =
            (scratch.bits(Target::TtftNs), scratch.bits(Target::OutputTokens))
    {
        let whole = scratch.bits(Target::E2eNs).unwrap_or(fixed.duration_ns as u64);
        if let Some(generating) = whole.checked_sub(ttft) {
            let tpot = generating as f64 / (output - 1) as f64;
            scratch.offer_bits(Target::TpotNs, DERIVED, tpot.round() as u64);
        }
    }
    if scratch.queue_start > 0
        && let Some(waited) = scratch.compute_start.checked_sub(scratch.queue_start)
    {
        scratch.offer_number(Target::QueueWaitMs, DERIVED, waited as f64 / 1e6);
    }
}

#[inline]
fn batch(scratch: &mut Scratch<'_>) {
    if let (Some(size), Some(limit @ 1..)) =
        (scratch.bits(Target::BatchSize), scratch.bits(Target::MaxBatchSize))
    {
        scratch.offer_number(Target::BatchFillRatio, DERIVED, size as f64 / limit as f64);
    }
}

#[inline]
fn framework_and_stage<'a>(scratch: &mut Scratch<'a>, fixed: &Fixed<'a>, origin: &Origin, names: Names<'_>) {
    let said = scratch.has(Target::Framework) || origin.has_term(Target::Framework);
    let found = origin.framework.or(names.service_framework).or(scratch.framework);
    if let (false, Some(found)) = (said, found) {
        scratch.offer_text(Target::Framework, DERIVED, found.as_bytes());
    }
    if scratch.has(Target::Stage) || origin.has_term(Target::Stage) {
        return;
    }
    if let Some(name) = names.stage_name {
        let said = scratch.has(Target::Framework).then(|| scratch.text(Target::Framework));
        let framework = said.and_then(|text| std::str::from_utf8(text).ok()).or(found);
        if let Some(stage) = stage_of(name, framework) {
            scratch.offer_text(Target::Stage, DERIVED, stage.as_bytes());
        }
        if framework == Some("sglang") {
            offer_request_id(scratch, fixed);
        }
    }
    if scratch.compute_start > 0 && scratch.queue_start > 0 {
        scratch.offer_text(Target::Stage, DERIVED, b"inference");
    }
}
