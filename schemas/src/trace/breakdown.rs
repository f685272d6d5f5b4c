//! What the tree's times mean: stages, services, edges, models, time to first token.
//!
//! A span that reports how long its request queued and when its first token came, and has no children (vLLM's
//! `llm_request`), is split into the stages queue, prefill and decode; its stage times then say so.

use super::{
    Analysis, Inference, MAX_GROUPS, NONE, NameId, Node, ServiceEdge, ServiceUse, SpanNode, StageTime,
    TraceInput, Ttft, tokens,
};

const CLIENT: u8 = 3;
const ERROR: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct Scratch {
    tokens: tokens::Scratch,
}

impl Scratch {
    pub(super) fn run(&mut self, trace: &TraceInput<'_>, out: &mut Analysis) {
        let mut total_self = 0u128;
        let mut any_inference = false;
        for index in 0..out.nodes.len() {
            let node = out.nodes[index];
            let span = &trace.spans[node.input as usize];
            total_self += u128::from(node.self_ns);
            any_inference |= span.inference != NONE;
            count_service(out, &node, span);
            count_edge(out, &node, span, trace);
            if !span.model.is_empty() && !out.models.contains(&span.model) {
                if out.models.len() < MAX_GROUPS {
                    out.models.push(span.model);
                } else {
                    out.omitted_groups += 1;
                }
            }
            let parts = Parts::of(trace, span, &node);
            count_stages(out, &node, &parts);
        }
        for index in 0..out.critical_path.len() {
            let segment = out.critical_path[index];
            let node = out.nodes[segment.node as usize];
            let parts = Parts::of(trace, &trace.spans[node.input as usize], &node);
            parts.for_each(&node, |stage, from, to| {
                let overlap = segment.end_ns.min(to).saturating_sub(segment.start_ns.max(from));
                if overlap > 0 {
                    stage_of(&mut out.stages, stage).critical_ns += overlap as u64;
                }
            });
        }
        let wall = out.duration_ns();
        out.parallelism = if wall == 0 { 1.0 } else { total_self as f64 / wall as f64 };
        if any_inference {
            self.tokens.run(trace, out);
            out.ttft = measured_ttft(trace, out);
        }
        if out.ttft.is_none() {
            out.ttft = derived_ttft(trace, out);
        }
    }
}

fn inference_of<'a>(trace: &TraceInput<'a>, span: &SpanNode) -> Option<&'a Inference> {
    trace.inference.get(span.inference as usize)
}

/// A span's time by stage: three parts where it reports queue and first token itself, otherwise one.
struct Parts {
    /// Ends of queue and prefill.
    split: Option<(i64, i64)>,
}

impl Parts {
    fn of(trace: &TraceInput<'_>, span: &SpanNode, node: &Node) -> Self {
        let whole = Self { split: None };
        if node.subtree != 1 {
            return whole;
        }
        let Some(numbers) = inference_of(trace, span) else { return whole };
        if !matches!(span.stage, NameId::EMPTY) && trace.names.get(span.stage) != "inference" {
            return whole;
        }
        // A client's first token includes the network: without a queue time nothing is known of the engine.
        if numbers.queue_ns.is_none() && (numbers.ttft_ns.is_none() || span.kind == CLIENT) {
            return whole;
        }
        let clip = |offset: u64| {
            node.start_ns.saturating_add(i64::try_from(offset).unwrap_or(i64::MAX)).min(node.end_ns)
        };
        let queue_end = clip(numbers.queue_ns.unwrap_or(0));
        let first_token = clip(numbers.ttft_ns.unwrap_or(0)).max(queue_end);
        Self { split: Some((queue_end, first_token)) }
    }

    fn for_each(&self, node: &Node, mut part: impl FnMut(NameId, i64, i64)) {
        let Some((queue_end, first_token)) = self.split else {
            part(node.stage, node.start_ns, node.end_ns);
            return;
        };
        part(NameId::QUEUE, node.start_ns, queue_end);
        part(NameId::PREFILL, queue_end, first_token);
        part(NameId::DECODE, first_token, node.end_ns);
    }
}

fn count_stages(out: &mut Analysis, node: &Node, parts: &Parts) {
    if parts.split.is_none() {
        let entry = stage_of(&mut out.stages, node.stage);
        entry.spans += 1;
        entry.self_ns = entry.self_ns.saturating_add(node.self_ns);
        return;
    }
    // Such a span has no children: all of its time is its own.
    parts.for_each(node, |stage, from, to| {
        if to > from {
            let entry = stage_of(&mut out.stages, stage);
            entry.spans += 1;
            entry.self_ns = entry.self_ns.saturating_add(to.abs_diff(from));
        }
    });
}

/// The entry of `stage`; past the bound, the unnamed one.
fn stage_of(stages: &mut Vec<StageTime>, stage: NameId) -> &mut StageTime {
    let index = match stages.iter().position(|known| known.stage == stage) {
        Some(index) => index,
        None if stages.len() < MAX_GROUPS || stage.is_empty() => {
            stages.push(StageTime { stage, spans: 0, self_ns: 0, critical_ns: 0 });
            stages.len() - 1
        }
        None => return stage_of(stages, NameId::EMPTY),
    };
    &mut stages[index]
}

fn count_service(out: &mut Analysis, node: &Node, span: &SpanNode) {
    let errors = u32::from(span.status == ERROR);
    out.errors += errors;
    if let Some(known) = out.services.iter_mut().find(|known| known.service == span.service) {
        known.spans += 1;
        known.errors += errors;
        known.self_ns = known.self_ns.saturating_add(node.self_ns);
    } else if out.services.len() < MAX_GROUPS {
        out.services.push(ServiceUse { service: span.service, spans: 1, errors, self_ns: node.self_ns });
    } else {
        out.omitted_groups += 1;
    }
}

fn count_edge(out: &mut Analysis, node: &Node, span: &SpanNode, trace: &TraceInput<'_>) {
    if node.parent == NONE {
        return;
    }
    let caller = trace.spans[out.nodes[node.parent as usize].input as usize].service;
    if caller == span.service {
        return;
    }
    let errors = u32::from(span.status == ERROR);
    let total_ns = node.end_ns.abs_diff(node.start_ns);
    if let Some(known) =
        out.edges.iter_mut().find(|known| known.caller == caller && known.callee == span.service)
    {
        known.calls += 1;
        known.errors += errors;
        known.total_ns = known.total_ns.saturating_add(total_ns);
    } else if out.edges.len() < MAX_GROUPS {
        out.edges.push(ServiceEdge { caller, callee: span.service, calls: 1, errors, total_ns });
    } else {
        out.omitted_groups += 1;
    }
}

/// From the earliest span that reports a first token; its queue time comes from it or from below it.
fn measured_ttft(trace: &TraceInput<'_>, out: &Analysis) -> Option<Ttft> {
    let numbers = |node: &Node| inference_of(trace, &trace.spans[node.input as usize]);
    let (index, node, ttft_ns) = out
        .nodes
        .iter()
        .enumerate()
        .filter_map(|(index, node)| Some((index, node, numbers(node)?.ttft_ns?)))
        .min_by_key(|&(index, node, _)| (node.start_ns, index))?;
    let below = &out.nodes[index..index + node.subtree as usize];
    let reported = below.iter().find_map(|node| numbers(node)?.queue_ns);
    let queue_ns = reported.or_else(|| {
        let queue = below.iter().find(|node| node.stage == NameId::QUEUE)?;
        Some(queue.end_ns.abs_diff(queue.start_ns))
    });
    let queue_ns = queue_ns.map(|queue| queue.min(ttft_ns));
    let prefill_ns = queue_ns.map(|queue| ttft_ns - queue);
    Some(Ttft { node: index as u32, ttft_ns, queue_ns, prefill_ns, measured: true })
}

/// From queue and prefill spans, where no span reports a first token.
fn derived_ttft(trace: &TraceInput<'_>, out: &Analysis) -> Option<Ttft> {
    let names = |stage: NameId| move |node: &&Node| trace.spans[node.input as usize].stage == stage;
    let prefill = out.nodes.iter().filter(names(NameId::PREFILL)).min_by_key(|node| node.start_ns)?;
    let queue = out
        .nodes
        .iter()
        .filter(names(NameId::QUEUE))
        .filter(|queue| queue.end_ns <= prefill.end_ns)
        .min_by_key(|node| node.start_ns);
    let first = queue.unwrap_or(prefill);
    let start_ns = first.start_ns.min(prefill.start_ns);
    let ttft_ns = prefill.end_ns.abs_diff(start_ns);
    let queue_ns = queue.map(|queue| queue.end_ns.abs_diff(queue.start_ns).min(ttft_ns));
    let node = out.nodes.iter().position(|node| node == first)?;
    Some(Ttft {
        node: node as u32,
        ttft_ns,
        queue_ns,
        prefill_ns: Some(ttft_ns - queue_ns.unwrap_or(0)),
        measured: false,
    })
}
