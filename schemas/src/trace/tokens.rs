//! Tokens of a trace: each request once, however many of client, proxy and engine report it.
//!
//! - Only requests count: where some span at no stage (or at `inference`) reports a count, those of stages (the
//!   tokenizer's, prefill's) say the same again.
//! - Along a line of ancestors, figures of one service stand for everything below them in it; figures of another service
//!   below (the engine's) replace those above (its client's).
//! - Across lines, reports with one request id are one request: the engine's count, not its client's. Engine spans
//!   that share their id share their prompt (`n = 2` in vLLM); what they generated adds up.
//!
//! A call below which no other service reports is unreported: the engine refused or dropped it, or is not ours.

use super::{Analysis, Inference, NONE, NameId, SpanNode, Tokens, TraceInput, tree::reset};

/// OTLP's kind of a caller's side.
const CLIENT: u8 = 3;
const LANES: usize = 3;
/// The lane that any number at all is noted in.
const ANY: usize = LANES;
/// Several services report.
const MIXED: u32 = u32::MAX - 1;
/// Bits of [`request_key`] that tell the sequences of one call apart.
const SEQUENCE_BITS: u64 = 0xff;

/// Key of a request id, never 0: keys of sequences that one call led to differ in their low byte only.
///
/// vLLM reports `cmpl-…-0` for the sequences of a call that its client knows as `cmpl-…`, and `resp_…_0` for `resp_…`;
/// ids of chats are the same on both sides.
#[must_use]
pub fn request_key(id: &str) -> u64 {
    let joint = match id.get(..5) {
        Some("cmpl-") => id[5..].rsplit_once('-'),
        Some("resp_") => id[5..].rsplit_once('_'),
        _ => None,
    };
    let number = |digits: &str| if digits.len() <= 3 { digits.parse::<u64>().ok() } else { None };
    let (call, sequence) = match joint.and_then(|(base, digits)| Some((base.len(), number(digits)?))) {
        Some((base, sequence)) => (&id[..5 + base], (sequence + 1).min(SEQUENCE_BITS)),
        None => (id, 0),
    };
    // FNV-1a with a final mix: stable, and no dependency. Ids are random, so that is enough.
    let folded = call.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (folded ^ folded >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 32) & !SEQUENCE_BITS | 1 << 8 | sequence
}

type Counts = [Option<u64>; LANES];

fn counts_of(numbers: &Inference) -> Counts {
    [numbers.input_tokens, numbers.output_tokens, numbers.cached_tokens]
}

/// One report that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Report {
    call: u64,
    is_client: bool,
    service: NameId,
    request: u64,
    counts: Counts,
}

#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// By node: who reports below it, by lane.
    below: Vec<[u32; LANES + 1]>,
    /// By node: lanes in which its own figures stand, then lanes in which those at or above it do.
    stands: Vec<u8>,
    reports: Vec<Report>,
}

impl Scratch {
    pub(super) fn run(&mut self, trace: &TraceInput<'_>, out: &mut Analysis) {
        let numbers_of = |span: &SpanNode| trace.inference.get(span.inference as usize);
        let is_request =
            |span: &SpanNode| span.stage.is_empty() || trace.names.get(span.stage) == "inference";
        let mut of_requests = [false; LANES];
        for node in &out.nodes {
            let span = &trace.spans[node.input as usize];
            if let Some(numbers) = numbers_of(span)
                && is_request(span)
            {
                for (lane, count) in counts_of(numbers).iter().enumerate() {
                    of_requests[lane] |= count.is_some();
                }
            }
        }
        let reported = |span: &SpanNode| -> Option<Counts> {
            let mut counts = counts_of(numbers_of(span)?);
            if !is_request(span) {
                for (lane, count) in counts.iter_mut().enumerate() {
                    *count = count.filter(|_| !of_requests[lane]);
                }
            }
            Some(counts)
        };

        reset(&mut self.below, out.nodes.len(), [NONE; LANES + 1]);
        reset(&mut self.stands, out.nodes.len(), 0);
        for index in (0..out.nodes.len()).rev() {
            let node = out.nodes[index];
            let span = &trace.spans[node.input as usize];
            let mut below = self.below[index];
            if let Some(counts) = reported(span) {
                let is_call = span.kind == CLIENT && is_request(span);
                out.unreported_calls += u32::from(is_call && is_alone(below[ANY], span.service));
                for (lane, count) in counts.iter().enumerate() {
                    if count.is_some() && is_alone(below[lane], span.service) {
                        self.stands[index] |= 1 << lane;
                        below[lane] = span.service.0;
                    }
                }
                below[ANY] = merged(below[ANY], span.service.0);
            }
            if let Some(parent) = self.below.get_mut(node.parent as usize) {
                for (lane, below) in below.into_iter().enumerate() {
                    parent[lane] = merged(parent[lane], below);
                }
            }
        }

        self.reports.clear();
        for index in 0..out.nodes.len() {
            let node = out.nodes[index];
            let above = self.stands.get(node.parent as usize).copied().unwrap_or(0);
            let fresh = self.stands[index] & !above;
            self.stands[index] |= above;
            let span = &trace.spans[node.input as usize];
            let (Some(mut counts), Some(numbers)) = (reported(span), numbers_of(span)) else { continue };
            if fresh == 0 {
                continue;
            }
            for (lane, count) in counts.iter_mut().enumerate() {
                *count = count.filter(|_| fresh & 1 << lane != 0);
            }
            let (request, service) = (numbers.request, span.service);
            let call = request & !SEQUENCE_BITS;
            let is_client = span.kind == CLIENT;
            self.reports.push(Report { call, is_client, service, request, counts });
        }
        out.tokens = self.sum();
    }

    fn sum(&mut self) -> Tokens {
        self.reports.sort_unstable();
        let mut total = Counts::default();
        for of_call in self.reports.chunk_by(|a, b| a.call == b.call) {
            if of_call[0].call == 0 {
                of_call.iter().for_each(|report| add(&mut total, report.counts));
                continue;
            }
            // The engine's reports come first; of several services that report one call, the greatest counts.
            let (mut chosen, mut by_engine) = (Counts::default(), [false; LANES]);
            for of_service in of_call.chunk_by(|a, b| (a.is_client, a.service) == (b.is_client, b.service)) {
                let counts = sum_of_service(of_service);
                for lane in 0..LANES {
                    if counts[lane].is_some() && !(of_service[0].is_client && by_engine[lane]) {
                        chosen[lane] = chosen[lane].max(counts[lane]);
                        by_engine[lane] |= !of_service[0].is_client;
                    }
                }
            }
            add(&mut total, chosen);
        }
        Tokens { input: total[0], output: total[1], cached: total[2] }
    }
}

/// What one service reports of one call: prompts once a request id, all that was generated.
fn sum_of_service(reports: &[Report]) -> Counts {
    let mut sum = Counts::default();
    for of_request in reports.chunk_by(|a, b| a.request == b.request) {
        let most = |lane: usize| of_request.iter().filter_map(|report| report.counts[lane]).max();
        add(&mut sum, [most(0), None, most(2)]);
        of_request.iter().for_each(|report| add(&mut sum, [None, report.counts[1], None]));
    }
    sum
}

fn add(sum: &mut Counts, more: Counts) {
    for (sum, more) in sum.iter_mut().zip(more) {
        if let Some(more) = more {
            *sum = Some(sum.unwrap_or(0).saturating_add(more));
        }
    }
}

fn merged(one: u32, other: u32) -> u32 {
    match (one, other) {
        (NONE, one) | (one, NONE) => one,
        (one, other) if one == other => one,
        _ => MIXED,
    }
}

/// Whether nobody but `service` is among those that report below.
const fn is_alone(below: u32, service: NameId) -> bool {
    below == NONE || below == service.0
}
