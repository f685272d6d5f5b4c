//! One walk over a span's bytes: attributes and nested parts go into their columns, scalars into scratch.

use super::{
    SpanError,
    assemble::Columns,
    attributes::check_text,
    scratch::{Fixed, Scratch},
};
use crate::{
    mapping::{Kind, Lookup, NATIVE, Target},
    wire::{Field, Fields, Value, WireError, read_bytes, read_varint},
};

/// One-byte tags of the fields that nearly every span has.
mod tag {
    pub(super) const TRACE_ID: u8 = 1 << 3 | 2;
    pub(super) const SPAN_ID: u8 = 2 << 3 | 2;
    pub(super) const PARENT_SPAN_ID: u8 = 3 << 3 | 2;
    pub(super) const SERVICE: u8 = 4 << 3 | 2;
    pub(super) const OPERATION: u8 = 5 << 3 | 2;
    pub(super) const START: u8 = 6 << 3;
    pub(super) const DURATION: u8 = 7 << 3;
    pub(super) const ATTRIBUTE: u8 = 11 << 3 | 2;
    pub(super) const KIND: u8 = 14 << 3;
}

/// Reads `span`; on an error the nested columns hold what came before it and are to be rolled back.
#[inline]
pub(super) fn read<'a>(
    columns: &mut Columns,
    lookup: &Lookup,
    scratch: &mut Scratch<'a>,
    fixed: &mut Fixed<'a>,
    span: &'a [u8],
) -> Result<(), SpanError> {
    scratch.clear();
    let mut rest = span;
    while let [tag, tail @ ..] = rest {
        let start = rest;
        rest = tail;
        match *tag {
            tag::ATTRIBUTE => columns.maps.attribute(lookup, scratch, read_bytes(&mut rest)?)?,
            tag::TRACE_ID => fixed.trace_id = read_bytes(&mut rest)?,
            tag::SPAN_ID => fixed.span_id = read_bytes(&mut rest)?,
            tag::PARENT_SPAN_ID => fixed.parent_span_id = read_bytes(&mut rest)?,
            tag::SERVICE => fixed.service = read_bytes(&mut rest)?,
            tag::OPERATION => fixed.operation = read_bytes(&mut rest)?,
            tag::START => fixed.start_ns = read_varint(&mut rest)? as i64,
            tag::DURATION => fixed.duration_ns = read_varint(&mut rest)? as i64,
            tag::KIND => fixed.kind = small(read_varint(&mut rest)?),
            _ => {
                let mut fields = Fields::new(start);
                if let Some(field) = fields.next() {
                    take(columns, lookup, scratch, fixed, &field?)?;
                }
                rest = fields.rest();
            }
        }
    }
    Ok(())
}

/// Takes one field of any kind.
fn take<'a>(
    columns: &mut Columns,
    lookup: &Lookup,
    scratch: &mut Scratch<'a>,
    fixed: &mut Fixed<'a>,
    field: &Field<'a>,
) -> Result<(), SpanError> {
    match field.number {
        1 => fixed.trace_id = field.bytes()?,
        2 => fixed.span_id = field.bytes()?,
        3 => fixed.parent_span_id = field.bytes()?,
        4 => fixed.service = field.bytes()?,
        5 => fixed.operation = field.bytes()?,
        6 => fixed.start_ns = field.varint()? as i64,
        7 => fixed.duration_ns = field.varint()? as i64,
        8 => message(scratch, field.bytes()?, INFERENCE)?,
        9 => resources(scratch, field.bytes()?)?,
        10 => columns.maps.tag(lookup, scratch, field.bytes()?)?,
        11 => columns.maps.attribute(lookup, scratch, field.bytes()?)?,
        12 => columns.events.push(scratch, field.bytes()?)?,
        13 => columns.links.push(field.bytes()?)?,
        14 => fixed.kind = small(field.varint()?),
        15 => status(fixed, field.bytes()?)?,
        16 => fixed.flags = field.fixed32()?,
        17 => fixed.dropped_events = field.varint()? as u32,
        18 => fixed.dropped_links = field.varint()? as u32,
        19 => fixed.trace_state = field.bytes()?,
        20 => fixed.dropped_attributes = field.varint()? as u32,
        21 => fixed.origin = field.varint()? as u32,
        22 => message(scratch, field.bytes()?, PIPELINE)?,
        23 => {
            columns.tokens.push(field.bytes()?)?;
            fixed.has_tokens = true;
        }
        _ => {}
    }
    Ok(())
}

/// An enum's value; what does not fit a column is unspecified.
fn small(value: u64) -> u8 {
    u8::try_from(value).unwrap_or(0)
}

fn status<'a>(fixed: &mut Fixed<'a>, status: &'a [u8]) -> Result<(), WireError> {
    for field in Fields::new(status) {
        let field = field?;
        match field.number {
            2 => fixed.status_message = field.bytes()?,
            3 => fixed.status_code = small(field.varint()?),
            _ => {}
        }
    }
    Ok(())
}

/// Which target each field of a message is, from field 1.
type Targets = &'static [Target];

const INFERENCE: Targets = &[
    Target::ModelName,
    Target::ModelVersion,
    Target::Framework,
    Target::Provider,
    Target::BatchSize,
    Target::MaxBatchSize,
    Target::InputTokens,
    Target::OutputTokens,
    Target::CachedTokens,
    Target::ReasoningTokens,
    Target::SequenceLength,
    Target::RequestId,
    Target::SessionId,
    Target::Streaming,
    Target::FinishReason,
    Target::TtftNs,
    Target::TpotNs,
    Target::ItlP50Ns,
    Target::ItlP99Ns,
    Target::ItlMaxNs,
];

const GPU: Targets = &[
    Target::GpuDeviceId,
    Target::GpuIndex,
    Target::GpuName,
    Target::GpuInstanceType,
    Target::GpuUtilizationPercent,
    Target::GpuMemoryUsedBytes,
    Target::GpuMemoryTotalBytes,
    Target::GpuPowerWatts,
    Target::GpuTemperatureCelsius,
    Target::GpuSmClockMhz,
    Target::GpuMemoryClockMhz,
    Target::GpuThrottleReasons,
    Target::GpuMigProfile,
];

const CPU: Targets = &[Target::CpuCoresUsed];

const MEMORY: Targets = &[Target::MemoryHeapBytes, Target::MemoryRssBytes];

const PIPELINE: Targets = &[
    Target::Stage,
    Target::QueueDepth,
    Target::QueueWaitMs,
    Target::BatchFillRatio,
    Target::CacheHit,
    Target::CacheHitRatio,
    Target::KvCacheUsageRatio,
    Target::Preemptions,
];

/// Takes a message of scalars that a native sender filled.
fn message<'a>(scratch: &mut Scratch<'a>, message: &'a [u8], targets: Targets) -> Result<(), SpanError> {
    for field in Fields::new(message) {
        let field = field?;
        let Some(target) = targets.get(field.number as usize - 1) else { continue };
        explicit(scratch, *target, &field)?;
    }
    Ok(())
}

#[inline]
fn explicit<'a>(scratch: &mut Scratch<'a>, target: Target, field: &Field<'a>) -> Result<(), SpanError> {
    match (target.kind(), field.value) {
        (Kind::Term | Kind::Text, Value::Bytes(text)) => {
            check_text(text)?;
            scratch.offer_text(target, NATIVE, text);
        }
        (Kind::U32, Value::Varint(value)) => {
            scratch.offer_bits(target, NATIVE, u64::from(value as u32));
        }
        (Kind::U64, Value::Varint(value)) => scratch.offer_bits(target, NATIVE, value),
        (Kind::Flag, Value::Varint(value)) => scratch.offer_bits(target, NATIVE, u64::from(value != 0)),
        (Kind::F64, Value::Fixed64(bits)) => scratch.offer_bits(target, NATIVE, bits),
        _ => return Err(SpanError::Malformed),
    }
    Ok(())
}

fn resources<'a>(scratch: &mut Scratch<'a>, resources: &'a [u8]) -> Result<(), SpanError> {
    for field in Fields::new(resources) {
        let field = field?;
        match field.number {
            1 => message(scratch, field.bytes()?, GPU)?,
            2 => message(scratch, field.bytes()?, CPU)?,
            3 => message(scratch, field.bytes()?, MEMORY)?,
            _ => {}
        }
    }
    Ok(())
}
