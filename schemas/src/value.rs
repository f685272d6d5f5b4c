//! OTLP's `AnyValue` and `KeyValue` as bytes: taking them apart, checking them, writing them as JSON.
//!
//! The reader checks every value before it enters a column; `view` renders what the columns hold.
//! Invariants: nesting is bounded by [`MAX_DEPTH`] before anything recurses; rendering a checked value
//! cannot fail; OTLP/JSON text written here keeps every value and type.

use std::io::Write;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Map, Value as Json};

use crate::wire::{Field, Fields, Value, WireError};

/// Levels of arrays and lists inside one attribute's value.
pub const MAX_DEPTH: usize = 32;

/// What is wrong with a value's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// No protobuf, or a field of the wrong type.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// More than [`MAX_DEPTH`] levels.
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// One level of an `AnyValue`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AnyValue<'a> {
    /// No value is set, or one of a kind this version does not know.
    Empty,
    /// Text, not yet checked to be UTF-8.
    String(&'a [u8]),
    /// Truth value.
    Bool(bool),
    /// 64-bit integer.
    Int(i64),
    /// 64-bit float.
    Double(f64),
    /// An encoded `ArrayValue`.
    Array(&'a [u8]),
    /// An encoded `KeyValueList`.
    KvList(&'a [u8]),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl<'a> AnyValue<'a> {
    /// Takes one level apart; of several values the last one counts.
    ///
    /// # Errors
    /// [`WireError`].
    #[inline]
    pub fn parse(message: &'a [u8]) -> Result<Self, WireError> {
        let mut value = AnyValue::Empty;
        for field in Fields::new(message) {
            value.take(&field?)?;
        }
        Ok(value)
    }

    #[inline]
    fn take(&mut self, field: &Field<'a>) -> Result<(), WireError> {
        *self = match field.number {
            1 => AnyValue::String(field.bytes()?),
            2 => AnyValue::Bool(field.varint()? != 0),
            3 => AnyValue::Int(field.varint()? as i64),
            4 => AnyValue::Double(f64::from_bits(field.fixed64()?)),
            5 => AnyValue::Array(field.bytes()?),
            6 => AnyValue::KvList(field.bytes()?),
            7 => AnyValue::Bytes(field.bytes()?),
            _ => return Ok(()),
        };
        Ok(())
    }

    /// Checks text and nesting, this level included.
    ///
    /// # Errors
    /// [`ValueError`].
    pub fn check(&self) -> Result<(), ValueError> {
        self.check_within(MAX_DEPTH)
    }

    fn check_within(&self, depth: usize) -> Result<(), ValueError> {
        match *self {
            AnyValue::String(text) => check_text(text),
            AnyValue::Array(array) => {
                let depth = depth.checked_sub(1).ok_or(ValueError::TooDeep)?;
                for item in items(array) {
                    AnyValue::parse(item?)?.check_within(depth)?;
                }
                Ok(())
            }
            AnyValue::KvList(list) => {
                let depth = depth.checked_sub(1).ok_or(ValueError::TooDeep)?;
                for entry in items(list) {
                    let (key, value) = key_value(entry?)?;
                    check_text(key)?;
                    AnyValue::parse(value)?.check_within(depth)?;
                }
                Ok(())
            }
            AnyValue::Empty
            | AnyValue::Bool(_)
            | AnyValue::Int(_)
            | AnyValue::Double(_)
            | AnyValue::Bytes(_) => Ok(()),
        }
    }
}

/// The encoded items (field 1) of an `ArrayValue` or a `KeyValueList`.
pub fn items(message: &[u8]) -> impl Iterator<Item = Result<&[u8], WireError>> {
    Fields::new(message).filter_map(|field| match field {
        Ok(field) if field.number == 1 => Some(field.bytes()),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

/// Key and encoded `AnyValue` of a `KeyValue`; an absent value is an empty one.
///
/// # Errors
/// [`WireError`].
#[inline]
pub fn key_value(message: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    for field in Fields::new(message) {
        let field = field?;
        match (field.number, field.value) {
            (1, Value::Bytes(bytes)) => key = bytes,
            (2, Value::Bytes(bytes)) => value = bytes,
            (1 | 2, _) => return Err(WireError::WrongType(field.number)),
            _ => {}
        }
    }
    Ok((key, value))
}

/// Checks that `bytes` are UTF-8.
///
/// # Errors
/// [`ValueError::Utf8`].
#[inline]
pub fn check_text(bytes: &[u8]) -> Result<(), ValueError> {
    text(bytes).map(|_| ())
}

/// `bytes` as text.
///
/// # Errors
/// [`ValueError::Utf8`].
#[inline]
pub fn text(bytes: &[u8]) -> Result<&str, ValueError> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| ValueError::Utf8)
}

/// Text of checked bytes; what a broken invariant would leave over is replaced, never trusted.
fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Appends `text` as a JSON string.
pub fn put_json_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string is written to memory");
}

/// Appends a number as OTLP/JSON has it: the three that JSON lacks as strings.
pub fn put_json_double(out: &mut Vec<u8>, value: f64) {
    match non_finite(value) {
        Some(name) => put_json_string(out, name),
        None => serde_json::to_writer(out, &value).expect("a number is written to memory"),
    }
}

/// How JSON writes a double that is not finite.
#[must_use]
pub fn non_finite(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value == f64::INFINITY {
        Some("Infinity")
    } else if value == f64::NEG_INFINITY {
        Some("-Infinity")
    } else {
        None
    }
}

/// Appends a checked value as an OTLP/JSON `AnyValue`.
pub fn put_otlp_value(out: &mut Vec<u8>, value: &AnyValue<'_>) {
    match *value {
        AnyValue::Empty => out.extend_from_slice(b"{}"),
        AnyValue::String(text) => {
            out.extend_from_slice(b"{\"stringValue\":");
            put_json_string(out, &lossy(text));
            out.push(b'}');
        }
        AnyValue::Bool(value) => {
            out.extend_from_slice(if value { b"{\"boolValue\":true}" } else { b"{\"boolValue\":false}" });
        }
        AnyValue::Int(value) => {
            write!(out, "{{\"intValue\":\"{value}\"}}").expect("written to memory");
        }
        AnyValue::Double(value) => {
            out.extend_from_slice(b"{\"doubleValue\":");
            put_json_double(out, value);
            out.push(b'}');
        }
        AnyValue::Bytes(bytes) => {
            write!(out, "{{\"bytesValue\":\"{}\"}}", BASE64.encode(bytes)).expect("written to memory");
        }
        AnyValue::Array(array) => {
            out.extend_from_slice(b"{\"arrayValue\":{\"values\":[");
            let mut separator = Separator::default();
            for item in items(array).map_while(Result::ok) {
                separator.put(out);
                put_otlp_value(out, &AnyValue::parse(item).unwrap_or(AnyValue::Empty));
            }
            out.extend_from_slice(b"]}}");
        }
        AnyValue::KvList(list) => {
            out.extend_from_slice(b"{\"kvlistValue\":{\"values\":[");
            let mut separator = Separator::default();
            for entry in items(list).map_while(Result::ok) {
                separator.put(out);
                put_otlp_key_value(out, entry);
            }
            out.extend_from_slice(b"]}}");
        }
    }
}

/// Appends a checked, encoded `KeyValue` as OTLP/JSON.
pub fn put_otlp_key_value(out: &mut Vec<u8>, message: &[u8]) {
    let (key, value) = key_value(message).unwrap_or_default();
    put_otlp_entry(out, &lossy(key), &AnyValue::parse(value).unwrap_or(AnyValue::Empty));
}

/// Appends an OTLP/JSON `KeyValue`.
pub fn put_otlp_entry(out: &mut Vec<u8>, key: &str, value: &AnyValue<'_>) {
    out.extend_from_slice(b"{\"key\":");
    put_json_string(out, key);
    out.extend_from_slice(b",\"value\":");
    put_otlp_value(out, value);
    out.push(b'}');
}

/// Commas between, not before.
#[derive(Debug, Default)]
pub struct Separator {
    started: bool,
}

impl Separator {
    /// Appends a comma, except the first time.
    #[inline]
    pub fn put(&mut self, out: &mut Vec<u8>) {
        if self.started {
            out.push(b',');
        }
        self.started = true;
    }
}

/// A value as the API's plain JSON, and its type where the JSON alone does not tell it.
///
/// 64-bit integers are decimal strings (`int`), bytes base64 (`bytes`), the doubles that JSON lacks strings
/// (`double`); an array whose items are all ambiguous in one way is `array<int>` and so on.
#[must_use]
pub fn plain_json(value: &AnyValue<'_>) -> (Json, Option<String>) {
    match *value {
        AnyValue::Empty => (Json::Null, None),
        AnyValue::String(text) => (Json::String(lossy(text).into_owned()), None),
        AnyValue::Bool(value) => (Json::Bool(value), None),
        AnyValue::Int(value) => (Json::String(value.to_string()), Some("int".to_owned())),
        AnyValue::Double(value) => match non_finite(value) {
            Some(name) => (Json::String(name.to_owned()), Some("double".to_owned())),
            None => (Json::from(value), None),
        },
        AnyValue::Bytes(bytes) => (Json::String(BASE64.encode(bytes)), Some("bytes".to_owned())),
        AnyValue::Array(array) => {
            let values = items(array).map_while(Result::ok);
            let values = values.map(|item| plain_json(&AnyValue::parse(item).unwrap_or(AnyValue::Empty)));
            let (values, kinds): (Vec<Json>, Vec<Option<String>>) = values.unzip();
            (Json::Array(values), array_type(kinds))
        }
        AnyValue::KvList(list) => {
            let mut object = Map::new();
            for entry in items(list).map_while(Result::ok) {
                let (key, value) = key_value(entry).unwrap_or_default();
                let value = AnyValue::parse(value).unwrap_or(AnyValue::Empty);
                object.insert(lossy(key).into_owned(), plain_json(&value).0);
            }
            (Json::Object(object), None)
        }
    }
}

/// The type of an array whose items are all ambiguous in the same way.
#[must_use]
pub fn array_type(kinds: Vec<Option<String>>) -> Option<String> {
    let first = kinds.first()?.as_ref()?;
    kinds.iter().all(|kind| kind.as_ref() == Some(first)).then(|| format!("array<{first}>"))
}
