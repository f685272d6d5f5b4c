//! Dead letters: records that a role could not read, moved aside with where they came from and why.
//!
//! A letter has the raw bytes of its record; what is known about it stands in headers, and the record's own headers
//! follow. Letters are never changed. Sending one back (`infertrace dlq redrive`) appends its record to the partition
//! it came from and, in the same transaction, a *receipt* to the dead-letter topic, so that a list shows what was
//! sent back. The record sent back says so in headers; if it fails again, its new letter carries them.
//!
//! Invariants: what is sent back has the bytes, and so the batch id, of the original: readers that had read it drop
//! it as a retry. A letter whose bytes were cut is never sent back.

use bytes::Bytes;

use super::{Millis, NewRecord, Offset, Record, TopicPartition};

const ROLE: &str = "infertrace.role";
const CODEC: &str = "infertrace.codec";
const CODEC_VERSION: &str = "infertrace.codec_version";
const ORIGIN_TOPIC: &str = "infertrace.origin.topic";
const ORIGIN_PARTITION: &str = "infertrace.origin.partition";
const ORIGIN_OFFSET: &str = "infertrace.origin.offset";
const ORIGIN_TIMESTAMP: &str = "infertrace.origin.timestamp_ms";
const ORIGIN_KEY: &str = "infertrace.origin.key";
const ERROR: &str = "infertrace.error";
/// Marks a letter whose payload was cut to fit the dead-letter topic.
pub const TRUNCATED: &str = "infertrace.truncated";
/// On a record sent back: the letter it was, as `topic/partition/offset`. On a receipt: the letter's offset.
const REDRIVEN_FROM: &str = "infertrace.redriven.from";
/// When it was sent back.
const REDRIVEN_AT: &str = "infertrace.redriven.at_ms";
/// Marks a receipt.
const RECEIPT_OF: &str = "infertrace.receipt.of";

const OF_LETTERS: [&str; 9] = [
    ROLE,
    CODEC,
    CODEC_VERSION,
    ORIGIN_TOPIC,
    ORIGIN_PARTITION,
    ORIGIN_OFFSET,
    ORIGIN_TIMESTAMP,
    ORIGIN_KEY,
    ERROR,
];

/// Who moves a record aside, and what it expected to find.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// Role, as in `processor`.
    pub role: &'static str,
    /// What the record should have been, as in `infertrace.v1.SpanBatch`.
    pub codec: &'static str,
    /// Version of it that the role understands.
    pub codec_version: &'static str,
}

impl Reader {
    /// `record` as a dead letter.
    #[must_use]
    pub fn letter(&self, record: &Record, to: TopicPartition, error: &str, timestamp: Millis) -> NewRecord {
        let header = |name: &str, value: String| (name.to_owned(), Bytes::from(value));
        let mut headers = vec![
            header(ROLE, self.role.to_owned()),
            header(CODEC, self.codec.to_owned()),
            header(CODEC_VERSION, self.codec_version.to_owned()),
            header(ORIGIN_TOPIC, record.from.topic.to_string()),
            header(ORIGIN_PARTITION, record.from.partition.to_string()),
            header(ORIGIN_OFFSET, record.offset.0.to_string()),
            header(ORIGIN_TIMESTAMP, record.timestamp.0.to_string()),
            header(ERROR, error.to_owned()),
        ];
        headers.extend(record.key.clone().map(|key| (ORIGIN_KEY.to_owned(), key)));
        headers.extend(record.headers.iter().cloned());
        let key = Bytes::from(format!("{}/{}", record.from, record.offset.0));
        NewRecord { to, key: Some(key), payload: record.payload.clone(), headers, timestamp }
    }
}

/// A letter without its record's bytes, for a dead-letter topic that takes less than the record's own.
#[must_use]
pub fn cut(mut letter: NewRecord) -> NewRecord {
    letter.payload = None;
    letter.headers.push((TRUNCATED.to_owned(), Bytes::from_static(b"true")));
    letter
}

/// A record of the dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A record that a role could not read.
    Letter(Box<Letter>),
    /// Says that the letter at this place was sent back.
    Receipt {
        /// The letter.
        of: Place,
        /// When.
        at: Millis,
    },
    /// Written by something else.
    Foreign,
}

/// A record's place.
pub type Place = (TopicPartition, Offset);

/// One dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Where the letter stands.
    pub place: Place,
    /// When it was written.
    pub timestamp: Millis,
    /// Role that could not read the record.
    pub role: String,
    /// Why.
    pub error: String,
    /// What the role expected, with its version; empty if not said.
    pub codec: String,
    /// Where the record stood.
    pub origin: Place,
    /// The record's own time, if it was noted.
    pub origin_timestamp: Option<Millis>,
    /// The record's own key.
    pub key: Option<Bytes>,
    /// The record's bytes.
    pub payload: Option<Bytes>,
    /// The record's own headers.
    pub headers: Vec<(String, Bytes)>,
    /// Whether bytes of the record are missing.
    pub truncated: bool,
    /// The letter that this record was sent back from before it failed again.
    pub redriven_from: Option<String>,
}

/// Why a letter is not sent back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRedriven {
    /// Bytes are missing.
    #[error("the record was larger than the dead-letter topic takes and was cut; it cannot be sent back")]
    Truncated,
    /// There is nothing to send.
    #[error("the record has no value; there is nothing to send back")]
    NoValue,
    /// The letter names a place that is not there: its headers are mangled, or the topic was removed.
    #[error("there is no {0} to send it back to: the letter is mangled, or the topic was removed")]
    NoOrigin(TopicPartition),
}

impl Entry {
    /// What `record` is.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let text = |name: &str| find(record, name).and_then(|value| std::str::from_utf8(value).ok());
        let place = (record.from.clone(), record.offset);
        if let Some(offset) = text(RECEIPT_OF) {
            return match offset.parse() {
                Ok(offset) => {
                    let at =
                        text(REDRIVEN_AT).and_then(|at| at.parse().ok()).map_or(record.timestamp, Millis);
                    Self::Receipt { of: (record.from.clone(), Offset(offset)), at }
                }
                Err(_) => Self::Foreign,
            };
        }
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        let (Some(topic), Some(partition), Some(offset)) =
            (text(ORIGIN_TOPIC), number(ORIGIN_PARTITION), number(ORIGIN_OFFSET))
        else {
            return Self::Foreign;
        };
        let Ok(partition) = u32::try_from(partition) else { return Self::Foreign };
        let own = |name: &str| !OF_LETTERS.contains(&name) && name != TRUNCATED;
        let codec = [text(CODEC), text(CODEC_VERSION)].into_iter().flatten().collect::<Vec<_>>().join(" ");
        Self::Letter(Box::new(Letter {
            place,
            timestamp: record.timestamp,
            role: text(ROLE).unwrap_or_default().to_owned(),
            error: text(ERROR).unwrap_or_default().to_owned(),
            codec,
            origin: (TopicPartition::new(topic, partition), Offset(offset)),
            origin_timestamp: text(ORIGIN_TIMESTAMP).and_then(|time| time.parse().ok()).map(Millis),
            key: find(record, ORIGIN_KEY).cloned(),
            payload: record.payload.clone(),
            headers: record.headers.iter().filter(|(name, _)| own(name)).cloned().collect(),
            truncated: find(record, TRUNCATED).is_some(),
            redriven_from: text(REDRIVEN_FROM).map(str::to_owned),
        }))
    }
}

fn find<'r>(record: &'r Record, name: &str) -> Option<&'r Bytes> {
    record.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

impl Letter {
    /// The letter's name, as in `infertrace.dlq.v1/0/17`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.place.0, self.place.1.0)
    }

    /// The record for its old partition, and the receipt for the dead-letter topic: one transaction.
    ///
    /// The record is stamped `now`, since it arrives now: its spans have their own times.
    ///
    /// # Errors
    /// [`NotRedriven`].
    pub fn redrive(&self, now: Millis) -> Result<[NewRecord; 2], NotRedriven> {
        if self.truncated {
            return Err(NotRedriven::Truncated);
        }
        if self.payload.is_none() {
            return Err(NotRedriven::NoValue);
        }
        let at = (REDRIVEN_AT.to_owned(), Bytes::from(now.0.to_string()));
        let mut headers = self.headers.clone();
        headers.retain(|(name, _)| name != REDRIVEN_AT && name != REDRIVEN_FROM);
        headers.push((REDRIVEN_FROM.to_owned(), Bytes::from(self.name())));
        headers.push(at.clone());
        let record = NewRecord {
            to: self.origin.0.clone(),
            key: self.key.clone(),
            payload: self.payload.clone(),
            headers,
            timestamp: now,
        };
        let receipt = NewRecord {
            to: self.place.0.clone(),
            key: Some(Bytes::from(format!("{}/{}", self.origin.0, self.origin.1.0))),
            payload: None,
            headers: vec![(RECEIPT_OF.to_owned(), Bytes::from(self.place.1.0.to_string())), at],
            timestamp: now,
        };
        Ok([record, receipt])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READER: Reader = Reader { role: "processor", codec: "infertrace.v1.SpanBatch", codec_version: "1" };

    fn stored(new: NewRecord, offset: u64) -> Record {
        Record {
            from: new.to,
            offset: Offset(offset),
            timestamp: new.timestamp,
            key: new.key,
            payload: new.payload,
            headers: new.headers,
        }
    }

    fn poison() -> Record {
        Record {
            from: TopicPartition::new("spans", 3),
            offset: Offset(41),
            timestamp: Millis(1_000),
            key: Some(Bytes::from_static(b"key")),
            payload: Some(Bytes::from_static(b"\xff\x00")),
            headers: vec![("tenant".to_owned(), Bytes::from_static(b"a"))],
        }
    }

    fn letter_of(record: &Record, offset: u64) -> Letter {
        let new = READER.letter(record, TopicPartition::new("dlq", 0), "not a span batch", Millis(2_000));
        match Entry::of(&stored(new, offset)) {
            Entry::Letter(letter) => *letter,
            other => panic!("{other:?} is no letter"),
        }
    }

    /// Scenario: a record is moved aside, sent back, fails again and is moved aside once more.
    /// Guarantee: the letter knows origin, time, key, bytes and headers; what goes back has them all, to the same
    /// partition, and says which letter it was; the receipt points to the letter; the second letter remembers.
    #[test]
    fn a_record_goes_back_as_it_was_and_leaves_a_receipt() {
        let letter = letter_of(&poison(), 7);
        assert_eq!(letter.origin, (TopicPartition::new("spans", 3), Offset(41)));
        assert_eq!(letter.origin_timestamp, Some(Millis(1_000)));
        assert_eq!((letter.role.as_str(), letter.error.as_str()), ("processor", "not a span batch"));
        assert_eq!(letter.codec, "infertrace.v1.SpanBatch 1");
        assert_eq!(letter.headers, poison().headers);
        let [back, receipt] = letter.redrive(Millis(5_000)).expect("goes back");
        assert_eq!(back.to, poison().from);
        assert_eq!((back.key.clone(), back.payload.clone()), (poison().key, poison().payload));
        let receipt = Entry::of(&stored(receipt, 8));
        assert_eq!(receipt, Entry::Receipt { of: letter.place.clone(), at: Millis(5_000) });
        let again = letter_of(&stored(back, 60), 9);
        assert_eq!(again.redriven_from.as_deref(), Some("dlq/0/7"));
        let [back, _] = again.redrive(Millis(6_000)).expect("goes back");
        assert_eq!(back.headers.iter().filter(|(name, _)| name == REDRIVEN_FROM).count(), 1);
    }

    /// Scenario: a letter that was cut, one without a value, and records of others in the topic.
    /// Guarantee: the first two are not sent back and say why; the others are told apart without a panic.
    #[test]
    fn what_cannot_go_back_says_why() {
        let mut cut = poison();
        cut.headers.push((TRUNCATED.to_owned(), Bytes::from_static(b"true")));
        assert_eq!(letter_of(&cut, 1).redrive(Millis(0)).err(), Some(NotRedriven::Truncated));
        let empty = Record { payload: None, ..poison() };
        assert_eq!(letter_of(&empty, 1).redrive(Millis(0)).err(), Some(NotRedriven::NoValue));
        assert_eq!(Entry::of(&poison()), Entry::Foreign);
        let mut odd = poison();
        odd.headers = vec![(RECEIPT_OF.to_owned(), Bytes::from_static(b"x"))];
        assert_eq!(Entry::of(&odd), Entry::Foreign);
        odd.headers = vec![
            (ORIGIN_TOPIC.to_owned(), Bytes::from_static(b"t")),
            (ORIGIN_PARTITION.to_owned(), Bytes::from_static(b"-1")),
            (ORIGIN_OFFSET.to_owned(), Bytes::from_static(b"1")),
        ];
        assert_eq!(Entry::of(&odd), Entry::Foreign);
    }
}
