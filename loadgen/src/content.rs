//! A digest of what a span says, equal however the span travelled: native, OTLP, Parquet, API.
//!
//! Ids and start time are left out (they are compared apart); attributes count in any order. A request id that
//! follows from the trace id counts like any other such.

use std::hash::Hasher;

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

/// The attribute that has a serving engine's id of the request.
pub const REQUEST_ID: &str = "gen_ai.request.id";
/// Stands for the trace id where there is none yet.
pub const NO_TRACE: [u8; 16] = [0; 16];
const REQUEST_ID_PREFIX: &str = "chatcmpl-";

/// The request id of a trace: unique as the trace is.
#[must_use]
pub fn request_id_of(trace_id: &[u8; 16]) -> String {
    let digits = request_id_digits(trace_id);
    format!("{REQUEST_ID_PREFIX}{}", String::from_utf8_lossy(&digits))
}

/// The part of [`request_id_of`] that differs between traces: the end of it.
#[must_use]
#[inline]
pub fn request_id_digits(trace_id: &[u8; 16]) -> [u8; 16] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| {
        let byte = trace_id[at / 2];
        HEX[usize::from(if at % 2 == 0 { byte >> 4 } else { byte & 0xf })]
    })
}

/// An attribute value of the types that the load generator uses.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// Text.
    Str(String),
    /// Integer.
    Int(i64),
    /// Floating point number.
    Double(f64),
    /// Truth value.
    Bool(bool),
}

/// Collects a span's content; [`Content::digest`] ends it.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    trace_id: [u8; 16],
    head: u64,
    attributes: u64,
}

impl Content {
    /// The fixed part; a trace id of another length is that of no request.
    #[must_use]
    pub fn new(
        trace_id: &[u8],
        service: &str,
        operation: &str,
        kind: u8,
        status: u8,
        duration_ns: i64,
    ) -> Self {
        let mut hasher = Xxh3Default::new();
        hasher.write(service.as_bytes());
        hasher.write(&[0xff]);
        hasher.write(operation.as_bytes());
        hasher.write(&[0xff, kind, status]);
        hasher.write(&duration_ns.to_le_bytes());
        let trace_id = trace_id.try_into().unwrap_or(NO_TRACE);
        Self { trace_id, head: hasher.finish(), attributes: 0 }
    }

    fn add(&mut self, key: &str, kind: u8, value: &[u8]) {
        let mut hasher = Xxh3Default::new();
        hasher.write(key.as_bytes());
        hasher.write(&[0xff, kind]);
        hasher.write(value);
        self.attributes = self.attributes.wrapping_add(hasher.finish());
    }

    /// Adds a text attribute.
    pub fn string(&mut self, key: &str, value: &str) {
        let digits = value.strip_prefix(REQUEST_ID_PREFIX).filter(|_| key == REQUEST_ID);
        let is_of_trace = digits.is_some_and(|is| is.as_bytes() == request_id_digits(&self.trace_id));
        self.add(key, 1, if is_of_trace { &[] } else { value.as_bytes() });
    }

    /// Adds an integer attribute.
    pub fn int(&mut self, key: &str, value: i64) {
        self.add(key, 2, &value.to_le_bytes());
    }

    /// Adds a number attribute.
    pub fn double(&mut self, key: &str, value: f64) {
        self.add(key, 3, &value.to_bits().to_le_bytes());
    }

    /// Adds a truth attribute.
    pub fn bool(&mut self, key: &str, value: bool) {
        self.add(key, 4, &[u8::from(value)]);
    }

    /// Adds an attribute that the generator never writes: it must change the digest.
    pub fn other(&mut self, key: &str, value: &[u8]) {
        self.add(key, 5, value);
    }

    /// Adds an attribute.
    pub fn attr(&mut self, key: &str, value: &Attr) {
        match value {
            Attr::Str(text) => self.string(key, text),
            Attr::Int(integer) => self.int(key, *integer),
            Attr::Double(number) => self.double(key, *number),
            Attr::Bool(truth) => self.bool(key, *truth),
        }
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&self.head.to_le_bytes());
        both[8..].copy_from_slice(&self.attributes.to_le_bytes());
        xxh3_64(&both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(trace: u8, request: u8) -> u64 {
        let mut content = Content::new(&[trace; 16], "engine", "llm_request", 2, 0, 1);
        content.string(REQUEST_ID, &request_id_of(&[request; 16]));
        content.digest()
    }

    /// Scenario: spans of two traces, each with the request id of its own, and of the other.
    /// Guarantee: the former say the same; an id that strayed changes the digest.
    #[test]
    fn a_request_id_belongs_to_its_trace() {
        assert_eq!(request_id_of(&[0xab; 16]), "chatcmpl-abababababababab");
        assert_eq!(digest(1, 1), digest(2, 2));
        assert_ne!(digest(1, 1), digest(1, 2));
    }
}
