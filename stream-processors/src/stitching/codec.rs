//! Records of `infertrace.requests.v1`: what one source partition saw of requests, and how far its time has come.
//!
//! Protobuf, internal to a release; still additive, since records of the last release are read after an upgrade. Texts
//! that repeat are numbered within a batch. A batch without sightings only moves time, which is the record's time stamp.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use infertrace_analytics::stitch::{Role, Sighting, StitchKey};
use infertrace_runtime::log::{Millis, NewRecord, TopicPartition};
use infertrace_schemas::topics;
use prost::Message;
use xxhash_rust::xxh64::xxh64;

const VERSION: u32 = 1;
/// Bytes of sightings after which a batch is written: a broker takes records of 1 MiB.
const BATCH_BYTES: usize = 256 << 10;

/// One record.
#[derive(Clone, PartialEq, Message)]
struct Batch {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// Texts; number 1 is the first, 0 stands for the empty text.
    #[prost(string, repeated, tag = "2")]
    names: Vec<String>,
    /// An [`Entry`] each. They are written and read one by one, in a place that is used again.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    entries: Vec<Bytes>,
}

/// The tag of [`Batch::entries`].
const ENTRIES: u32 = 3;

/// A sighting under one of its keys.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    /// 1 client, 2 proxy, 3 engine.
    #[prost(uint32, tag = "3")]
    role: u32,
    #[prost(sint64, tag = "4")]
    start_ns: i64,
    #[prost(sint64, tag = "5")]
    duration_ns: i64,
    #[prost(bool, tag = "6")]
    is_error: bool,
    #[prost(bool, tag = "7")]
    has_parent: bool,
    #[prost(uint32, tag = "8")]
    tenant: u32,
    #[prost(uint32, tag = "9")]
    service: u32,
    #[prost(uint32, tag = "10")]
    model: u32,
    #[prost(string, tag = "11")]
    request: String,
    #[prost(uint64, optional, tag = "12")]
    prompt_tokens: Option<u64>,
    /// Whether it stands under its trace rather than under its request id.
    #[prost(bool, tag = "13")]
    is_by_trace: bool,
}

/// Why a record could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SightingsError {
    /// The bytes are no such message.
    #[error("not a batch of sightings: {0}")]
    Wire(#[from] prost::DecodeError),
    /// A newer release wrote it.
    #[error("version {0} of the sightings is newer than this release; upgrade all processors")]
    Version(u32),
    /// A number without a text, an unknown role, an id of another length, a key without an id.
    #[error("a sighting with a bad {0}")]
    Bad(&'static str),
}

/// The sightings of a record, each with the key it stands under.
///
/// # Errors
/// [`SightingsError`], without a panic on any input.
pub fn decode(payload: Bytes) -> Result<Vec<(StitchKey, Sighting)>, SightingsError> {
    let batch = Batch::decode(payload)?;
    if batch.version > VERSION {
        return Err(SightingsError::Version(batch.version));
    }
    let names: Vec<Arc<str>> =
        std::iter::once("".into()).chain(batch.names.iter().map(|name| name.as_str().into())).collect();
    let name = |number: u32| {
        names.get(number as usize).map(Arc::clone).ok_or(SightingsError::Bad("number of a name"))
    };
    let mut sightings = Vec::with_capacity(batch.entries.len());
    let mut entry = Entry::default();
    for bytes in batch.entries {
        entry.clear();
        entry.merge(bytes)?;
        let trace_id = entry.trace_id.as_slice().try_into().map_err(|_| SightingsError::Bad("trace id"))?;
        let request: Arc<str> = entry.request.as_str().into();
        let key = match entry.is_by_trace {
            true => StitchKey::Trace(trace_id),
            false if request.is_empty() => return Err(SightingsError::Bad("request id")),
            false => StitchKey::Request(Arc::clone(&request)),
        };
        let role = match entry.role {
            1 => Role::Client,
            2 => Role::Proxy,
            3 => Role::Engine,
            _ => return Err(SightingsError::Bad("role")),
        };
        let sighting = Sighting {
            start_ns: entry.start_ns,
            trace_id,
            span_id: entry.span_id.as_slice().try_into().map_err(|_| SightingsError::Bad("span id"))?,
            role,
            end_ns: entry.start_ns.saturating_add(entry.duration_ns),
            is_error: entry.is_error,
            has_parent: entry.has_parent,
            tenant: name(entry.tenant)?,
            request,
            service: name(entry.service)?,
            model: name(entry.model)?,
            prompt_tokens: entry.prompt_tokens,
        };
        sightings.push((key, sighting));
    }
    Ok(sightings)
}

#[derive(Debug, Default)]
struct Open {
    names: Vec<String>,
    numbers: HashMap<Arc<str>, u32>,
    /// Encoded, each with its tag and length.
    entries: Vec<u8>,
    names_bytes: usize,
    entry: Entry,
}

impl Open {
    fn number(&mut self, text: &Arc<str>) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        self.names.push(text.to_string());
        self.names_bytes += text.len() + 2;
        let number = self.names.len() as u32;
        self.numbers.insert(Arc::clone(text), number);
        number
    }

    fn push(&mut self, key: &StitchKey, sighting: &Sighting) {
        let (tenant, service) = (self.number(&sighting.tenant), self.number(&sighting.service));
        let model = self.number(&sighting.model);
        let entry = &mut self.entry;
        entry.clear();
        entry.trace_id.extend_from_slice(&sighting.trace_id);
        entry.span_id.extend_from_slice(&sighting.span_id);
        entry.role = match sighting.role {
            Role::Client => 1,
            Role::Proxy => 2,
            Role::Engine => 3,
        };
        entry.start_ns = sighting.start_ns;
        entry.duration_ns = sighting.end_ns.saturating_sub(sighting.start_ns);
        entry.is_error = sighting.is_error;
        entry.has_parent = sighting.has_parent;
        (entry.tenant, entry.service, entry.model) = (tenant, service, model);
        entry.request.push_str(&sighting.request);
        entry.prompt_tokens = sighting.prompt_tokens;
        entry.is_by_trace = matches!(key, StitchKey::Trace(_));
        prost::encoding::message::encode(ENTRIES, entry, &mut self.entries);
    }

    const fn bytes(&self) -> usize {
        self.names_bytes + self.entries.len()
    }

    fn take(&mut self) -> Bytes {
        let names = std::mem::take(&mut self.names);
        self.numbers.clear();
        let mut bytes = Vec::with_capacity(self.bytes() + 16);
        // Encoding into a vector cannot fail: it has room for whatever comes.
        Batch { version: VERSION, names, entries: Vec::new() }.encode_raw(&mut bytes);
        bytes.append(&mut self.entries);
        self.names_bytes = 0;
        bytes.into()
    }
}

/// Collects what one source partition saw, by the partition it belongs to; for stage 1.
///
/// For every span that counts, [`SightingWriter::push`]; with the transaction that moves the source's counted position,
/// [`SightingWriter::records`].
#[derive(Debug)]
pub struct SightingWriter {
    topic: Arc<str>,
    source: u32,
    partitions: Vec<Open>,
    full: Vec<(u32, Bytes)>,
    bytes: usize,
}

impl SightingWriter {
    /// For a source partition, and a topic of `partitions` partitions.
    #[must_use]
    pub fn new(source: u32, partitions: u32) -> Self {
        let partitions = (0..partitions.max(1)).map(|_| Open::default()).collect();
        Self { topic: topics::REQUESTS.into(), source, partitions, full: Vec::new(), bytes: 0 }
    }

    /// Takes a sighting, under each of its keys.
    pub fn push(&mut self, sighting: &Sighting) {
        for key in sighting.keys() {
            let partition = partition_of(&key, self.partitions.len() as u32);
            let open = &mut self.partitions[partition as usize];
            let before = open.bytes();
            open.push(&key, sighting);
            self.bytes += open.bytes() - before;
            if open.bytes() >= BATCH_BYTES {
                self.full.push((partition, open.take()));
            }
        }
    }

    /// Bytes collected, about.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was collected, as records of the source's time; with `is_new_window`, which says that this time entered a
    /// new window, every partition gets one.
    pub fn records(&mut self, watermark: Millis, is_new_window: bool) -> Vec<NewRecord> {
        self.bytes = 0;
        let mut payloads = std::mem::take(&mut self.full);
        for (partition, open) in (0u32..).zip(&mut self.partitions) {
            if is_new_window || !open.entries.is_empty() {
                payloads.push((partition, open.take()));
            }
        }
        let record = |(partition, payload)| NewRecord {
            to: TopicPartition::new(Arc::clone(&self.topic), partition),
            key: Some(self.source.to_string().into()),
            payload: Some(payload),
            headers: Vec::new(),
            timestamp: watermark,
        };
        payloads.into_iter().map(record).collect()
    }
}

/// The partition, of so many, in which everything about a key meets.
#[must_use]
pub fn partition_of(key: &StitchKey, partitions: u32) -> u32 {
    let hash = match key {
        StitchKey::Request(request) => xxh64(request.as_bytes(), 0),
        StitchKey::Trace(trace_id) => xxh64(trace_id, 0),
    };
    (hash % u64::from(partitions.max(1))) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_sighting() -> impl Strategy<Value = Sighting> {
        let role = prop_oneof![Just(Role::Client), Just(Role::Proxy), Just(Role::Engine)];
        let words = ("[a-c]{0,2}", "[a-zé-]{0,9}", "[a-c]{0,2}", "[a-c]{0,2}");
        (
            role,
            any::<[u8; 16]>(),
            any::<[u8; 8]>(),
            any::<(i64, u32)>(),
            any::<[bool; 2]>(),
            words,
            any::<Option<u64>>(),
        )
            .prop_map(
                |(
                    role,
                    trace_id,
                    span_id,
                    (start_ns, length),
                    [is_error, has_parent],
                    words,
                    prompt_tokens,
                )| {
                    let start_ns = start_ns / 2;
                    Sighting {
                        start_ns,
                        trace_id,
                        span_id,
                        role,
                        end_ns: start_ns + i64::from(length),
                        is_error,
                        has_parent,
                        tenant: words.0.into(),
                        request: words.1.into(),
                        service: words.2.into(),
                        model: words.3.into(),
                        prompt_tokens,
                    }
                },
            )
    }

    proptest! {
        /// Scenario: any sightings through a writer for any number of partitions. Guarantee: each comes back once under each of
        /// its keys, in that key's partition; a new window reaches every partition.
        #[test]
        fn sightings_come_back(all in prop::collection::vec(any_sighting(), 0..30), partitions in 1u32..6, is_new_window: bool) {
            let mut writer = SightingWriter::new(7, partitions);
            all.iter().for_each(|sighting| writer.push(sighting));
            let records = writer.records(Millis(5), is_new_window);
            let mut found = Vec::new();
            for record in &records {
                for (key, sighting) in decode(record.payload.clone().expect("a value")).expect("own bytes") {
                    prop_assert_eq!(partition_of(&key, partitions), record.to.partition);
                    found.push((key, sighting));
                }
            }
            let mut expected: Vec<_> = all.iter().flat_map(|one| one.keys().map(|key| (key, one.clone()))).collect();
            expected.sort();
            found.sort();
            prop_assert_eq!(found, expected);
            prop_assert!(!is_new_window || records.len() == partitions as usize);
            prop_assert!(writer.records(Millis(6), false).is_empty());
        }

        /// Scenario: any bytes. Guarantee: an answer, never a panic.
        #[test]
        fn any_bytes_are_decoded_safely(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(bytes.into());
        }
    }

    /// Scenario: more sightings than fit a record. Guarantee: several records, none larger than a broker takes.
    #[test]
    fn batches_are_cut() {
        let mut writer = SightingWriter::new(0, 1);
        let request = "r".repeat(200);
        for number in 0..10_000u64 {
            writer.push(&Sighting {
                start_ns: 0,
                trace_id: [1; 16],
                span_id: number.to_be_bytes(),
                role: Role::Client,
                end_ns: 1,
                is_error: false,
                has_parent: false,
                tenant: "".into(),
                request: request.as_str().into(),
                service: "s".into(),
                model: "m".into(),
                prompt_tokens: None,
            });
        }
        let records = writer.records(Millis(0), false);
        assert!(records.len() > 8);
        assert!(
            records.iter().all(|record| record.payload.as_ref().is_some_and(|value| value.len() < 300 << 10))
        );
        let sightings =
            |record: &NewRecord| decode(record.payload.clone().expect("a value")).expect("own").len();
        assert_eq!(records.iter().map(sightings).sum::<usize>(), 10_000);
    }

    /// Scenario: a batch of a newer release, and damaged entries. Guarantee: each is refused by name.
    #[test]
    fn what_is_not_ours_is_refused() {
        let good = Entry {
            trace_id: vec![1; 16],
            span_id: vec![1; 8],
            role: 1,
            request: "r".to_owned(),
            ..Entry::default()
        };
        let read = |version, entry: Entry| {
            let entries = vec![entry.encode_to_vec().into()];
            decode(Batch { version, names: Vec::new(), entries }.encode_to_vec().into())
        };
        assert!(read(1, good.clone()).is_ok());
        assert_eq!(read(2, good.clone()), Err(SightingsError::Version(2)));
        assert_eq!(read(1, Entry { role: 9, ..good.clone() }), Err(SightingsError::Bad("role")));
        assert_eq!(
            read(1, Entry { trace_id: vec![1], ..good.clone() }),
            Err(SightingsError::Bad("trace id"))
        );
        assert_eq!(
            read(1, Entry { tenant: 5, ..good.clone() }),
            Err(SightingsError::Bad("number of a name"))
        );
        assert_eq!(read(1, Entry { request: String::new(), ..good }), Err(SightingsError::Bad("request id")));
    }
}
