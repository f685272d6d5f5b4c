//! Structural validation of the messages inside a span, without building them.
//!
//! What passes here the reader decodes: wire types as the schema says, strings UTF-8, packed numbers whole,
//! attribute values nested no deeper than the limit. Unknown fields pass.

use infertrace_schemas::wire::{Fields, Value, read_varint};

use super::Reason;

/// What a field must look like.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// Not in the schema.
    Unknown,
    Varint,
    Fixed64,
    Fixed32,
    Text,
    Bytes,
    KeyValue,
    /// Repeated varints, packed or not.
    Varints,
    Nested(&'static [Shape]),
}

use Shape::{Bytes, Fixed32, Fixed64, KeyValue, Nested, Text, Unknown, Varint, Varints};

/// `Event`, ours and OTLP's.
pub(super) const EVENT: &[Shape] = &[Fixed64, Text, KeyValue, Varint];
/// `Link`, ours and OTLP's.
pub(super) const LINK: &[Shape] = &[Bytes, Bytes, Text, KeyValue, Varint, Fixed32];
/// `Status`, ours and OTLP's.
pub(super) const STATUS: &[Shape] = &[Unknown, Text, Varint];
/// `Resource`, ours and OTLP's.
pub(super) const RESOURCE: &[Shape] = &[KeyValue, Varint];
/// `Scope`, OTLP's `InstrumentationScope`.
pub(super) const SCOPE: &[Shape] = &[Text, Text, KeyValue, Varint];
/// `Origin`.
pub(super) const ORIGIN: &[Shape] = &[Nested(RESOURCE), Nested(SCOPE), Text, Text];
/// An entry of `map<string, string>`.
pub(super) const TAG: &[Shape] = &[Text, Text];
/// `InferenceContext`.
pub(super) const INFERENCE: &[Shape] = &[
    Text, Text, Text, Text, Varint, Varint, Varint, Varint, Varint, Varint, Varint, Text, Text, Varint, Text,
    Varint, Varint, Varint, Varint, Varint,
];
/// `ResourceMetrics`.
pub(super) const RESOURCES: &[Shape] = &[Nested(GPU), Nested(CPU), Nested(MEMORY)];
const GPU: &[Shape] =
    &[Text, Varint, Text, Text, Fixed64, Varint, Varint, Fixed64, Fixed64, Varint, Varint, Varint, Text];
const CPU: &[Shape] = &[Fixed64];
const MEMORY: &[Shape] = &[Varint, Varint];
/// `PipelineContext`.
pub(super) const PIPELINE: &[Shape] = &[Text, Varint, Fixed64, Fixed64, Varint, Fixed64, Fixed64, Varint];
/// `TokenTimeline`.
pub(super) const TOKENS: &[Shape] = &[Varints, Varints, Varints, Varints, Varints, Text];

/// Checks `bytes` against `fields`, whose position is the field number less one.
pub(super) fn message(fields: &'static [Shape], bytes: &[u8], depth: u32) -> Result<(), Reason> {
    for field in Fields::new(bytes) {
        let field = field.map_err(|_| Reason::Malformed)?;
        let shape = fields.get(field.number as usize - 1).copied().unwrap_or(Unknown);
        match (shape, field.value) {
            (Unknown | Bytes, Value::Bytes(_))
            | (Unknown | Varint | Varints, Value::Varint(_))
            | (Unknown | Fixed64, Value::Fixed64(_))
            | (Unknown | Fixed32, Value::Fixed32(_)) => {}
            (Text, Value::Bytes(bytes)) => text(bytes)?,
            (KeyValue, Value::Bytes(bytes)) => key_value(bytes, depth)?,
            (Varints, Value::Bytes(bytes)) => packed_varints(bytes)?,
            (Nested(fields), Value::Bytes(bytes)) => message(fields, bytes, depth)?,
            _ => return Err(Reason::Malformed),
        }
    }
    Ok(())
}

/// Whether every byte is below 0x80.
#[inline(always)]
fn is_ascii(bytes: &[u8]) -> bool {
    const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
    let (chunks, _) = bytes.as_chunks::<8>();
    let seen = chunks.iter().fold(0, |seen, chunk| seen | u64::from_le_bytes(*chunk));
    let tail = match bytes.last_chunk::<8>() {
        Some(last) => u64::from_le_bytes(*last),
        None => bytes.iter().fold(0, |seen, &byte| seen | u64::from(byte)),
    };
    (seen | tail) & HIGH_BITS == 0
}

/// Checks that a string is UTF-8.
#[inline]
pub(super) fn text(bytes: &[u8]) -> Result<(), Reason> {
    if is_ascii(bytes) || simdutf8::basic::from_utf8(bytes).is_ok() { Ok(()) } else { Err(Reason::BadUtf8) }
}

fn packed_varints(mut bytes: &[u8]) -> Result<(), Reason> {
    while !bytes.is_empty() {
        read_varint(&mut bytes).map_err(|_| Reason::Malformed)?;
    }
    Ok(())
}

/// Checks one attribute; `depth` is how many more levels of values may follow.
#[inline]
pub(super) fn key_value(bytes: &[u8], depth: u32) -> Result<(), Reason> {
    if depth > 0 && is_plain(bytes) { Ok(()) } else { any_key_value(bytes, depth) }
}

/// Whether an attribute has the shape that nearly every one has: an ASCII key, and an ASCII string or a number,
/// each below 128 bytes. False only means that it needs a closer look.
///
/// One look at all bytes settles key and string at once, because the tags and lengths between them are below
/// 0x80 like ASCII itself.
#[inline(always)]
fn is_plain(bytes: &[u8]) -> bool {
    let Some((&[0x0a, key_length], rest)) = bytes.split_first_chunk::<2>() else { return false };
    let Some((key, value)) = rest.split_at_checked(usize::from(key_length)) else { return false };
    let Some((&[0x12, value_length, kind], payload)) = value.split_first_chunk::<3>() else { return false };
    if key_length >= 0x80 || value_length >= 0x80 || usize::from(value_length) != payload.len() + 1 {
        return false;
    }
    match kind {
        // string_value
        0x0a => {
            payload.first().is_some_and(|length| usize::from(*length) == payload.len() - 1) && is_ascii(bytes)
        }
        // bool_value, int_value: exactly one varint
        0x10 | 0x18 => {
            payload.len() < 10
                && payload.iter().position(|byte| *byte < 0x80) == Some(payload.len().wrapping_sub(1))
                && is_ascii(key)
        }
        // double_value
        0x21 => payload.len() == 8 && is_ascii(key),
        _ => false,
    }
}

fn any_key_value(bytes: &[u8], depth: u32) -> Result<(), Reason> {
    for field in Fields::new(bytes) {
        let field = field.map_err(|_| Reason::Malformed)?;
        match (field.number, field.value) {
            (1, Value::Bytes(key)) => text(key)?,
            (2, Value::Bytes(value)) => any_value(value, depth)?,
            (1 | 2, _) => return Err(Reason::Malformed),
            _ => {}
        }
    }
    Ok(())
}

fn any_value(bytes: &[u8], depth: u32) -> Result<(), Reason> {
    let Some(depth) = depth.checked_sub(1) else { return Err(Reason::TooDeep) };
    for field in Fields::new(bytes) {
        let field = field.map_err(|_| Reason::Malformed)?;
        match (field.number, field.value) {
            (1, Value::Bytes(string)) => text(string)?,
            (2 | 3, Value::Varint(_)) | (4, Value::Fixed64(_)) | (7, Value::Bytes(_)) => {}
            (5, Value::Bytes(array)) => values(array, |value| any_value(value, depth))?,
            (6, Value::Bytes(list)) => values(list, |value| any_key_value(value, depth))?,
            (1..=7, _) => return Err(Reason::Malformed),
            _ => {}
        }
    }
    Ok(())
}

/// Walks `ArrayValue` or `KeyValueList`, whose only field is 1.
fn values(bytes: &[u8], check: impl Fn(&[u8]) -> Result<(), Reason>) -> Result<(), Reason> {
    for field in Fields::new(bytes) {
        let field = field.map_err(|_| Reason::Malformed)?;
        match (field.number, field.value) {
            (1, Value::Bytes(value)) => check(value)?,
            (1, _) => return Err(Reason::Malformed),
            _ => {}
        }
    }
    Ok(())
}

/// Reads one length-delimited value off the front.
#[inline(always)]
pub(super) fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Reason> {
    let length = read_varint(rest).map_err(|_| Reason::Malformed)?;
    let length = usize::try_from(length).map_err(|_| Reason::Malformed)?;
    let (bytes, tail) = rest.split_at_checked(length).ok_or(Reason::Malformed)?;
    *rest = tail;
    Ok(bytes)
}

/// Reads one varint off the front.
#[inline(always)]
pub(super) fn take_varint(rest: &mut &[u8]) -> Result<u64, Reason> {
    read_varint(rest).map_err(|_| Reason::Malformed)
}

/// Reads one fixed64 off the front.
#[inline(always)]
pub(super) fn take_fixed64(rest: &mut &[u8]) -> Result<u64, Reason> {
    let (word, tail) = rest.split_first_chunk::<8>().ok_or(Reason::Malformed)?;
    *rest = tail;
    Ok(u64::from_le_bytes(*word))
}

/// Checks a trace id.
#[inline]
pub(super) fn trace_id(bytes: &[u8]) -> Result<[u8; 16], Reason> {
    match <[u8; 16]>::try_from(bytes) {
        Ok(id) if id == [0; 16] => Err(Reason::EmptyId),
        Ok(id) => Ok(id),
        Err(_) if bytes.is_empty() => Err(Reason::EmptyId),
        Err(_) => Err(Reason::BadTraceId),
    }
}

/// Checks a span id.
#[inline]
pub(super) fn span_id(bytes: &[u8]) -> Result<(), Reason> {
    match <[u8; 8]>::try_from(bytes) {
        Ok([0, 0, 0, 0, 0, 0, 0, 0]) => Err(Reason::EmptyId),
        Ok(_) => Ok(()),
        Err(_) if bytes.is_empty() => Err(Reason::EmptyId),
        Err(_) => Err(Reason::BadSpanId),
    }
}
