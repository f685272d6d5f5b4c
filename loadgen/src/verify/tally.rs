//! Judges found spans against the ledger: bits by (sequence, index), contents by digest.

use anyhow::ensure;
use hashbrown::HashMap;

use super::Verdict;
use crate::{
    blast::{body::expected_trace_id, template::Template},
    ids,
    ledger::{Entry, Header},
};

const MAX_EXAMPLES: usize = 10;
const MAX_FAULTS: usize = 20;
/// Sequences in a ledger are dense; this bounds memory against a damaged one (2^33 spans are 2 GiB of bits).
const MAX_SPANS: u64 = 1 << 33;

/// A span as some store gave it back.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// 16 bytes.
    pub trace_id: &'a [u8],
    /// 8 bytes.
    pub span_id: &'a [u8],
    /// 8 bytes, or empty for a root.
    pub parent_span_id: &'a [u8],
    /// Start.
    pub start_ns: i64,
    /// Digest of the rest.
    pub content: u64,
}

#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(bits: u64) -> Self {
        Self(vec![0; bits.div_ceil(64) as usize])
    }

    /// Sets a bit; whether it was set before.
    fn set(&mut self, at: u64) -> bool {
        let Some(word) = self.0.get_mut((at / 64) as usize) else { return false };
        let mask = 1 << (at % 64);
        let before = *word & mask != 0;
        *word |= mask;
        before
    }

    fn get(&self, at: u64) -> bool {
        self.0.get((at / 64) as usize).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }
}

/// Everything known so far.
#[derive(Debug)]
pub struct Tally {
    run: u32,
    spans_per_request: u64,
    entries: HashMap<u64, Entry>,
    templates: HashMap<u32, Template>,
    found: Bits,
    again: Bits,
    changed: Bits,
    /// Requests to look for; all of the ledger unless a sample was chosen.
    wanted: Option<hashbrown::HashSet<(u64, u16)>>,
    unacknowledged: HashMap<(u64, u16), bool>,
    verdict: Verdict,
}

impl Tally {
    /// Prepares to judge by a ledger.
    ///
    /// # Errors
    /// If the ledger contradicts itself.
    pub fn new(header: &Header, entries: &[Entry]) -> anyhow::Result<Self> {
        let spans_per_request = u64::from(header.spans_per_request);
        let mut templates = HashMap::new();
        let mut by_sequence = HashMap::with_capacity(entries.len());
        let mut end = 0;
        for entry in entries {
            let template = templates
                .entry(entry.variant)
                .or_insert_with(|| Template::generate(header.seed, entry.variant, header.spans_per_request));
            ensure!(
                template.digest == entry.content,
                "the ledger was written by another version: the contents of variant {} have another hash",
                entry.variant
            );
            ensure!(u64::from(entry.spans) == spans_per_request, "request {} is not whole", entry.sequence);
            ensure!(
                by_sequence.insert(entry.sequence, *entry).is_none(),
                "request {} is in the ledger twice",
                entry.sequence
            );
            end = end.max(entry.sequence + 1);
        }
        let bits = end.saturating_mul(spans_per_request);
        ensure!(bits <= MAX_SPANS, "the ledger speaks of {bits} spans, which is not credible");
        Ok(Self {
            run: header.run,
            spans_per_request,
            entries: by_sequence,
            templates,
            found: Bits::new(bits),
            again: Bits::new(bits),
            changed: Bits::new(bits),
            wanted: None,
            unacknowledged: HashMap::new(),
            verdict: Verdict::default(),
        })
    }

    /// Looks for these traces only: (sequence, trace within the request).
    pub fn only(&mut self, traces: impl IntoIterator<Item = (u64, u16)>) {
        self.wanted = Some(traces.into_iter().collect());
    }

    /// How many spans the ledger's request `sequence` has in its trace `trace`.
    #[must_use]
    pub fn spans_of_trace(&self, sequence: u64, trace: u16) -> usize {
        let template = self.entries.get(&sequence).and_then(|entry| self.templates.get(&entry.variant));
        template.map_or(0, |template| template.spans.iter().filter(|span| span.trace == trace).count())
    }

    /// The number of traces of a request of the ledger.
    #[must_use]
    pub fn traces_of(&self, variant: u32) -> u16 {
        self.templates.get(&variant).map_or(0, |template| template.traces)
    }

    /// Whether a trace id belongs to this run: lets readers skip costly work for others.
    #[must_use]
    pub fn is_of_run(&self, trace_id: &[u8]) -> bool {
        ids::trace_origin(trace_id).is_some_and(|origin| origin.run == self.run)
    }

    /// Counts a span that is not of this run.
    pub fn foreign(&mut self) {
        self.verdict.foreign += 1;
    }

    /// Counts one more record, file or trace.
    pub fn read(&mut self) {
        self.verdict.read += 1;
    }

    /// Counts a record that collapsed onto an earlier one.
    pub fn collapsed(&mut self) {
        self.verdict.collapsed_retries += 1;
    }

    /// Something is wrong with the store itself.
    pub fn fault(&mut self, what: String) {
        if self.verdict.faults.len() < MAX_FAULTS {
            self.verdict.faults.push(what);
        }
    }

    /// Judges one span.
    pub fn observe(&mut self, span: &Found<'_>) {
        let Some(origin) = ids::trace_origin(span.trace_id).filter(|origin| origin.run == self.run) else {
            return self.foreign();
        };
        let index = ids::span_origin(span.span_id)
            .filter(|of| of.sequence == origin.sequence && u64::from(of.index) < self.spans_per_request)
            .map(|of| of.index);
        let Some(index) = index else {
            self.example("a span id that the run never made", span);
            self.fault(format!("span {} is not of its trace", hex::encode(span.span_id)));
            return;
        };
        let Some(entry) = self.entries.get(&origin.sequence).copied() else {
            self.verdict.unacknowledged += 1;
            let seen = self.unacknowledged.entry((origin.sequence, index)).or_insert(false);
            if *seen {
                self.verdict.unacknowledged_duplicated += 1;
            }
            *seen = true;
            return;
        };
        let bit = origin.sequence * self.spans_per_request + u64::from(index);
        if self.found.set(bit) {
            if !self.again.set(bit) {
                self.example("duplicate", span);
            }
            return;
        }
        if !self.is_as_sent(span, &entry, index) {
            self.changed.set(bit);
            self.example("changed", span);
        }
    }

    fn is_as_sent(&self, span: &Found<'_>, entry: &Entry, index: u16) -> bool {
        let Some(spec) = self.templates.get(&entry.variant).and_then(|t| t.spans.get(usize::from(index)))
        else {
            return false;
        };
        let parent = spec.parent.map(|parent| ids::span_id(entry.sequence, parent));
        span.trace_id == expected_trace_id(self.run, entry.sequence, spec.trace, entry.partitions)
            && span.parent_span_id == parent.as_ref().map_or(&[][..], |parent| &parent[..])
            && span.start_ns == entry.base_time_ns + spec.start_offset_ns
            && span.content == spec.digest
    }

    fn example(&mut self, what: &str, span: &Found<'_>) {
        if self.verdict.examples.len() < MAX_EXAMPLES {
            let (trace, id) = (hex::encode(span.trace_id), hex::encode(span.span_id));
            self.verdict.examples.push(format!("{what}: trace {trace} span {id}"));
        }
    }

    /// Counts everything up.
    #[must_use]
    pub fn verdict(mut self) -> Verdict {
        let mut sequences: Vec<u64> = self.entries.keys().copied().collect();
        sequences.sort_unstable();
        for sequence in sequences {
            let entry = self.entries[&sequence];
            let Some(template) = self.templates.get(&entry.variant) else { continue };
            for (index, spec) in template.spans.iter().enumerate() {
                if self.wanted.as_ref().is_some_and(|wanted| !wanted.contains(&(sequence, spec.trace))) {
                    continue;
                }
                let bit = sequence * self.spans_per_request + index as u64;
                self.verdict.acked += 1;
                self.verdict.found += u64::from(self.found.get(bit));
                self.verdict.duplicated += u64::from(self.again.get(bit));
                self.verdict.changed += u64::from(self.changed.get(bit));
                if !self.found.get(bit) {
                    self.verdict.lost += 1;
                    if self.verdict.examples.len() < MAX_EXAMPLES {
                        let trace = expected_trace_id(self.run, sequence, spec.trace, entry.partitions);
                        let span = ids::span_id(sequence, index as u16);
                        let (trace, span) = (hex::encode(trace), hex::encode(span));
                        self.verdict.examples.push(format!("lost: trace {trace} span {span}"));
                    }
                }
            }
        }
        let verdict = &mut self.verdict;
        verdict.clean = verdict.lost == 0
            && verdict.duplicated == 0
            && verdict.changed == 0
            && verdict.unacknowledged_duplicated == 0
            && verdict.faults.is_empty();
        self.verdict
    }
}
