//! What is known of the span being read, before any of its scalars enters a column.
//!
//! Sources offer values with a rank; the lowest rank stands. A span that turns out bad is forgotten by
//! dropping this, so only the nested columns need a way back.

use super::{SpanError, buffer::Dictionary};
use crate::{
    mapping::{Convert, Converted, Entry, Kind, NATIVE, Target, convert},
    value::AnyValue,
};

const TEXTS: usize = Target::count(Kind::Term) + Target::count(Kind::Text);

/// Added to the rank of what a resource says, so that what its spans say comes first.
pub(super) const RESOURCE: u8 = 100;
/// The rank that anything beats.
pub(super) const DERIVED: u8 = 255;

/// Mapped and explicit scalars of one span.
pub(super) struct Scratch<'a> {
    /// Bit `t` says that target `t` has a value.
    set: u64,
    rank: [u8; 64],
    /// Counts, bits of numbers, flags.
    number: [u64; 64],
    text: [&'a [u8]; TEXTS],
    /// Encoded arrays of the helpers.
    pub(super) token_times: &'a [u8],
    pub(super) token_batch_sizes: &'a [u8],
    /// By the prefix of an attribute.
    pub(super) framework: Option<&'static str>,
    /// Several finish reasons, waiting to be joined.
    pub(super) reasons: Option<AnyValue<'a>>,
    /// Times of Triton's events, nanoseconds; 0 is unknown.
    pub(super) queue_start: u64,
    pub(super) compute_start: u64,
}

impl<'a> Scratch<'a> {
    pub(super) const fn new() -> Self {
        Self {
            set: 0,
            rank: [0; 64],
            number: [0; 64],
            text: [&[]; TEXTS],
            token_times: &[],
            token_batch_sizes: &[],
            framework: None,
            reasons: None,
            queue_start: 0,
            compute_start: 0,
        }
    }

    /// Forgets the last span.
    #[inline]
    pub(super) const fn clear(&mut self) {
        self.set = 0;
        self.token_times = &[];
        self.token_batch_sizes = &[];
        self.framework = None;
        self.reasons = None;
        self.queue_start = 0;
        self.compute_start = 0;
    }

    #[inline]
    pub(super) const fn has(&self, target: Target) -> bool {
        self.set >> target as u8 & 1 == 1
    }

    /// The targets that have values, as bits.
    #[inline]
    pub(super) const fn targets(&self) -> u64 {
        self.set
    }

    #[inline]
    fn wins(&self, target: Target, rank: u8) -> bool {
        // Of two explicit values the later one counts, as everywhere in protobuf.
        !self.has(target) || rank < self.rank[target as usize] || rank == NATIVE
    }

    #[inline]
    const fn mark(&mut self, target: Target, rank: u8) {
        self.set |= 1 << target as u8;
        self.rank[target as usize] = rank;
    }

    /// The rank of the source that stands.
    #[inline]
    pub(super) const fn rank_of(&self, target: Target) -> Option<u8> {
        if self.has(target) { Some(self.rank[target as usize]) } else { None }
    }

    #[inline]
    pub(super) fn offer_text(&mut self, target: Target, rank: u8, text: &'a [u8]) {
        if !text.is_empty() && self.wins(target, rank) {
            self.mark(target, rank);
            self.text[target as usize] = text;
            if matches!(target, Target::FinishReason) {
                self.reasons = None;
            }
        }
    }

    #[inline]
    pub(super) fn offer_bits(&mut self, target: Target, rank: u8, bits: u64) {
        if self.wins(target, rank) {
            self.mark(target, rank);
            self.number[target as usize] = bits;
        }
    }

    /// Puts a value over whatever stands there.
    #[inline]
    pub(super) const fn replace_bits(&mut self, target: Target, rank: u8, bits: u64) {
        self.mark(target, rank);
        self.number[target as usize] = bits;
    }

    #[inline]
    pub(super) fn offer_number(&mut self, target: Target, rank: u8, number: f64) {
        self.offer_bits(target, rank, number.to_bits());
    }

    /// Offers the value of an attribute that the mapping knows.
    #[inline]
    pub(super) fn offer_entry(&mut self, entry: &Entry, value: &AnyValue<'a>) {
        self.offer(entry.target, entry.rank, entry.convert, value);
        if entry.framework.is_some() {
            self.framework = entry.framework;
        }
    }

    /// Offers an attribute's value, which was checked.
    #[inline]
    fn offer(&mut self, target: Target, rank: u8, how: Convert, value: &AnyValue<'a>) {
        if !self.wins(target, rank) {
            return;
        }
        match convert(value, how) {
            Some(Converted::Text(text)) => self.offer_text(target, rank, text),
            Some(Converted::Count(count)) if target.kind() != Kind::U32 || u32::try_from(count).is_ok() => {
                self.offer_bits(target, rank, count);
            }
            Some(Converted::Count(_)) => {}
            Some(Converted::Number(number)) => self.offer_number(target, rank, number),
            Some(Converted::Flag(flag)) => self.offer_bits(target, rank, u64::from(flag)),
            Some(Converted::Array(array)) => match target {
                Target::TokenTimes => self.token_times = array,
                Target::TokenBatchSizes => self.token_batch_sizes = array,
                _ => {}
            },
            Some(Converted::Reasons(value)) => {
                self.mark(target, rank);
                self.reasons = Some(value);
            }
            None => {}
        }
    }

    #[inline]
    pub(super) const fn bits(&self, target: Target) -> Option<u64> {
        if self.has(target) { Some(self.number[target as usize]) } else { None }
    }

    #[inline]
    pub(super) const fn text(&self, target: Target) -> &'a [u8] {
        self.text[target as usize]
    }
}

/// Who a span is.
#[derive(Clone, Copy)]
pub(super) struct Ids {
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    pub(super) parent_span_id: Option<[u8; 8]>,
}

/// The fields of a span that are always there.
pub(super) struct Fixed<'a> {
    pub(super) trace_id: &'a [u8],
    pub(super) span_id: &'a [u8],
    pub(super) parent_span_id: &'a [u8],
    pub(super) service: &'a [u8],
    pub(super) operation: &'a [u8],
    pub(super) start_ns: i64,
    pub(super) duration_ns: i64,
    pub(super) kind: u8,
    pub(super) status_code: u8,
    pub(super) status_message: &'a [u8],
    pub(super) trace_state: &'a [u8],
    pub(super) flags: u32,
    pub(super) dropped_attributes: u32,
    pub(super) dropped_events: u32,
    pub(super) dropped_links: u32,
    pub(super) origin: u32,
    pub(super) has_tokens: bool,
}

impl<'a> Fixed<'a> {
    pub(super) const fn new() -> Self {
        Self {
            trace_id: &[],
            span_id: &[],
            parent_span_id: &[],
            service: &[],
            operation: &[],
            start_ns: 0,
            duration_ns: 0,
            kind: 0,
            status_code: 0,
            status_message: &[],
            trace_state: &[],
            flags: 0,
            dropped_attributes: 0,
            dropped_events: 0,
            dropped_links: 0,
            origin: 0,
            has_tokens: false,
        }
    }

    /// The three ids, once they have the right lengths and say something.
    #[inline]
    pub(super) fn ids(&self) -> Result<Ids, SpanError> {
        let trace_id: [u8; 16] = self.trace_id.try_into().map_err(|_| SpanError::BadTraceId)?;
        let span_id: [u8; 8] = self.span_id.try_into().map_err(|_| SpanError::BadSpanId)?;
        if trace_id == [0; 16] || span_id == [0; 8] {
            return Err(SpanError::EmptyId);
        }
        let parent = match self.parent_span_id {
            [] => None,
            id => Some(id.try_into().map_err(|_| SpanError::BadParentSpanId)?),
        };
        Ok(Ids { trace_id, span_id, parent_span_id: parent.filter(|id| *id != [0; 8]) })
    }

    #[inline]
    pub(super) const fn check_times(&self) -> Result<(), SpanError> {
        if self.duration_ns < 0 || self.start_ns.checked_add(self.duration_ns).is_none() {
            return Err(SpanError::NegativeDuration);
        }
        Ok(())
    }
}

/// The key of `text` in `dictionary`, unless it is new and not UTF-8.
#[inline]
pub(super) fn find_or_check(dictionary: &mut Dictionary, text: &[u8]) -> Result<Option<i32>, SpanError> {
    match dictionary.find(text) {
        Some(key) => Ok(Some(key)),
        None => super::attributes::check_text(text).map(|()| None),
    }
}
