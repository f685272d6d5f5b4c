//! OTLP/JSON to OTLP protobuf bytes: what comes as JSON then takes the same path as everything else, and what is told
//! as JSON can be told as protobuf.
//!
//! Streaming: no tree is built, so memory stays near the size of the text. Lenient as the specification asks:
//! ids in hex, 64-bit integers as strings or numbers, enums as numbers or names, unknown fields ignored; also
//! `snake_case` names, `null` for "absent", and "NaN" and "Infinity". An id that is not hex becomes one
//! of a wrong length, so that only its span is rejected.

use std::{borrow::Cow, fmt};

use base64::Engine as _;
use serde::{
    Deserialize as _,
    de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

mod schema;

use self::schema::{Kind, METRICS, Message, TRACES};
use crate::wire::{
    put_bytes_field, put_fixed32_field, put_fixed64_field, put_varint, put_varint_field, varint_len,
};

/// Which message a JSON text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `ExportTraceServiceRequest`, or `TracesData`, which is encoded alike.
    Traces,
    /// `ExportMetricsServiceRequest`.
    Metrics,
}

/// Appends the protobuf encoding of `json` to `out`.
///
/// # Errors
/// With the place, when the text is no such message or goes beyond `bounds`.
pub fn transcode(
    json: &[u8],
    signal: Signal,
    bounds: Bounds,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let message = match signal {
        Signal::Traces => &TRACES,
        Signal::Metrics => &METRICS,
    };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    MessageSeed { message, bounds, out }.deserialize(&mut deserializer).and_then(|()| deserializer.end())
}

/// What may still come.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How many more recursive messages may nest.
    pub depth: u32,
    /// Bytes of output in all: a short number can be a long field.
    pub bytes: usize,
}

impl Bounds {
    fn check<E: serde::de::Error>(self, out: &[u8]) -> Result<(), E> {
        if out.len() > self.bytes {
            return Err(E::custom(format!("as protobuf it is larger than {} bytes", self.bytes)));
        }
        Ok(())
    }
}

/// Writes the fields of one message.
struct MessageSeed<'o> {
    message: &'static Message,
    bounds: Bounds,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a JSON object ({})", self.message.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let bounds = match (self.message.recursive, self.bounds.depth.checked_sub(1)) {
            (false, _) => self.bounds,
            (true, Some(depth)) => Bounds { depth, ..self.bounds },
            (true, None) => return Err(A::Error::custom("attribute values nested too deep")),
        };
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            bounds.check(self.out)?;
            match self.message.fields.iter().find(|(name, ..)| same_name(name, &key)) {
                Some(&(_, number, kind)) => {
                    map.next_value_seed(FieldSeed { number, kind, bounds, out: self.out })?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Whether `given` is the camelCase `name`, or its snake_case spelling.
fn same_name(name: &str, given: &str) -> bool {
    if name == given {
        return true;
    }
    if !given.contains('_') {
        return false;
    }
    let mut given = given.chars();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && given.next() != Some('_') {
            return false;
        }
        if given.next() != Some(letter.to_ascii_lowercase()) {
            return false;
        }
    }
    given.next().is_none()
}

/// Writes one field from its JSON value.
struct FieldSeed<'o> {
    number: u32,
    kind: Kind,
    bounds: Bounds,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if !matches!(self.kind, Kind::Double) {
            return deserializer.deserialize_any(self);
        }
        // serde_json rounds some doubles in the last place; the text itself is parsed exactly.
        let text = <&RawValue>::deserialize(deserializer)?.get();
        match text.as_bytes().first() {
            Some(b'n') => Ok(()),
            Some(b'"') => {
                let text: Cow<'_, str> = serde_json::from_str(text).map_err(D::Error::custom)?;
                self.visit_str(&text)
            }
            _ => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => self.visit_f64(value),
                _ => Err(D::Error::custom("expected a number")),
            },
        }
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Text => "a string",
            Kind::HexId => "a hex string",
            Kind::Base64 => "a base64 string",
            Kind::Bool => "true or false",
            Kind::Double => "a number",
            Kind::Enum(_) => "a number or a name",
            Kind::Message(message) => return write!(f, "a JSON object ({})", message.name),
            Kind::Repeated(_) => "an array",
            _ => "an integer, or one as a string",
        })
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        match self.kind {
            Kind::Bool => {
                put_varint_field(self.out, self.number, u64::from(value));
                Ok(())
            }
            _ => Err(E::invalid_type(serde::de::Unexpected::Bool(value), &self)),
        }
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.number(Number::Integer(i128::from(value)))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.number(Number::Integer(i128::from(value)))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.number(Number::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        match self.kind {
            Kind::Text => put_bytes_field(self.out, self.number, value.as_bytes()),
            Kind::HexId => {
                // One byte has no id's length: the span is rejected, not the request.
                let id = hex::decode(value).unwrap_or_else(|_| vec![0xff]);
                put_bytes_field(self.out, self.number, &id);
            }
            Kind::Base64 => {
                let bytes = decode_base64(value).ok_or_else(|| E::custom("not base64"))?;
                put_bytes_field(self.out, self.number, &bytes);
            }
            Kind::Bool => {
                let value = value.parse::<bool>().map_err(E::custom)?;
                put_varint_field(self.out, self.number, u64::from(value));
            }
            Kind::Enum(names) => {
                let named = names.iter().position(|name| *name == value).map(|at| at as u64);
                // A name from a later version of the specification counts as unspecified.
                put_varint_field(self.out, self.number, named.or_else(|| value.parse().ok()).unwrap_or(0));
            }
            Kind::Message(_) | Kind::Repeated(_) => {
                return Err(E::invalid_type(serde::de::Unexpected::Str(value), &self));
            }
            _ => {
                let number = Number::parse(value).ok_or_else(|| E::custom("not a number"))?;
                return self.number(number);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let Kind::Repeated(kind) = self.kind else {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self));
        };
        while sequence
            .next_element_seed(FieldSeed {
                number: self.number,
                kind: *kind,
                bounds: self.bounds,
                out: self.out,
            })?
            .is_some()
        {
            self.bounds.check(self.out)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Kind::Message(message) = self.kind else {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Map, &self));
        };
        put_varint(self.out, u64::from(self.number) << 3 | 2);
        let begin = self.out.len();
        MessageSeed { message, bounds: self.bounds, out: self.out }.visit_map(map)?;
        insert_length(self.out, begin);
        Ok(())
    }
}

/// Puts the length of what stands from `begin` on in front of it.
fn insert_length(out: &mut Vec<u8>, begin: usize) {
    let length = (out.len() - begin) as u64;
    let end = out.len();
    let width = varint_len(length);
    put_varint(out, length);
    out[begin..].rotate_right(width);
    debug_assert_eq!(out.len(), end + width);
}

enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "NaN" => Some(Self::Float(f64::NAN)),
            "Infinity" => Some(Self::Float(f64::INFINITY)),
            "-Infinity" => Some(Self::Float(f64::NEG_INFINITY)),
            _ => text.parse().map(Self::Integer).or_else(|_| text.parse().map(Self::Float)).ok(),
        }
    }

    fn to_f64(&self) -> f64 {
        match *self {
            Self::Integer(value) => value as f64,
            Self::Float(value) => value,
        }
    }

    /// The value if it is whole and in range.
    fn whole(&self, least: i128, most: i128) -> Option<i128> {
        let value = match *self {
            Self::Integer(value) => value,
            // Every finite f64 below 2^100 converts exactly when it has no fraction.
            Self::Float(value) if value.fract() == 0.0 && value.abs() < 1e30 => value as i128,
            Self::Float(_) => return None,
        };
        (least..=most).contains(&value).then_some(value)
    }
}

impl FieldSeed<'_> {
    fn number<E: serde::de::Error>(self, number: Number) -> Result<(), E> {
        let whole = |least: i128, most: i128| {
            number.whole(least, most).ok_or_else(|| E::custom("a number out of range, or not whole"))
        };
        const UNSIGNED: i128 = u64::MAX as i128;
        match self.kind {
            Kind::Double => put_fixed64_field(self.out, self.number, number.to_f64().to_bits()),
            Kind::Int64 => {
                let value = whole(i128::from(i64::MIN), i128::from(i64::MAX))?;
                put_varint_field(self.out, self.number, (value as i64).cast_unsigned());
            }
            Kind::SignedFixed64 => {
                let value = whole(i128::from(i64::MIN), i128::from(i64::MAX))?;
                put_fixed64_field(self.out, self.number, (value as i64).cast_unsigned());
            }
            Kind::Varint | Kind::Enum(_) => {
                put_varint_field(self.out, self.number, whole(0, UNSIGNED)? as u64);
            }
            Kind::Fixed64 => put_fixed64_field(self.out, self.number, whole(0, UNSIGNED)? as u64),
            Kind::Fixed32 => {
                put_fixed32_field(self.out, self.number, whole(0, i128::from(u32::MAX))? as u32);
            }
            _ => return Err(E::invalid_type(serde::de::Unexpected::Other("number"), &self)),
        }
        Ok(())
    }
}

/// Standard or URL-safe, with or without padding.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    use base64::{
        alphabet,
        engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    };
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}
