//! Reading a source's value in the unit of its column, however its sender typed it.

use super::Convert;
use crate::value::{AnyValue, items};

/// A value in its column's unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Converted<'a> {
    /// Text, UTF-8.
    Text(&'a [u8]),
    /// A count.
    Count(u64),
    /// A number.
    Number(f64),
    /// A truth value.
    Flag(bool),
    /// An encoded `ArrayValue`.
    Array(&'a [u8]),
    /// Several reasons, to be joined by [`joined_reasons`].
    Reasons(AnyValue<'a>),
}

/// Reads `value`, which was checked before; `None` when it is empty or makes no sense.
#[must_use]
#[inline]
pub fn convert<'a>(value: &AnyValue<'a>, how: Convert) -> Option<Converted<'a>> {
    match how {
        Convert::Text => text(value).map(Converted::Text),
        Convert::Count => count(value).map(Converted::Count),
        Convert::Number => number(value).map(Converted::Number),
        Convert::Flag => flag(value).map(Converted::Flag),
        Convert::SecondsToNanos => scaled(value, 1e9).map(Converted::Count),
        Convert::MillisToNanos => scaled(value, 1e6).map(Converted::Count),
        Convert::MebibytesToBytes => scaled(value, 1_048_576.0).map(Converted::Count),
        Convert::SecondsToMillis => number(value).map(|number| Converted::Number(number * 1e3)),
        Convert::RatioToPercent => number(value).map(|number| Converted::Number(number * 100.0)),
        Convert::Reasons => reasons(value),
        Convert::Numbers => match *value {
            AnyValue::Array(array) if !array.is_empty() => Some(Converted::Array(array)),
            _ => None,
        },
    }
}

#[inline]
fn text<'a>(value: &AnyValue<'a>) -> Option<&'a [u8]> {
    match *value {
        AnyValue::String(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

#[inline]
fn count(value: &AnyValue<'_>) -> Option<u64> {
    match *value {
        AnyValue::Int(number) => u64::try_from(number).ok(),
        AnyValue::Double(number) => whole(number),
        AnyValue::String(text) => parse(text).or_else(|| whole(parse(text)?)),
        _ => None,
    }
}

#[inline]
fn number(value: &AnyValue<'_>) -> Option<f64> {
    let number = match *value {
        AnyValue::Int(number) => number as f64,
        AnyValue::Double(number) => number,
        AnyValue::String(text) => parse(text)?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// The nearest whole number, where there is one.
#[inline]
fn whole(number: f64) -> Option<u64> {
    let rounded = number.round();
    (rounded >= 0.0 && rounded < u64::MAX as f64).then_some(rounded as u64)
}

#[inline]
fn scaled(value: &AnyValue<'_>, factor: f64) -> Option<u64> {
    whole(number(value)? * factor)
}

#[inline]
fn flag(value: &AnyValue<'_>) -> Option<bool> {
    match *value {
        AnyValue::Bool(flag) => Some(flag),
        AnyValue::Int(number) => Some(number != 0),
        AnyValue::String(text) if text.eq_ignore_ascii_case(b"true") || text == b"1" => Some(true),
        AnyValue::String(text) if text.eq_ignore_ascii_case(b"false") || text == b"0" => Some(false),
        _ => None,
    }
}

/// One reason is borrowed; several are left to [`joined_reasons`].
fn reasons<'a>(value: &AnyValue<'a>) -> Option<Converted<'a>> {
    match *value {
        AnyValue::String(text) if text.first() == Some(&b'[') => Some(Converted::Reasons(*value)),
        AnyValue::String(text) if !text.is_empty() => Some(Converted::Text(text)),
        AnyValue::Array(array) => {
            let mut found = items(array).map_while(Result::ok);
            let first = AnyValue::parse(found.next()?).ok()?;
            match (self::text(&first), found.next()) {
                (Some(reason), None) => Some(Converted::Text(reason)),
                _ => Some(Converted::Reasons(*value)),
            }
        }
        _ => None,
    }
}

/// The distinct reasons of an array, or of a JSON array in a text, joined by commas into `out`.
pub fn joined_reasons(value: &AnyValue<'_>, out: &mut Vec<u8>) {
    let mut add = |reason: &[u8]| {
        if !reason.is_empty() && !out.split(|byte| *byte == b',').any(|known| known == reason) {
            if !out.is_empty() {
                out.push(b',');
            }
            out.extend_from_slice(reason);
        }
    };
    match *value {
        AnyValue::Array(array) => {
            for item in items(array).map_while(Result::ok) {
                if let Ok(AnyValue::String(reason)) = AnyValue::parse(item) {
                    add(reason);
                }
            }
        }
        AnyValue::String(json) => match serde_json::from_slice::<Vec<Option<String>>>(json) {
            Ok(reasons) => reasons.iter().flatten().for_each(|reason| add(reason.as_bytes())),
            Err(_) => add(json),
        },
        _ => {}
    }
}
