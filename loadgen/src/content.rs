//! A digest of what a span says, equal however the span travelled: native, OTLP, Parquet, API.
//!
//! Ids and start time are left out (they are compared apart); attributes count in any order.

use std::hash::Hasher;

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

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
    head: u64,
    attributes: u64,
}

impl Content {
    /// The fixed part.
    #[must_use]
    pub fn new(service: &str, operation: &str, kind: u8, status: u8, duration_ns: i64) -> Self {
        let mut hasher = Xxh3Default::new();
        hasher.write(service.as_bytes());
        hasher.write(&[0xff]);
        hasher.write(operation.as_bytes());
        hasher.write(&[0xff, kind, status]);
        hasher.write(&duration_ns.to_le_bytes());
        Self { head: hasher.finish(), attributes: 0 }
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
        self.add(key, 1, value.as_bytes());
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
