//! Avro records of the topics that others subscribe to: traces, rollups, baselines, insights.
//!
//! Every value has the Confluent wire format, `0x00`, a 4-byte big-endian schema id, the Avro body, so the same
//! consumer code works with and without a schema registry. With a registry, [`SchemaIds`] holds the ids it gave.
//! Without one, the id is [`embedded_id`]: the low 31 bits of the schema's CRC-64-AVRO fingerprint with the top bit
//! set. Registries hand out positive 32-bit integers, so the two never meet, and a consumer without a
//! registry skips five bytes and reads with the `.avsc` file that ships with the release. Every version that was ever
//! written is kept in `schemas/avro/former` and read as well. Without a registry, readers are upgraded before writers: an
//! embedded id that a reader does not know is an error.
//!
//! Invariants: evolution is additive (a new field has a default, an enum has a default symbol); decoding
//! resolves the writer's schema against ours and never guesses an unknown id. An id that a registry gave after the start
//! is learnt by who meets it ([`SchemaIds::learn_of`]), once a process.

mod encode;
mod links;
mod records;
mod registered;
mod summary;
mod triage;

#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use apache_avro::{Schema, from_avro_datum, from_value, rabin::Rabin, to_value};
use serde::{Serialize, de::DeserializeOwned};

pub use links::{LinkMember, RequestLink};
pub use records::{
    Baseline, Cause, Evidence, Exemplar, Insight, InsightState, Recommendation, Rollup, Severity, Sketch,
};
pub use registered::{SchemaSource, SchemaText, Subject, subjects, use_registered};
pub use summary::{
    ClockShift, Importance, PathSegment, ServiceEdge, ServiceUse, SourceRange, SpanStatus, StageTime,
    SummaryHead, TraceSummary, read_summary_head, write_trace_summary,
};
pub use triage::{Standing, Triage, TriageStatus};

const MAGIC: u8 = 0;
const HEADER: usize = 5;
/// The bit that marks ids of our own, which no registry gives.
const OWN: u32 = 0x8000_0000;

/// Why a value could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum AvroError {
    /// Shorter than its header, or another magic byte.
    #[error("not in the Confluent wire format")]
    NotFramed,
    /// The writer's schema is not known here: newer than this build, and no registry that tells it.
    #[error("unknown schema id {:#010x}: {}", .0, advice(*.0))]
    UnknownSchema(u32),
    /// Likewise, and this is what the registry said.
    #[error("unknown schema id {id:#010x}: {detail}")]
    NotLearnt {
        /// Id that the value names.
        id: u32,
        /// Why its schema is not known.
        detail: String,
    },
    /// The body does not fit its schema.
    #[error("bad avro body: {0}")]
    Body(#[from] Box<apache_avro::Error>),
    /// A record of ours has a type that our schemas do not use.
    #[error("cannot write {0}")]
    Unsupported(String),
    /// The body is followed by more bytes.
    #[error("{0} bytes after the avro body")]
    Trailing(usize),
}

/// What to do about an id that is not known.
const fn advice(id: u32) -> &'static str {
    if id & OWN == 0 {
        "a schema registry gave it; name that registry in [schema_registry]"
    } else {
        "a release wrote it that is newer than this one; upgrade readers before writers"
    }
}

impl From<apache_avro::Error> for AvroError {
    fn from(error: apache_avro::Error) -> Self {
        Self::Body(Box::new(error))
    }
}

/// A record type with a schema of ours.
pub trait AvroRecord: Serialize + DeserializeOwned {
    /// The schema this build writes and reads.
    fn schema() -> &'static EmbeddedSchema;
}

/// A schema compiled into the program.
#[derive(Debug)]
pub struct EmbeddedSchema {
    /// The `.avsc` text, as a registry takes it.
    pub text: &'static str,
    /// Parsed.
    pub schema: Schema,
    /// Its id where no registry gave one.
    pub id: u32,
    /// Versions that earlier releases wrote, by their ids, oldest first.
    pub former: Vec<(u32, Schema)>,
}

impl EmbeddedSchema {
    fn new(text: &'static str, former: &[&str]) -> Self {
        let parse = |text: &str| Schema::parse_str(text).expect("an embedded schema is valid");
        let schema = parse(text);
        let former = former.iter().map(|text| parse(text)).map(|schema| (embedded_id(&schema), schema));
        Self { text, id: embedded_id(&schema), former: former.collect(), schema }
    }
}

/// A schema as a registry returns it.
///
/// # Errors
/// [`AvroError::Body`] when it is none.
pub fn parse_schema(text: &str) -> Result<Schema, AvroError> {
    Ok(Schema::parse_str(text)?)
}

/// The schema id used where no registry is configured.
#[must_use]
pub fn embedded_id(schema: &Schema) -> u32 {
    let fingerprint = schema.fingerprint::<Rabin>().bytes;
    let low = fingerprint.first_chunk::<4>().copied().unwrap_or_default();
    u32::from_le_bytes(low) | OWN
}

/// A record type's current schema, and those of the same topic that it came after.
macro_rules! embedded {
    ($($record:ty => $file:literal after [$($former:literal),*]),+ $(,)?) => {$(
        impl AvroRecord for $record {
            fn schema() -> &'static EmbeddedSchema {
                static SCHEMA: LazyLock<EmbeddedSchema> = LazyLock::new(|| {
                    let former = [$(include_str!(concat!("../../avro/former/", $former))),*];
                    EmbeddedSchema::new(include_str!(concat!("../../avro/", $file)), &former)
                });
                &SCHEMA
            }
        }
    )+};
}

embedded! {
    TraceSummary<'static> => "trace_summary.v1.avsc" after ["trace_summary.v1.1.avsc", "trace_summary.v1.2.avsc"],
    Rollup => "rollup.v1.avsc" after ["rollup.v1.1.avsc", "rollup.v1.2.avsc"],
    Baseline => "baseline.v1.avsc" after [],
    Insight => "insight.v1.avsc" after [],
    RequestLink => "request_link.v1.avsc" after [],
    Triage => "triage.v1.avsc" after [],
}

/// Writers' schemas by id, and the id to write one record type with. Clones learn together.
#[derive(Clone)]
pub struct SchemaIds {
    write: u32,
    known: Arc<RwLock<Vec<(u32, Arc<Schema>)>>>,
    source: Option<Arc<dyn SchemaSource>>,
}

impl std::fmt::Debug for SchemaIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchemaIds").field("write", &self.write).finish_non_exhaustive()
    }
}

impl SchemaIds {
    /// Without a registry: the embedded schema and its former versions under their embedded ids.
    #[must_use]
    pub fn embedded<R: AvroRecord>() -> Self {
        Self::of(R::schema())
    }

    /// Adds a writer's schema, as a registry returned it.
    pub fn learn(&self, id: u32, schema: Schema) {
        // A panic of another holder leaves a list that is whole.
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(known, _)| *known != id);
        known.push((id, Arc::new(schema)));
    }

    fn writer(&self, id: u32) -> Option<Arc<Schema>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(known, _)| *known == id).map(|(_, schema)| Arc::clone(schema))
    }

    /// Writes with the id that a registry gave to the embedded schema.
    pub fn write_with<R: AvroRecord>(&mut self, id: u32) {
        self.write_as(id, R::schema());
    }

    /// The id that values are written with.
    #[must_use]
    pub const fn write_id(&self) -> u32 {
        self.write
    }

    /// Encodes `record`.
    ///
    /// # Errors
    /// [`AvroError::Body`] when the record does not fit its schema.
    pub fn encode<R: AvroRecord>(&self, record: &R) -> Result<Vec<u8>, AvroError> {
        let schema = &R::schema().schema;
        let value = to_value(record)?.resolve(schema)?;
        let mut out = Vec::with_capacity(512);
        put_header(&mut out, self.write);
        encode::put_value(&mut out, &value)?;
        Ok(out)
    }

    /// Decodes a value written with any known schema.
    ///
    /// # Errors
    /// [`AvroError`], without a panic on any input.
    pub fn decode<R: AvroRecord>(&self, value: &[u8]) -> Result<R, AvroError> {
        let (id, body) = split(value)?;
        let writer = self.writer(id).ok_or(AvroError::UnknownSchema(id))?;
        decode_body(&writer, &R::schema().schema, body)
    }
}

/// Appends the Confluent header.
pub fn put_header(out: &mut Vec<u8>, id: u32) {
    out.push(MAGIC);
    out.extend_from_slice(&id.to_be_bytes());
}

/// Schema id and body of a value.
///
/// # Errors
/// [`AvroError::NotFramed`].
pub fn split(value: &[u8]) -> Result<(u32, &[u8]), AvroError> {
    match value.split_first_chunk::<HEADER>() {
        Some((&[MAGIC, a, b, c, d], body)) => Ok((u32::from_be_bytes([a, b, c, d]), body)),
        _ => Err(AvroError::NotFramed),
    }
}

fn decode_body<T: DeserializeOwned>(
    writer: &Schema,
    reader: &Schema,
    mut body: &[u8],
) -> Result<T, AvroError> {
    let resolved = from_avro_datum(writer, &mut body, Some(reader))?;
    if !body.is_empty() {
        return Err(AvroError::Trailing(body.len()));
    }
    Ok(from_value(&resolved)?)
}
