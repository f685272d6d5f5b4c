//! The native batch: spans are checked in place and their bytes copied to their partition's record as they are.

use infertrace_schemas::{
    partition::partition_of,
    wire::{Fields, Value, put_varint, varint_len},
};

use super::{
    Context, Outcome, ParseError, Reason,
    check::{self, take_bytes, take_varint},
    shares::{Layout, OriginRef, Shares},
};
use crate::tenant;

/// What the gateway needs to know of a span.
struct SpanFacts {
    trace_id: [u8; 16],
    origin: u32,
    /// `parent_span_id` is eight zeros: some senders' root. It is left out of the record.
    zero_parent: bool,
}

/// What stands beside the spans of a batch.
struct Envelope<'a> {
    tenant: &'a str,
    batch_id: &'a [u8],
    origins: Vec<&'a [u8]>,
}

/// Splits an encoded `SpanBatch` into records.
pub(crate) fn parse(batch: &[u8], context: &Context<'_>) -> Result<Outcome, ParseError> {
    let envelope = read_envelope(batch, context)?;
    let mut shares = Shares::new(context, Layout::Spans, envelope.tenant, envelope.batch_id, batch.len());
    let mut origin_faults = Vec::with_capacity(envelope.origins.len());
    for origin in &envelope.origins {
        origin_faults.push(check::message(check::ORIGIN, origin, context.limits.max_depth).err());
        shares.origins().push(|out| out.extend_from_slice(origin));
    }
    let mut outcome = Outcome::default();
    let mut index = 0u64;
    for field in Fields::new(batch) {
        let field = field.map_err(ParseError::wire("SpanBatch"))?;
        let (1, Value::Bytes(span)) = (field.number, field.value) else { continue };
        match accept(span, index, context, &origin_faults, &mut shares) {
            Ok(()) => outcome.accepted += 1,
            Err(reason) => outcome.rejections.add(reason, index, 1),
        }
        index += 1;
        if index.is_multiple_of(1024) {
            shares.check_output()?;
        }
    }
    shares.check_output()?;
    outcome.records = shares.into_records();
    Ok(outcome)
}

/// Walks the batch once without descending: its outer structure is whole when this returns.
fn read_envelope<'a>(batch: &'a [u8], context: &Context<'a>) -> Result<Envelope<'a>, ParseError> {
    let wire = ParseError::wire("SpanBatch");
    let mut envelope = Envelope { tenant: "", batch_id: &[], origins: Vec::new() };
    let mut tenant_field = None;
    for field in Fields::new(batch) {
        let field = field.map_err(&wire)?;
        match field.number {
            1 => {
                field.bytes().map_err(&wire)?;
            }
            2 => envelope.batch_id = field.bytes().map_err(&wire)?,
            3 => tenant_field = Some(field.bytes().map_err(&wire)?),
            4 => {
                envelope.origins.push(field.bytes().map_err(&wire)?);
                if envelope.origins.len() > context.limits.max_origins {
                    return Err(ParseError::Invalid(format!(
                        "more than {} origins in one batch",
                        context.limits.max_origins
                    )));
                }
            }
            5 => {
                return Err(ParseError::Invalid(
                    "SpanBatch.packed is for records of the log; send compressed batches as frames".into(),
                ));
            }
            _ => {}
        }
    }
    // The transport's tenant was authorised; the batch's own counts only where there is none.
    envelope.tenant = match tenant_field {
        Some(bytes) if context.tenant.is_empty() => {
            tenant::validate(bytes).map_err(|error| ParseError::Invalid(error.to_string()))?
        }
        _ => context.tenant,
    };
    Ok(envelope)
}

#[inline]
fn accept(
    span: &[u8],
    index: u64,
    context: &Context<'_>,
    origin_faults: &[Option<Reason>],
    shares: &mut Shares<'_>,
) -> Result<(), Reason> {
    if index >= context.limits.max_spans as u64 {
        return Err(Reason::TooManySpans);
    }
    let facts = check_span(span, context)?;
    let origin = match origin_faults.get(facts.origin as usize) {
        Some(None) => OriginRef::Fixed(facts.origin),
        Some(Some(reason)) => return Err(*reason),
        None if facts.origin == 0 => OriginRef::None,
        None => return Err(Reason::BadOrigin),
    };
    let partition = partition_of(&facts.trace_id, context.partitions);
    if facts.zero_parent {
        let root = without_parent(span);
        return append(&root, partition, origin, shares);
    }
    append(span, partition, origin, shares)
}

#[inline]
fn append(span: &[u8], partition: u32, origin: OriginRef, shares: &mut Shares<'_>) -> Result<(), Reason> {
    let length = span.len() as u64;
    let (buffer, _) = shares.place(partition, 1 + varint_len(length) + span.len(), origin)?;
    buffer.push(0x0a);
    put_varint(buffer, length);
    buffer.extend_from_slice(span);
    Ok(())
}

/// The span less every `parent_span_id`.
fn without_parent(span: &[u8]) -> Vec<u8> {
    let mut root = Vec::with_capacity(span.len());
    for field in Fields::new(span).map_while(Result::ok).filter(|field| field.number != 3) {
        root.extend_from_slice(field.raw);
    }
    root
}

/// The one validating pass over a native span's bytes.
#[inline]
fn check_span(span: &[u8], context: &Context<'_>) -> Result<SpanFacts, Reason> {
    if span.len() > context.limits.max_span_bytes {
        return Err(Reason::TooLarge);
    }
    let depth = context.limits.max_depth;
    let (mut trace_id, mut span_id, mut parent): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
    let (mut start, mut duration) = (0u64, 0u64);
    let mut origin = 0u64;
    let mut attributes = 0usize;
    let mut rest = span;
    while let Some((&tag, tail)) = rest.split_first() {
        let at = rest;
        rest = tail;
        match tag {
            0x0a => trace_id = take_bytes(&mut rest)?,
            0x12 => span_id = take_bytes(&mut rest)?,
            0x1a => parent = take_bytes(&mut rest)?,
            0x22 | 0x2a => check::text(take_bytes(&mut rest)?)?,
            0x30 => start = take_varint(&mut rest)?,
            0x38 => duration = take_varint(&mut rest)?,
            0x42 => check::message(check::INFERENCE, take_bytes(&mut rest)?, depth)?,
            0x4a => check::message(check::RESOURCES, take_bytes(&mut rest)?, depth)?,
            0x52 => {
                attributes += 1;
                check::message(check::TAG, take_bytes(&mut rest)?, depth)?;
            }
            0x5a => {
                attributes += 1;
                check::key_value(take_bytes(&mut rest)?, depth)?;
            }
            0x62 => check::message(check::EVENT, take_bytes(&mut rest)?, depth)?,
            0x6a => check::message(check::LINK, take_bytes(&mut rest)?, depth)?,
            0x70 => {
                take_varint(&mut rest)?;
            }
            0x7a => check::message(check::STATUS, take_bytes(&mut rest)?, depth)?,
            _ => {
                let mut fields = Fields::new(at);
                let field = fields.next().ok_or(Reason::Malformed)?.map_err(|_| Reason::Malformed)?;
                rest = fields.rest();
                match (field.number, field.value) {
                    (16, Value::Fixed32(_)) | (17 | 18 | 20, Value::Varint(_)) => {}
                    (19, Value::Bytes(state)) => check::text(state)?,
                    (21, Value::Varint(value)) => origin = value,
                    (22, Value::Bytes(bytes)) => check::message(check::PIPELINE, bytes, depth)?,
                    (23, Value::Bytes(bytes)) => check::message(check::TOKENS, bytes, depth)?,
                    // Known fields with another wire type, or with an overlong tag that no encoder writes.
                    (1..=23, _) => return Err(Reason::Malformed),
                    _ => {}
                }
            }
        }
    }
    if attributes > context.limits.max_attributes {
        return Err(Reason::TooManyAttributes);
    }
    let trace_id = check::trace_id(trace_id)?;
    check::span_id(span_id)?;
    let zero_parent = match parent.len() {
        0 => false,
        8 => parent == [0; 8],
        _ => return Err(Reason::BadParentSpanId),
    };
    context.window.check(start.cast_signed(), duration.cast_signed())?;
    Ok(SpanFacts { trace_id, origin: u32::try_from(origin).map_err(|_| Reason::BadOrigin)?, zero_parent })
}
