//! `GpuSampleBatch` records, read from their bytes.
//!
//! Invariants: a record is read whole before anything of it counts, so a broken one counts for nothing; no input
//! panics, recurses or allocates more than a small multiple of its length.

use infertrace_schemas::wire::{Field, Fields, Value, WireError};

/// Why a record is poison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The bytes are no `GpuSampleBatch`.
    #[error("not a batch of samples: {0}")]
    Wire(#[from] WireError),
    /// A text that is not UTF-8.
    #[error("a text of a sample is not UTF-8")]
    BadText,
}

/// How a number behaves over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Temporality {
    #[default]
    Unspecified,
    Delta,
    Cumulative,
}

/// One reading.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading<'a> {
    pub(super) name: &'a str,
    pub(super) unit: &'a str,
    pub(super) time_ns: i64,
    pub(super) start_ns: i64,
    pub(super) device: &'a str,
    /// Encoded `KeyValue`s.
    pub(super) attributes: Vec<&'a [u8]>,
    pub(super) origin: usize,
    /// `None` for a histogram.
    pub(super) value: Option<f64>,
    pub(super) temporality: Temporality,
}

/// A record.
#[derive(Clone, Debug, Default)]
pub(super) struct SampleBatch<'a> {
    pub(super) tenant: &'a str,
    pub(super) readings: Vec<Reading<'a>>,
    /// Encoded `Origin`s.
    origins: Vec<&'a [u8]>,
}

fn text<'a>(field: &Field<'a>) -> Result<&'a str, SampleError> {
    std::str::from_utf8(field.bytes()?).map_err(|_| SampleError::BadText)
}

impl<'a> SampleBatch<'a> {
    pub(super) fn read(payload: &'a [u8]) -> Result<Self, SampleError> {
        let mut batch = Self::default();
        for field in Fields::new(payload) {
            let field = field?;
            match field.number {
                1 => batch.readings.push(Reading::read(field.bytes()?)?),
                2 => batch.tenant = text(&field)?,
                3 => batch.origins.push(field.bytes()?),
                _ => {}
            }
        }
        for origin in &batch.origins {
            for attribute in attributes_of(origin) {
                pair(attribute?)?;
            }
        }
        Ok(batch)
    }

    /// The encoded origin of a reading; empty for one that the record does not hold.
    pub(super) fn origin(&self, reading: &Reading<'_>) -> &'a [u8] {
        self.origins.get(reading.origin).copied().unwrap_or_default()
    }

    /// The first of `keys` that the reading or else its resource says, as text.
    pub(super) fn label(&self, reading: &Reading<'a>, keys: &[&str]) -> &'a str {
        let of_reading = keys.iter().find_map(|key| find(reading.attributes.iter().copied(), key));
        of_reading.or_else(|| self.resource(reading, keys)).unwrap_or("")
    }

    /// The first of `keys` that the reading's resource says, as text.
    pub(super) fn resource(&self, reading: &Reading<'_>, keys: &[&str]) -> Option<&'a str> {
        let origin = self.origin(reading);
        keys.iter().find_map(|key| find(attributes_of(origin).filter_map(Result::ok), key))
    }
}

impl<'a> Reading<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, SampleError> {
        let mut reading = Self::default();
        for field in Fields::new(bytes) {
            let field = field?;
            match field.number {
                1 => reading.name = text(&field)?,
                2 => reading.unit = text(&field)?,
                3 => reading.time_ns = field.varint()? as i64,
                4 => reading.start_ns = field.varint()? as i64,
                5 => reading.device = text(&field)?,
                6 => {
                    let attribute = field.bytes()?;
                    pair(attribute)?;
                    reading.attributes.push(attribute);
                }
                7 => reading.origin = usize::try_from(field.varint()?).unwrap_or(usize::MAX),
                8 => reading.value = Some(f64::from_bits(field.fixed64()?)),
                9 => reading.value = Some(field.varint()? as i64 as f64),
                10 => {
                    field.bytes()?;
                    reading.value = None;
                }
                12 => {
                    reading.temporality = match field.varint()? {
                        1 => Temporality::Delta,
                        2 => Temporality::Cumulative,
                        _ => Temporality::Unspecified,
                    };
                }
                _ => {}
            }
        }
        Ok(reading)
    }

    /// The reading's own attribute, as text.
    pub(super) fn attribute(&self, key: &str) -> Option<&'a str> {
        find(self.attributes.iter().copied(), key)
    }
}

/// The resource attributes of an encoded `Origin`.
fn attributes_of(origin: &[u8]) -> impl Iterator<Item = Result<&[u8], WireError>> {
    Fields::new(origin).flat_map(|field| {
        let resource = match field {
            Ok(field) if field.number == 1 => field.bytes(),
            Ok(_) => Ok(&[][..]),
            Err(error) => Err(error),
        };
        let (fields, error) = match resource {
            Ok(resource) => (Fields::new(resource), None),
            Err(error) => (Fields::new(&[]), Some(Err(error))),
        };
        let attributes = fields.filter_map(|field| match field {
            Ok(field) if field.number == 1 => Some(field.bytes()),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        attributes.chain(error)
    })
}

fn find<'a>(mut attributes: impl Iterator<Item = &'a [u8]>, key: &str) -> Option<&'a str> {
    attributes.find_map(|attribute| match pair(attribute) {
        Ok((found, Some(value))) if found == key.as_bytes() && !value.is_empty() => Some(value),
        _ => None,
    })
}

/// Key of an encoded `KeyValue`, and its value where that is text.
fn pair(attribute: &[u8]) -> Result<(&[u8], Option<&str>), SampleError> {
    let (mut key, mut value) = (&[][..], None);
    for field in Fields::new(attribute) {
        let field = field?;
        match field.number {
            1 => key = field.bytes()?,
            2 => {
                value = None;
                for any in Fields::new(field.bytes()?) {
                    let any = any?;
                    if let (1, Value::Bytes(_)) = (any.number, any.value) {
                        value = Some(text(&any)?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok((key, value))
}
