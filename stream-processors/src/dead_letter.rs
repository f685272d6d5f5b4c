//! Poison records: their raw bytes and where they came from.

use infertrace_runtime::log::{
    Millis, NewRecord, Record, TopicPartition,
    dead_letter::{Entry, Reader},
};
use infertrace_schemas::topics;

const READER: Reader = Reader { role: "processor", codec: "infertrace.v1.SpanBatch", codec_version: "1" };

/// `record` for the dead-letter topic. Its own headers follow ours.
pub(crate) fn dead_letter(record: &Record, to: TopicPartition, error: &str, timestamp: Millis) -> NewRecord {
    READER.letter(record, to, error, timestamp)
}

const SAMPLES: Reader =
    Reader { role: "processor", codec: "infertrace.v1.GpuSampleBatch", codec_version: "1" };

/// A record of samples for the dead-letter topic.
pub(crate) fn of_samples(record: &Record, to: TopicPartition, error: &str, timestamp: Millis) -> NewRecord {
    SAMPLES.letter(record, to, error, timestamp)
}

/// The offset that a dead letter of this role stands for, if it came from `partition` of the spans topic.
pub(crate) fn origin_of(letter: &Record, partition: u32) -> Option<u64> {
    let Entry::Letter(letter) = Entry::of(letter) else { return None };
    let (at, offset) = letter.origin;
    let ours = letter.role == READER.role && *at.topic == *topics::SPANS && at.partition == partition;
    ours.then_some(offset.0)
}
