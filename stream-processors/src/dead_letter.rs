//! Poison records: their raw bytes and where they came from.

use bytes::Bytes;
use infertrace_runtime::log::{Millis, NewRecord, Record, TopicPartition};
use infertrace_schemas::topics;

/// Who wrote the dead letter.
const ROLE: &str = "processor";
/// Version of the span record that this reader understands.
const CODEC_VERSION: &str = "1";

/// `record` for the dead-letter topic. Its own headers follow ours.
pub(crate) fn dead_letter(record: &Record, to: TopicPartition, error: &str, timestamp: Millis) -> NewRecord {
    let text = |value: String| Bytes::from(value);
    let mut headers = vec![
        ("infertrace.role".to_owned(), Bytes::from_static(ROLE.as_bytes())),
        ("infertrace.origin.topic".to_owned(), text(record.from.topic.to_string())),
        ("infertrace.origin.partition".to_owned(), text(record.from.partition.to_string())),
        ("infertrace.origin.offset".to_owned(), text(record.offset.0.to_string())),
        ("infertrace.origin.timestamp_ms".to_owned(), text(record.timestamp.0.to_string())),
        ("infertrace.error".to_owned(), text(error.to_owned())),
        ("infertrace.codec_version".to_owned(), Bytes::from_static(CODEC_VERSION.as_bytes())),
    ];
    headers.extend(record.headers.iter().cloned());
    let key = text(format!("{}/{}", record.from, record.offset.0));
    NewRecord { to, key: Some(key), payload: record.payload.clone(), headers, timestamp }
}

/// The offset that a dead letter of this role stands for, if it came from `partition` of the spans topic.
pub(crate) fn origin_of(letter: &Record, partition: u32) -> Option<u64> {
    let header = |name: &str| {
        let (_, value) = letter.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    };
    let ours = header("infertrace.role")? == ROLE && header("infertrace.origin.topic")? == topics::SPANS;
    let same_partition = header("infertrace.origin.partition")?.parse() == Ok(partition);
    if !ours || !same_partition {
        return None;
    }
    header("infertrace.origin.offset")?.parse().ok()
}
