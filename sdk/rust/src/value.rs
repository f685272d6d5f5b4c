//! Ids and attribute values as the API takes them, and their wire encoding (OTLP's).

use std::fmt;

use crate::wire;

/// 16 bytes that name a trace; never all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TraceId(pub [u8; 16]);

/// 8 bytes that name a span within its trace; never all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// A random id.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random::<u128>().max(1).to_be_bytes())
    }
}

impl SpanId {
    /// A random id.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random::<u64>().max(1).to_be_bytes())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An attribute's value, borrowed: every type OTLP knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Text.
    Str(&'a str),
    /// Truth value.
    Bool(bool),
    /// Integer.
    Int(i64),
    /// Floating point number.
    Double(f64),
    /// Bytes.
    Bytes(&'a [u8]),
    /// List of values.
    Array(&'a [Value<'a>]),
    /// Nested attributes.
    Map(&'a [(&'a str, Value<'a>)]),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Str(value)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(value: &'a String) -> Self {
        Self::Str(value)
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<i32> for Value<'_> {
    fn from(value: i32) -> Self {
        Self::Int(i64::from(value))
    }
}

impl From<u32> for Value<'_> {
    fn from(value: u32) -> Self {
        Self::Int(i64::from(value))
    }
}

impl From<f64> for Value<'_> {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(value)
    }
}

/// Writes a `KeyValue` as field `number`.
#[inline]
pub(crate) fn put_attribute(out: &mut Vec<u8>, number: u32, key: &str, value: Value<'_>) {
    wire::put_message(out, number, |out| {
        wire::put_bytes(out, 1, key.as_bytes());
        put_any(out, 2, value);
    });
}

/// Writes an `AnyValue` as field `number`.
#[inline]
fn put_any(out: &mut Vec<u8>, number: u32, value: Value<'_>) {
    wire::put_message(out, number, |out| match value {
        Value::Str(text) => wire::put_bytes(out, 1, text.as_bytes()),
        Value::Bool(truth) => wire::put_uint(out, 2, u64::from(truth)),
        Value::Int(integer) => wire::put_uint(out, 3, integer as u64),
        Value::Double(number) => wire::put_double(out, 4, number),
        Value::Array(values) => wire::put_message(out, 5, |out| {
            for value in values {
                put_any(out, 1, *value);
            }
        }),
        Value::Map(entries) => wire::put_message(out, 6, |out| {
            for (key, value) in entries {
                put_attribute(out, 1, key, *value);
            }
        }),
        Value::Bytes(bytes) => wire::put_bytes(out, 7, bytes),
    });
}
